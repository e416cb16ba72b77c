# SPDX-License-Identifier: Apache-2.0
"""``fit``: the hottest pages that fit fast memory go there, where a move is worth what it costs."""

from __future__ import annotations

from hotpage.placement.choosing import Choice
from hotpage.placement.gate import Gate
from hotpage.placement.plan import Aim, Fate, Plan, Situation
from hotpage.placement.ranking import coldest_first, hottest_first, key_rate_hz
from hotpage.placement.selecting import fill_all, heed_ceilings, swap_at_ceilings, swap_at_floors, within

REASONS = "makes room for hotter pages", "among the hottest that fit"


def plan(situation: Situation, aim: Aim) -> Plan:
    """Fit the hot set to the fast tier (docs/placement.md, "fit").

    Heeds all of the aim but ``free_bytes`` and ``demote``: it demotes what promotions and the headroom need,
    the coldest first.
    """
    choice, could_be_better = _choose(situation, aim, look_at_all=False)
    if could_be_better:
        choice, _ = _choose(situation, aim, look_at_all=True)
    return choice.plan("fit", REASONS)


def _choose(situation: Situation, aim: Aim, look_at_all: bool) -> tuple[Choice, bool]:
    """The choice among the likely victims or all, and whether others could make a difference."""
    choice = Choice(situation, aim)
    named = choice.key_of_aim()
    hot_key = choice.capacity_key() if named is None else named
    least_key = max(hot_key, choice.least_key())
    likely, surely = choice.victim_keys(least_key)
    hot, cold = choice.classify(hot_key, least_key, surely if look_at_all else likely, Fate.NOT_WORTH_IT)
    gate = Gate(situation, choice.places.slow, choice.gaps_ns, choice.census.weight)
    least_hz = key_rate_hz(least_key if named is not None else choice.least_key())
    hot = choice.drop(hot, gate.is_cooling(hot, choice.key, hot_key, least_hz), Fate.COOLING)
    if aim.can_wait:
        hot = choice.drop(hot, ~gate.is_hot_for_sure(hot, choice.key, hot_key), Fate.UNCERTAIN)
    hot, cold = within(choice, hottest_first(hot, choice.key)), coldest_first(cold, choice.key)
    heed_ceilings(choice)
    hot = swap_at_ceilings(choice, hot, gate)
    cold = choice.unmoved(cold)
    left = fill_all(choice, hot, cold, gate)
    swap_at_floors(choice, left, gate)
    choice.excuse(choice.unmoved(left), cold, gate)
    return choice, choice.ran_short and likely < surely
