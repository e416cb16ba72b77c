# SPDX-License-Identifier: Apache-2.0
"""Placement: from heat to a plan of moves, and from a plan to pages that verifiably moved.

profile snapshot --> situation.py   candidates: every page's rate and node, one entry per folio
                          |
history.py, budget.py --> policies/      pure: situation, aim -> plan (plan.py), the reasons for the rest
                          |
                     movers/        carry a plan out; requested = moved + already there + each failure
"""
