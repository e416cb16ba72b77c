# SPDX-License-Identifier: Apache-2.0
"""The lines above the table: can the numbers be believed, how full is each tier, what is hot."""

from __future__ import annotations

from collections.abc import Iterator

from rich.text import Text

from hotpage.machine.proc import printable
from hotpage.profile.live.view import LiveTier, LiveView
from hotpage.profile.snapshot import SourceCounts
from hotpage.profile.threshold import HeatClass
from hotpage.views import units
from hotpage.views.top.columns import ALERT, FAINT, HEAT_STYLES, STRONG
from hotpage.views.top.feed import WAITS, Status

_LABEL = 9
_MOST_TIERS = 4
_BAR_LEAST = 12


def header_lines(
    view: LiveView | None, status: Status, width: int, unicode: bool = True, frozen: bool = False
) -> list[Text]:
    """The header, styled, at most ``width`` wide; its height depends on the number of tiers only."""
    if view is None:
        return [
            _cut(Text.assemble(("hotpage top", STRONG), "  starting: compiling and attaching ..."), width)
        ]
    lines = [_first(view, status, width, unicode, frozen)]
    lines += [_tier(tier, view, width, unicode) for tier in view.tiers[:_MOST_TIERS]]
    lines += [_heat(view, width), _accesses(view, status, width), _events(view, status, width)]
    return [_cut(line, width) for line in lines]


def header_height(view: LiveView | None) -> int:
    """Lines of the header."""
    return 4 + min(len(view.tiers), _MOST_TIERS) if view is not None else 1


def _first(view: LiveView, status: Status, width: int, unicode: bool, frozen: bool) -> Text:
    line = Text.assemble(
        ("hotpage top", STRONG), "  ", printable(f"{view.run.target} on {view.run.hostname}")
    )
    right = Text()
    if view.end is not None:
        right.append(f"ended: {view.end.status}  ", ALERT)
    if frozen:
        right.append("FROZEN  ", "bold #ffc14d")
    if status.recording is not None:
        sign = "●" if unicode else "*"
        right.append(f"{sign} recording {units.seconds(status.recorded_s)}  ", ALERT)
    right.append(units.seconds(round(view.time_s)), FAINT)
    room = width - right.cell_len - 1
    if line.cell_len > room:
        line = Text(units.shorten(line.plain, max(room, 11), "…" if unicode else "~"))
        line.stylize(STRONG, 0, 11)
    return line + Text(" " * max(width - line.cell_len - right.cell_len, 1)) + right


def _tier(tier: LiveTier, view: LiveView, width: int, unicode: bool) -> Text:
    nodes = ",".join(str(node.node) for node in tier.nodes)
    line = _labelled(f"tier {tier.tier}")
    facts = Text()
    facts.append(f" {units.size(tier.used_bytes):>5} of {units.size(tier.total_bytes)}")
    facts.append("  hot ", FAINT)
    facts.append(units.size(tier.hot_bytes), HEAT_STYLES[HeatClass.HOT] if tier.hot_bytes else FAINT)
    if view.has_tiers:
        every = sum(one.accesses_per_s for one in view.tiers)
        share = tier.accesses_per_s / every if every else float("nan")
        facts.append("  accesses ", FAINT)
        facts.append(units.percent(share))
    line.append(f"node {nodes} ", FAINT)
    room = max(width - len(line) - len(facts) - 2, _BAR_LEAST)
    line.append("[", FAINT)
    line.append_text(_bar(tier, min(room, 60), unicode))
    line.append("]", FAINT)
    return line + facts


def _bar(tier: LiveTier, width: int, unicode: bool) -> Text:
    """Hot memory of the targets, the rest of theirs, other memory in use, free memory."""
    full, rest, other = ("█", "▓", "░") if unicode else ("#", "+", "-")
    bar, at = Text(), 0
    resident = max(tier.resident_bytes, tier.hot_bytes)
    for upto, sign, style in (
        (tier.hot_bytes, full, HEAT_STYLES[HeatClass.HOT]),
        (resident, rest, HEAT_STYLES[HeatClass.COLD]),
        (max(tier.used_bytes, resident), other, FAINT),
        (tier.total_bytes, " ", ""),
    ):
        cells = min(round(width * upto / max(tier.total_bytes, 1)), width) - at
        if upto == tier.hot_bytes and upto and not cells:
            cells = 1
        bar.append(sign * max(cells, 0), style)
        at += max(cells, 0)
    return bar + Text(" " * (width - at))


