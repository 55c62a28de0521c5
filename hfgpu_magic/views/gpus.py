"""The GPU catalog as text and html."""

from __future__ import annotations

import textwrap
from html import escape
from itertools import groupby
from typing import TYPE_CHECKING

from ..units import format_bytes
from ._style import block
from ._term import paint

if TYPE_CHECKING:
    from ..devices.catalog import GPU
    from ..devices.gpu_list import GPUList

_HEAD = ("GPU", "memory", "capability", "GB/s", "fp16 TF/s", "bf16")


def gpus_text(found: GPUList, *, color: bool = False, width: int = 80) -> str:
    """One line a card, by architecture; or every field of one card."""
    if found.detailed:
        return "\n\n".join(_detail_text(g, color, width) for g in found.gpus)
    rows = [_cells(g) for g in found.gpus]
    widths = [max(map(len, column)) for column in zip(_HEAD, *rows, strict=True)]
    lines = ["  " + _row(_HEAD, widths)]
    for architecture, cards in groupby(found.gpus, key=lambda g: g.architecture):
        lines.append(paint(architecture, "bold", color=color))
        lines += ["  " + _row(_cells(g), widths) for g in cards]
    lines += ["", "bf16: native or not.  `hfgpu gpus NAME` tells more; names are forgiving (a100 40gb)."]
    return "\n".join(line[:width].rstrip() if i < len(lines) - 1 else line for i, line in enumerate(lines))


def gpus_html(found: GPUList) -> str:
    """A table of all cards, or of one card's fields."""
    if found.detailed:
        return block("gpus", "".join(_detail_html(g) for g in found.gpus))
    head = "".join(f'<th scope="col"{_align(i)}>{escape(h)}</th>' for i, h in enumerate(_HEAD))
    body = []
    for architecture, cards in groupby(found.gpus, key=lambda g: g.architecture):
        body.append(
            f'<tr><th scope="rowgroup" colspan="{len(_HEAD)}"><b>{escape(architecture)}</b></th></tr>'
        )
        for g in cards:
            first, *others = _cells(g)
            values = "".join(f"<td{_align(i)}>{escape(v)}</td>" for i, v in enumerate(others, 1))
            body.append(f'<tr><th scope="row">{escape(first)}</th>{values}</tr>')
    table = f'<table class="hfgpu-table"><thead><tr>{head}</tr></thead><tbody>{"".join(body)}</tbody></table>'
    return block("gpus", f'<div class="hfgpu-scroll">{table}</div>')


def _cells(g: GPU) -> tuple[str, ...]:
    return (
        g.name,
        format_bytes(g.memory_total),
        ".".join(map(str, g.capability)),
        f"{g.bandwidth / 1e9:,.0f}",
        _tera(g.rates["fp16"]) if "fp16" in g.rates else "-",
        "yes" if "bf16" in g.rates else "no",
    )


def _tera(rate: float) -> str:
    return f"{rate / 1e12:,.{0 if rate >= 1e13 else 1}f}"


def _row(cells: tuple[str, ...], widths: list[int]) -> str:
    first, *others = (
        c.ljust(w) if i in (0, len(widths) - 1) else c.rjust(w)
        for i, (c, w) in enumerate(zip(cells, widths, strict=True))
    )
    return "  ".join([first, *others])


def _align(column: int) -> str:
    return "" if column in (0, len(_HEAD) - 1) else ' class="hfgpu-num"'


def _fields(g: GPU) -> list[tuple[str, str]]:
    rates = ", ".join(f"{dtype} {_tera(rate)}" for dtype, rate in g.rates.items())
    spread = f"{format_bytes(g.context_low)} to {format_bytes(g.context_high)}"
    return [
        ("torch's name", g.driver_name),
        ("architecture", f"{g.architecture}, compute capability {'.'.join(map(str, g.capability))}"),
        ("memory for torch", f"{format_bytes(g.memory_total)} ({g.memory_source})"),
        ("nvidia-smi total", format_bytes(g.memory_nvml)),
        ("CUDA context", f"about {format_bytes(g.context)}, seen {spread} ({g.context_source})"),
        ("bandwidth", f"{g.bandwidth / 1e9:,.0f} GB/s, L2 cache {format_bytes(g.l2)}"),
        ("dense TFLOP/s", rates),
        ("bf16", "native" if "bf16" in g.rates else "emulated: slow, although torch says it is supported"),
        ("kind", f"{g.kind}, {g.sm_count} SMs"),
        ("lent by", ", ".join(g.lenders) or "-"),
        ("source", g.source),
    ]


def _detail_text(g: GPU, color: bool, width: int) -> str:
    lines = [paint(g.name, "bold", color=color)]
    for name, value in _fields(g):
        first, *more = textwrap.wrap(value, max(width - 20, 24)) or ["-"]
        lines.append(f"  {name:<18}{first}")
        lines += [" " * 20 + m for m in more]
    return "\n".join(lines)


def _detail_html(g: GPU) -> str:
    rows = "".join(
        f'<tr><th scope="row" class="hfgpu-dim">{escape(n)}</th><td>{escape(v)}</td></tr>'
        for n, v in _fields(g)
    )
    table = f'<table class="hfgpu-table"><tbody>{rows}</tbody></table>'
    return f'<p class="hfgpu-summary">{escape(g.name)}</p>{table}'
