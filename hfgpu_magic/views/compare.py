"""A `Comparison` as text and as html: one bar a run, one scale, one line where the card ends."""

from __future__ import annotations

from html import escape

from ..comparison import Comparison
from ..units import GiB, format_bytes
from ..virtual.report import RunReport
from ._bars import CACHED, CONTEXT, FREE, Part, cells, parts
from ._style import CATEGORY_COLORS, block, state
from ._term import paint

_GRAY = {CACHED: "hfgpu-cached", CONTEXT: "hfgpu-context"}


def _used(report: RunReport) -> list[Part]:
    """The bar of one run: its whole demand where that is known, else what it held when it ended."""
    use = report.demand
    categories, peak = (
        (use.by_category_at_peak, use.peak) if use else (report.by_category_at_peak, report.peak)
    )
    shown = [p for p in parts(categories, peak, peak.device) if p.name != FREE]
    if use is None and report.outcome == "oom" and report.oom is not None:
        shown.append(Part(_LACKING, "!", report.oom.requested))
    return shown


_LACKING = "asked for in vain"


def _verdict(report: RunReport) -> tuple[str, str]:
    if report.outcome == "fits":
        return "pass", f"fits, {format_bytes(report.headroom)} to spare"
    if report.outcome == "error":
        return "warn", "failed"
    if report.demand is None:
        return "fail", "out of memory"
    over = report.demand.peak.device - report.total_memory
    return "fail", f"out of memory, {format_bytes(max(over, 0))} too much"


def _scale(comparison: Comparison) -> int:
    """Bytes that the full width stands for."""
    return max(comparison.total_memory, *(sum(p.bytes for p in _used(r)) for _, r in comparison.rows))


def compare_text(comparison: Comparison, *, color: bool = False, width: int = 88) -> str:
    """One line of words and one bar per run; `|` marks the end of the card."""
    scale = _scale(comparison)
    room = width - 4
    limit = max(1, round(room * comparison.total_memory / scale))
    lines: list[str] = []
    for label, report in comparison.rows:
        name, words = _verdict(report)
        icon = "✓" if name == "pass" else "✗"
        hue = {"pass": "green", "warn": "yellow", "fail": "red"}[name]
        lines.append(
            paint(f"{icon} {label}: {format_bytes(report.needed.device)}, {words}", hue, color=color)
        )
        shown = _used(report)
        length = round(room * sum(p.bytes for p in shown) / scale)
        bar = "".join(
            p.letter * n for p, n in zip(shown, cells([p.bytes for p in shown], length), strict=True)
        )
        bar = bar.ljust(room, " ")
        lines.append("  " + bar[:limit] + "|" + bar[limit:].rstrip())
    seen = {p.letter: p.name for _, r in comparison.rows for p in _used(r)}
    lines.append("")
    lines.append("  " + ", ".join(f"{letter} {name}" for letter, name in seen.items()))
    lines.append(f"  | the card: {format_bytes(comparison.total_memory)}")
    return "\n".join(lines)


def compare_html(comparison: Comparison) -> str:
    """Stacked bars on one scale; every part has its words in the title and in the table twin."""
    scale = _scale(comparison)
    limit = 100 * comparison.total_memory / scale
    rows = []
    for label, report in comparison.rows:
        name, words = _verdict(report)
        shown = _used(report)
        said = ", ".join(f"{p.name} {format_bytes(p.bytes)}" for p in shown)
        segments = "".join(_segment(p, 100 * p.bytes / scale) for p in shown)
        rows.append(
            f'<div class="hfgpu-run"><div class="hfgpu-label"><b>{escape(label)}</b> '
            f'<span class="hfgpu-dim">{format_bytes(report.needed.device)}</span> {state(name, words)}</div>'
            f'<div class="hfgpu-track" role="img" aria-label="{escape(label)}: {escape(said)}">{segments}'
            f'<span class="hfgpu-limit" style="left:{limit:.2f}%" title="the card ends here"></span>'
            "</div></div>"
        )
    names = list(dict.fromkeys(p.name for _, r in comparison.rows for p in _used(r)))
    legend = "".join(
        f'<span class="hfgpu-entry"><span class="hfgpu-swatch {_class(n)}"{_paint(n)}></span>'
        f"{escape(n)}</span>"
        for n in names
    )
    card = f"The line is the end of the card: {format_bytes(comparison.total_memory)}."
    return block(
        "compare",
        f'{"".join(rows)}<div class="hfgpu-legend">{legend}</div>'
        f'<p class="hfgpu-dim">{card}</p>{_table(comparison, names)}',
    )


def _table(comparison: Comparison, names: list[str]) -> str:
    head = "".join(f'<th scope="col" class="hfgpu-num">{escape(n)}</th>' for n in names)
    body = ""
    for label, report in comparison.rows:
        sizes = {p.name: p.bytes for p in _used(report)}
        row = "".join(f'<td class="hfgpu-num">{sizes.get(n, 0) / GiB:.2f}</td>' for n in names)
        body += f'<tr><th scope="row">{escape(label)}</th>{row}</tr>'
    return (
        '<details><summary>The same as a table (GiB)</summary><div class="hfgpu-scroll">'
        '<table class="hfgpu-table"><thead><tr>'
        f'<th scope="col">run</th>{head}</tr></thead><tbody>{body}</tbody></table></div></details>'
    )


def _class(name: str) -> str:
    return _GRAY.get(name, "hfgpu-lacking" if name == _LACKING else "")


def _paint(name: str) -> str:
    color = CATEGORY_COLORS.get(name)
    return f' style="background:{color}"' if color else ""


def _segment(part: Part, percent: float) -> str:
    color = CATEGORY_COLORS.get(part.name)
    paint_it = f";background:{color}" if color else ""
    title = f"{part.name} {format_bytes(part.bytes)}"
    return (
        f'<span class="hfgpu-piece {_class(part.name)}" style="width:{percent:.3f}%{paint_it}" '
        f'title="{escape(title)}"></span>'
    )
