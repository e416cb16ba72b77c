# SPDX-License-Identifier: Apache-2.0
"""From the kernel's events to numpy arrays: probe what works, load the programs, read the rings, count every
loss.
"""
