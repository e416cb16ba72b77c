# SPDX-License-Identifier: Apache-2.0
"""Which rung of each source to take: the best one that works here and goes together with the others."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from hotpage.capture.kernel import Kernel
from hotpage.capture.sources import Rung, ladders
from hotpage.errors import UnsupportedError, UsageError


def choose_rungs(
    names: Iterable[str], kernel: Kernel, forced: Mapping[str, str] | None = None
) -> tuple[dict[str, Rung], dict[str, str]]:
    """The best rung that works for each source, and for each source without one, why.

    ``forced`` names the rung to take for a source. Raises UsageError for names that do not exist, and for two
    rungs that would count each fault twice; UnsupportedError where a rung so named does not work.
    """
    wanted = dict(forced or {})
    chosen: dict[str, Rung] = {}
    refused: dict[str, str] = {}
    # Rungs insisted on first: one that sees the faults of all sources decides for the others.
    names = list(dict.fromkeys(names))
    for name in sorted(names, key=lambda name: name not in wanted):
        rung, why_not = _choose_rung(name, kernel, wanted.get(name), list(chosen.values()))
        if rung is not None:
            chosen[name] = rung
        elif name in wanted:
            raise UnsupportedError(
                f"source '{name}' does not work as named ({why_not})", "name another rung, or none"
            )
        else:
            refused[name] = why_not
    return {name: chosen[name] for name in names if name in chosen}, refused


def _choose_rung(
    name: str, kernel: Kernel, wanted: str | None, others: list[Rung]
) -> tuple[Rung | None, str]:
    """A source's best rung that works and goes together with ``others``, else the reasons against each."""
    known = ladders()
    if name not in known:
        raise UsageError(f"unknown source '{name}'", f"choose from {', '.join(sorted(known))}")
    rungs = known[name].rungs(kernel)
    if wanted is not None:
        wanted, _, parameters = wanted.partition(":")
        if parameters or any(rung.at_addresses for rung in rungs if rung.name == wanted):
            rungs = [_at_addresses(rung, parameters) if rung.name == wanted else rung for rung in rungs]
    if wanted is not None and wanted not in [rung.name for rung in rungs]:
        raise UsageError(
            f"source '{name}' has no rung '{wanted}'", "choose from " + ", ".join(rung.name for rung in rungs)
        )
    candidates = [rung for rung in rungs if (rung.name == wanted if wanted else not rung.only_by_name)]
    reasons: list[tuple[str, str]] = []
    for rung in candidates:
        clashing = [other.name for other in others if rung.clashes_with(other)]
        if clashing and wanted is not None:
            raise UsageError(
                f"the rungs '{clashing[0]}' and '{wanted}' see the same faults", "name one of them"
            )
        if clashing:
            reason: str | None = "another source sees the same faults"
        else:
            reason = kernel.failures.get((name, rung.name)) or known[name].refusal(rung, kernel)
        if reason is None:
            return rung, ""
        reasons.append((rung.name, reason))
    if not any(rung.attachments for rung in candidates):  # the machine lacks what all of them stand on
        return None, "; ".join(dict.fromkeys(reason for _, reason in reasons))
    return None, "; ".join(f"{rung}: {reason}" for rung, reason in reasons)


def _at_addresses(rung: Rung, parameters: str) -> Rung:
    if rung.at_addresses is None:
        raise UsageError(f"the rung '{rung.name}' takes no addresses", f"leave out ':{parameters}'")
    try:
        addresses = tuple(int(word, 0) for word in parameters.split(":") if word)
    except ValueError:
        raise UsageError(f"'{parameters}' are not addresses", "write NAME:0x7f...:0x7f...") from None
    return rung.at_addresses(addresses)
