# SPDX-License-Identifier: Apache-2.0
"""The lab behind scripts/lab: emulated machines with the memory nodes that hotpage is made for.

    kernels     the supported kernels, and where their images come from
    topologies  nodes, distances and speeds of a machine, read from topologies/NAME.toml
    guest       one emulated machine: boots, runs one command, and is gone afterwards
    cli         scripts/lab

docs/lab.md says what a guest can tell and what not.
"""
