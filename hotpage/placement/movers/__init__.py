# SPDX-License-Identifier: Apache-2.0
"""One file per mover: each carries a plan out and says what became of every page of it (outcome.py)."""
