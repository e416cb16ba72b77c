# SPDX-License-Identifier: Apache-2.0
"""``all``: whatever may move does, hot or not: for pages that somebody has chosen already."""

from __future__ import annotations

import numpy as np

from hotpage.placement.choosing import Choice
from hotpage.placement.plan import Aim, Fate, Plan, Situation
from hotpage.placement.selecting import demote_all, fill_all, within

REASONS = "chosen", "chosen"


def plan(situation: Situation, aim: Aim) -> Plan:
    """Promote all candidates of known rate, in the order of their addresses, as far as there is free room.

    Nothing is demoted for them. Without ``promote`` in the aim: demote all.
    """
    choice = Choice(situation, aim)
    fast, slow = choice.known(choice.places.fast), choice.known(choice.places.slow)
    choice.fate[fast if aim.promote else slow] = Fate.IN_PLACE
    if aim.promote:
        fill_all(choice, within(choice, slow), np.empty(0, np.int64), None)
    else:
        demote_all(choice, fast)
    return choice.plan("all", REASONS, knows_hot=False)
