# SPDX-License-Identifier: Apache-2.0
"""``random``: what a policy has to beat: pages drawn by lot, as many bytes as allowed."""

from __future__ import annotations

import numpy as np

from hotpage.placement.choosing import Choice
from hotpage.placement.plan import Aim, Plan, Situation
from hotpage.placement.selecting import fill_all, within

REASONS = "drawn by lot", "drawn by lot"


def plan(situation: Situation, aim: Aim) -> Plan:
    """Promote pages of known rate drawn by lot up to ``most_bytes``, against victims drawn by lot.

    The aim's ``seed`` decides: same seed, same plan.
    """
    choice = Choice(situation, aim)
    lot = np.random.default_rng(aim.seed)
    up = lot.permutation(choice.known(choice.places.slow))
    down = lot.permutation(choice.known(choice.places.fast))
    fill_all(choice, within(choice, up), down, None)
    return choice.plan("random", REASONS, knows_hot=False)
