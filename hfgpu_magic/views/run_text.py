"""A `RunReport` as text for a terminal."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Final

from ..units import format_bytes, format_seconds
from ..virtual.report import DeviceUse, RunReport
from ._bars import CACHED, CONTEXT, FREE, Part, cells, device_parts, parts, share
from ._term import paint

_COLORS: Final = {
    "parameters": ("blue",),
    "gradients": ("red",),
    "optimizer": ("green",),
    "activations": ("yellow",),
    "buffers": ("cyan",),
    "inputs": ("magenta",),
    "workspace": ("bold", "yellow"),
    "other": ("bold",),
    CACHED: ("dim",),
    CONTEXT: ("dim",),
    FREE: ("dim",),
}
_MOST_HOLDINGS: Final = 8


def run_text(report: RunReport, *, color: bool = False, width: int = 80) -> str:
    """Summary, bar, categories, the line that ran out, notes; plain ASCII art where `color` is off."""
    blocks = [
        _summary(report, color, width),
        _failure(report, width),
        _devices(report, color, width),
        _holdings(report, width),
        _notes(report, width),
    ]
    return "\n\n".join(b for b in blocks if b)


def summary(report: RunReport) -> tuple[str, str]:
    """State ("pass" or "fail") and the one sentence that says how it went."""
    total, peak = format_bytes(report.total_memory), format_bytes(report.peak.device)
    if report.outcome == "oom":
        asked = format_bytes(report.oom.requested) if report.oom else "more"
        return (
            "fail",
            f"Out of memory on {report.gpu}: {asked} more asked for; the peak was {peak} of {total}",
        )
    if report.error and report.error.startswith("KeyboardInterrupt"):
        return "fail", f"Interrupted on {report.gpu}; until then it took {peak} of {total}"
    if report.outcome == "error":
        return "fail", f"The program failed on {report.gpu}; until then it took {peak} of {total}"
    used, spare = share(report.peak.device, report.total_memory), format_bytes(report.headroom)
    return "pass", f"Fits on {report.gpu}: {peak} of {total} at the peak ({used}), {spare} to spare"


def time_line(report: RunReport) -> str:
    """Estimated seconds on the card beside the seconds this run took; a measured run took its own."""
    if report.measured:
        return f"Measured on the card itself: {format_seconds(report.wall_seconds)}."
    here = f"{format_seconds(report.wall_seconds)} here, {report.operations:,} device operations"
    if report.estimated_seconds is None:
        return f"Ran for {here}."
    return f"About {format_seconds(report.estimated_seconds)} on the card (estimate); {here}."


def demand_line(report: RunReport) -> str:
    """What the program would have taken with memory to spare, where somebody asked."""
    if report.demand is None:
        return ""
    need, total = report.demand.peak.device, report.total_memory
    factor = f", {need / total:.1f} times the card" if need > total > 0 else ""
    return f"With memory to spare it would have reached {format_bytes(need)}{factor}."


def _summary(report: RunReport, color: bool, width: int) -> str:
    state, sentence = summary(report)
    icon, hue = ("✓", "green") if state == "pass" else ("✗", "red")
    lines = textwrap.wrap(f"{icon} {sentence}", width, subsequent_indent="  ")
    painted = [paint(line, "bold", hue, color=color) for line in lines]
    return "\n".join([*painted, *textwrap.wrap(demand_line(report), width)])


def _failure(report: RunReport, width: int) -> str:
    lines: list[str] = []
    if report.oom:
        where = place(report.oom.file, report.oom.line)
        caught = " (the program caught it and went on)" if report.oom.caught else ""
        lines.append(f"Ran out {where}{caught}")
        if report.oom.code:
            lines.append(f"    {report.oom.code.strip()}"[:width])
        lines += textwrap.wrap(report.oom.message, width, initial_indent="  ", subsequent_indent="  ")
    if report.error:
        last = [line for line in report.error.splitlines() if line.strip()][-1:]
        lines += [w for line in last for w in textwrap.wrap(line, width)]
    return "\n".join(lines)


def place(file: str | None, line: int | None) -> str:
    """File and line as people say them; no file means that no line of the user's own is to blame."""
    if file is None:
        return "outside the program's own lines"
    path = Path(file)
    if path.parent.name.startswith("ipykernel_") or path.name.startswith(("<ipython-input-", "hfgpu-cell")):
        return f"at line {line} of the cell"
    return f"at {path.name}:{line}" if line is not None else f"in {path.name}"


def _devices(report: RunReport, color: bool, width: int) -> str:
    if len(report.devices) > 1:
        return "\n\n".join(_device(d, color, width) for d in report.devices)
    shown = parts(report.by_category_at_peak, report.peak, report.total_memory)
    table = _table(shown, report.total_memory, color)
    if report.oom and report.outcome == "oom":
        asked = report.oom.requested
        table.append(f"  ! {'asked for':<15}{format_bytes(asked):>12}{share(asked, report.total_memory):>9}")
    return "\n".join([_bar(shown, color, width), *table, *textwrap.wrap(time_line(report), width)])


def _device(device: DeviceUse, color: bool, width: int) -> str:
    peak, total = format_bytes(device.peak.device), format_bytes(device.total_memory)
    shown = device_parts(device)
    head = f"GPU {device.index}: {device.name}, {peak} of {total}"
    return "\n".join([head, _bar(shown, color, width), *_table(shown, device.total_memory, color)])


def _bar(shown: list[Part], color: bool, width: int) -> str:
    lengths = cells([p.bytes for p in shown], width - 2)
    inside = "".join(
        paint(p.letter * n, *_COLORS[p.name], color=color) for p, n in zip(shown, lengths, strict=True)
    )
    return f"[{inside}]"


def _table(shown: list[Part], total: int, color: bool) -> list[str]:
    rows = []
    for p in shown:
        key = paint(p.letter, *_COLORS[p.name], color=color)
        rows.append(f"  {key} {p.name:<15}{format_bytes(p.bytes):>12}{share(p.bytes, total):>9}")
    return rows


def _holdings(report: RunReport, width: int) -> str:
    if not report.largest_at_peak:
        return ""
    lines = ["Largest when it was fullest"]
    for h in report.largest_at_peak[:_MOST_HOLDINGS]:
        start = f"  {format_bytes(h.bytes):>12}  {h.category:<12} "
        room = max(width - len(start), 8)
        lines.append(start + (h.name if len(h.name) <= room else f"{h.name[: room - 1]}…"))
    return "\n".join(lines)


def _notes(report: RunReport, width: int) -> str:
    notes = list(report.notes)
    if len(report.devices) > 1:
        notes.insert(0, time_line(report))
    wrapped = [textwrap.wrap(n, width, initial_indent="• ", subsequent_indent="  ") for n in notes]
    return "\n".join(line for lines in wrapped for line in lines)