def _heat(view: LiveView, width: int) -> Text:
    heat = view.total
    parts = [
        (0, _fact(kind.name.lower(), units.size(count), HEAT_STYLES[kind] if count else FAINT))
        for kind, count in (
            (HeatClass.HOT, heat.hot_bytes),
            (HeatClass.WARM, heat.warm_bytes),
            (HeatClass.COLD, heat.cold_bytes),
            (HeatClass.UNKNOWN, heat.unknown_bytes),
        )
    ]
    if view.has_tiers:
        misplaced = units.size(heat.misplaced_bytes)
        parts.append((0, _fact("mispl", misplaced, ALERT if heat.misplaced_bytes else FAINT)))
    if heat.accesses_per_s:
        hot_hz = units.rate(view.threshold.hot_hz)
        parts.append((1, _fact("hot >", f"{hot_hz}/s", "")))
        parts.append((2, Text(f"a page: {view.threshold.rule}", FAINT)))
    return _line("memory", parts, width)


def _accesses(view: LiveView, status: Status, width: int) -> Text:
    heat = view.total
    parts = [(0, Text(f"{units.rate(heat.accesses_per_s)}/s"))]
    if heat.accesses_per_s:
        parts.append((1, Text(f"±{units.error(heat.relative_error)}", FAINT)))
    if view.has_tiers:
        parts.append((0, _fact("fast tier", units.percent(view.fast_share), "")))
    parts.append((0, _fact("arming", status.arming, "" if view.run.sees_rates else ALERT)))
    if view.run.armed:
        parts.append((1, _fact("slows targets", units.percent(status.target_cost_percent / 100), "")))
    if status.kernel_moves_per_s is not None:
        promoted, demoted = map(units.rate, status.kernel_moves_per_s)
        parts.append((2, _fact("kernel promotes", f"{promoted}/s", "")))
        parts.append((2, _fact("demotes", f"{demoted}/s", "")))
    if not view.run.sees_rates:
        parts.append((1, Text("no rates can arrive: start top with --arm", ALERT)))
    elif status.recording_problem:
        parts.append((1, Text(printable(status.recording_problem), ALERT)))
    return _line("accesses", parts, width)


def _events(view: LiveView, status: Status, width: int) -> Text:
    recent = view.recent
    parts = []
    for counts in view.usage.sources:
        latest = next((one for one in recent.sources if one.source == counts.source), SourceCounts("", 0))
        per_s = latest.received / recent.window_s if recent.window_s else 0.0
        parts.append((0, _fact(counts.source, f"{counts.received:,}", "")))
        parts.append((3, Text(f"{units.rate(per_s)}/s", FAINT)))
    lost = sum(counts.lost for counts in view.usage.sources)
    emitted = lost + view.usage.received
    share = f" ({units.percent(lost / emitted)})" if lost else ""
    parts.append((0, _fact("lost", f"{lost:,}{share}", ALERT if lost else "")))
    if status.kept_one_in > 1:
        parts.append((0, Text(f"1 in {status.kept_one_in} kept", "#ffc14d")))
    own = recent.own_cpu_s / recent.window_s if recent.window_s else float("nan")
    parts.append((0, _fact("own CPU", units.percent(own), "")))
    if recent.bpf_s is not None and recent.window_s:
        parts.append((2, _fact("BPF", units.percent(recent.bpf_s / recent.window_s), "")))
    return _line("events", parts, width)


def notes(view: LiveView | None, status: Status) -> Iterator[str]:
    """What could not be had, for the help screen."""
    if view is not None:
        yield from view.run.advice
    if status.arming == WAITS:
        yield (
            "arming waits until its cost and hotpage's own CPU time are within the budget: give a higher "
            "--budget, a longer -d, or fewer targets"
        )
    yield from status.notes
    if status.recording_problem:
        yield status.recording_problem


def _fact(label: str, value: str, style: str) -> Text:
    return Text.assemble((f"{label} ", FAINT), (value, style))


def _line(label: str, parts: list[tuple[int, Text]], width: int) -> Text:
    """As many of the parts as there is room for; those of the highest rank go first."""
    kept = parts
    while sum(len(text) + 1 for _, text in kept) > width - _LABEL + 1 and (last := max(r for r, _ in kept)):
        kept = [part for part in kept if part[0] != last]
    return _labelled(label) + Text(" ").join(text for _, text in kept)


def _labelled(label: str) -> Text:
    return Text.assemble((f"{label:<{_LABEL}}", STRONG))


def _cut(line: Text, width: int) -> Text:
    line.truncate(width)
    return line
