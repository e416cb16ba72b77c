# SPDX-License-Identifier: Apache-2.0
"""``threshold``: fixed rates, for experts: what is hotter goes up, what is an octave colder may go down."""

from __future__ import annotations

import numpy as np

from hotpage.placement.choosing import Choice
from hotpage.placement.plan import Aim, Plan, Situation
from hotpage.placement.ranking import coldest_first, hottest_first
from hotpage.placement.selecting import demote_all, fill_all, within

REASONS = "below the threshold", "above the threshold"


def plan(situation: Situation, aim: Aim) -> Plan:
    """Move by the aim's ``hot_rate_hz`` or ``hot_bytes``, else by what fits; no benefit or certainty asked.

    With ``promote`` alone, cold pages are demoted as far as promotions need their room; with ``demote``, all
    of them. ``most_bytes`` is the most that goes each way.
    """
    choice = Choice(situation, aim)
    named = choice.key_of_aim()
    hot, cold = choice.classify(choice.capacity_key() if named is None else named)
    cold = coldest_first(cold, choice.key)
    if aim.demote:
        demote_all(choice, cold)
        cold = np.empty(0, np.int64)
    if aim.promote:
        fill_all(choice, within(choice, hottest_first(hot, choice.key)), cold, None)
    return choice.plan("threshold", REASONS)
