"""Replayed recordings as text and html: one row a recording, one for their sum."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING

from ..units import format_bytes
from ._style import block, state
from ._term import paint

if TYPE_CHECKING:
    from ..virtual.replay import TraceReplay

_HEAD = ("recording", "events", "addresses", "segments", "blocks", "peak reserved", "seconds")
_WIDE = 104
_WORDS = {True: ("pass", "exact"), False: ("fail", "differs")}


def replay_text(results: Sequence[TraceReplay], *, color: bool = False, width: int = 88) -> str:
    """The table, its sum where there are several, and what each figure means."""
    rows = [_cells(r) for r in results]
    if len(results) > 1:
        rows.append(_sum(results))
    head: tuple[str, ...] = _HEAD
    if width < _WIDE:  # the name matters more than these two
        head, *rows = (row[:1] + row[2:-1] for row in [head, *rows])
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]
    spare = max(width - sum(widths[1:]) - 2 * len(widths) - len("differs"), 16)
    widths[0] = min(widths[0], spare)
    lines = [_line(head, widths)]
    for row, result in zip(rows, [*results, None], strict=False):
        exact = all(r.exact for r in results) if result is None else result.exact
        word = paint(_WORDS[exact][1], "green" if exact else "red", color=color)
        lines.append(f"{_line(row, widths)}  {word}")
    return "\n".join([*lines, "", *_differences(results), _EXPLANATION])


def replay_html(results: Sequence[TraceReplay]) -> str:
    """The same table as a block for a notebook's output."""
    head = "".join(f'<th scope="col"{_align(i)}>{escape(h)}</th>' for i, h in enumerate((*_HEAD, "")))
    body = "".join(_row_html(_cells(r), r.exact) for r in results)
    foot = ""
    if len(results) > 1:
        foot = f"<tfoot>{_row_html(_sum(results), all(r.exact for r in results))}</tfoot>"
    notes = "".join(f"<p>{escape(line)}</p>" for line in _differences(results))
    return block(
        "replay",
        f'<table class="hfgpu-table"><thead><tr>{head}</tr></thead><tbody>{body}</tbody>{foot}</table>'
        f'{notes}<p class="hfgpu-dim">{escape(_EXPLANATION)}</p>',
    )


_EXPLANATION = (
    "agreeing/recorded; peak reserved: predicted without being told the segments, or predicted and recorded"
)


def _cells(r: TraceReplay) -> tuple[str, ...]:
    return (
        r.trace,
        f"{r.events:,}",
        f"{r.address_matches}/{r.allocations}",
        f"{r.segment_matches}/{r.segment_events}",
        f"{r.blocks_matches}/{r.blocks}",
        format_bytes(r.peak_reserved_predicted),
        f"{r.seconds:.2f}",
    )


def _sum(results: Sequence[TraceReplay]) -> tuple[str, ...]:
    def total(name: str) -> int:
        return sum(int(getattr(r, name)) for r in results)

    agreeing = sum(r.peak_reserved_predicted == r.peak_reserved_recorded for r in results)
    return (
        f"all {len(results)}",
        f"{total('events'):,}",
        f"{total('address_matches')}/{total('allocations')}",
        f"{total('segment_matches')}/{total('segment_events')}",
        f"{total('blocks_matches')}/{total('blocks')}",
        f"{agreeing}/{len(results)} exact",
        f"{sum(r.seconds for r in results):.2f}",
    )


def _differences(results: Sequence[TraceReplay]) -> list[str]:
    """One sentence for each peak that is off and each out-of-memory error that did not come."""
    found = []
    for r in results:
        off = r.peak_reserved_predicted - r.peak_reserved_recorded
        if off:
            found.append(
                f"{r.trace}: the peak recorded is {format_bytes(r.peak_reserved_recorded)} "
                f"({r.peak_reserved_recorded:,} bytes), {format_bytes(off, signed=True)} in the prediction."
            )
        if r.ooms:
            found.append(
                f"{r.trace}: {r.oom_matches} of {r.ooms} out-of-memory errors at the recorded event."
            )
    return found


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    first, room = cells[0], widths[0]
    if len(first) > room:  # names of recordings differ at their ends
        first = first[: room // 2] + "…" + first[len(first) - (room - room // 2 - 1) :]
    rest = (c.rjust(w) for c, w in zip(cells[1:], widths[1:], strict=True))
    return "  ".join([first.ljust(widths[0]), *rest])


def _row_html(cells: Sequence[str], exact: bool) -> str:
    first, *others = cells
    values = "".join(f"<td{_align(i)}>{escape(v)}</td>" for i, v in enumerate(others, 1))
    return f'<tr><th scope="row">{escape(first)}</th>{values}<td>{state(*_WORDS[exact])}</td></tr>'


def _align(column: int) -> str:
    return ' class="hfgpu-num"' if 0 < column < len(_HEAD) else ""
