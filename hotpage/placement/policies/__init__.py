# SPDX-License-Identifier: Apache-2.0
"""One file per policy: a pure function ``plan(situation, aim) -> Plan`` under the file's name."""

from __future__ import annotations

import pkgutil
from collections.abc import Callable
from importlib import import_module

from hotpage.errors import UsageError
from hotpage.placement.plan import Aim, Plan, Situation

Policy = Callable[[Situation, Aim], Plan]


def names() -> list[str]:
    """The policies that there are."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def policy(name: str) -> Policy:
    """The policy of that name. Raises UsageError."""
    if name not in names():
        raise UsageError(f"there is no policy '{name}'", f"choose from {', '.join(names())}")
    found: Policy = import_module(f"{__name__}.{name}").plan
    return found
