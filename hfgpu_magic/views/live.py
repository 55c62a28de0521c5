"""A `Moment` of a running program: one line for a terminal, one bar for a notebook."""

from __future__ import annotations

from html import escape

from ..units import format_bytes
from ..virtual.progress import Moment
from ._bars import cells
from ._style import block

_BAR = 24


def live_text(moment: Moment, width: int) -> str:
    """At most `width` characters: a bar (allocated; cached and context; peak so far; free) and figures."""
    peak = max(moment.peak, moment.used)
    parts = [
        moment.allocated,
        max(moment.used - moment.allocated, 0),
        peak - moment.used,
        max(moment.total - peak, 0),
    ]
    room = min(_BAR, max(width // 4, 8))
    bar = "".join(c * n for c, n in zip("█▓░·", cells(parts, room), strict=True))
    figures = [f"{moment.gpu} [{bar}] {format_bytes(moment.used)} of {format_bytes(moment.total)}"]
    figures += _figures(moment)
    while len(figures) > 1 and len(" · ".join(figures)) > width:
        figures.pop()
    return " · ".join(figures)[:width]


def _figures(moment: Moment) -> list[str]:
    found = [f"peak {format_bytes(moment.peak)}"]
    if moment.steps:
        found.append(f"step {moment.steps:,}")
    found.append(f"{moment.rate:,.0f} op/s")
    return found


def live_html(moment: Moment) -> str:
    """The same as a meter with words beside it."""
    total = max(moment.total, 1)
    now, peak = 100 * moment.used / total, 100 * moment.peak / total
    said = f"{format_bytes(moment.used)} of {format_bytes(moment.total)}"
    return block(
        "live",
        f'<div class="hfgpu-live" role="meter" aria-valuemin="0" aria-valuemax="{moment.total}" '
        f'aria-valuenow="{moment.used}" aria-valuetext="{escape(said)}" '
        f'aria-label="Memory of {escape(moment.gpu)}">'
        f'<span class="hfgpu-live-now" style="width:{now:.1f}%"></span>'
        f'<span class="hfgpu-live-peak" style="left:{min(peak, 99.6):.1f}%"></span></div>'
        f'<div class="hfgpu-live-words">{escape(moment.gpu)}: {escape(said)} now, '
        f"{escape(', '.join(_figures(moment)))}</div>",
    )
