"""A `RunReport` as html: the bar of what filled the card, the timeline, and the tables behind both."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape
from typing import Final

from ..units import format_bytes
from ..virtual.report import DeviceUse, RunReport, TimelinePoint
from ._bars import CACHED, CONTEXT, FREE, Part, device_parts, parts, share
from ._style import CATEGORY_COLORS, block, page, state
from .run_text import demand_line, place, summary, time_line

_CLASSES: Final = {CACHED: "hfgpu-cached", CONTEXT: "hfgpu-context", FREE: "hfgpu-free"}
#: Text that stands on a category's colour with a contrast of at least 4.5:1.
_ON: Final = {"parameters": "#ffffff"}
_BLACK: Final = "#000000"
#: A part narrower than this share of the bar has its name in the table only.
_LABELLED: Final = 0.11
_COLUMNS: Final = 600
_ROWS: Final = 16


def run_html(report: RunReport) -> str:
    """A self-contained block for a notebook's output."""
    name, sentence = summary(report)
    body = [f'<p class="hfgpu-summary">{state(name, sentence)}</p>']
    if report.demand:
        body.append(f"<p>{escape(demand_line(report))}</p>")
    body.append(_failure(report))
    if len(report.devices) > 1:
        body += [_device(d) for d in report.devices]
    else:
        shown = parts(report.by_category_at_peak, report.peak, report.total_memory)
        asked = report.oom.requested if report.oom and report.outcome == "oom" else 0
        body.append(_bar(shown, report.total_memory, report.gpu, asked))
    body.append(f'<p class="hfgpu-dim">{escape(time_line(report))}</p>')
    body += [_timeline(report), _holdings(report), _notes(report.notes)]
    return block("run", "".join(body))


def run_page(report: RunReport, *, title: str) -> str:
    """The same as a document of its own, for `--timeline FILE`."""
    return page(f"{title} on {report.gpu}", run_html(report))


def _failure(report: RunReport) -> str:
    found = []
    if report.oom:
        caught = " The program caught it and went on." if report.oom.caught else ""
        found.append(f"<p>Ran out {escape(place(report.oom.file, report.oom.line))}.{caught}</p>")
        if report.oom.code:
            found.append(f"<pre><code>{escape(report.oom.code.strip())}</code></pre>")
        found.append(
            f"<details><summary>What PyTorch said</summary><pre>{escape(report.oom.message)}</pre></details>"
        )
    if report.error:
        found.append(f"<pre>{escape(report.error)}</pre>")
    return "".join(found)


def _device(device: DeviceUse) -> str:
    title = f"GPU {device.index}: {device.name}"
    return f"<h4>{escape(title)}</h4>" + _bar(device_parts(device), device.total_memory, title)


def _bar(shown: list[Part], total: int, name: str, asked: int = 0) -> str:
    """The stacked bar and its table twin, which carries the words and numbers."""
    whole = max(total, sum(p.bytes for p in shown), 1)
    said = ", ".join(f"{p.name} {format_bytes(p.bytes)}" for p in shown)
    segments = "".join(_segment(p, p.bytes / whole) for p in shown)
    rows = "".join(
        f'<tr><th scope="row"><span class="hfgpu-swatch {_CLASSES.get(p.name, "")}"{_paint(p.name)}></span>'
        f'{escape(p.name)}</th><td class="hfgpu-num">{format_bytes(p.bytes)}</td>'
        f'<td class="hfgpu-num">{share(p.bytes, whole)}</td></tr>'
        for p in shown
    )
    if asked:
        rows += (
            f'<tr><th scope="row">{state("fail", "asked for")}</th>'
            f'<td class="hfgpu-num">{format_bytes(asked)}</td>'
            f'<td class="hfgpu-num">{share(asked, whole)}</td></tr>'
        )
    return (
        f'<div class="hfgpu-bar" role="img" aria-label="{escape(f"{name} when it was fullest: {said}")}">'
        f"{segments}</div>"
        '<table class="hfgpu-table"><thead><tr><th scope="col">when the card was fullest</th>'
        '<th scope="col" class="hfgpu-num">bytes</th><th scope="col" class="hfgpu-num">of the card</th></tr>'
        f"</thead><tbody>{rows}</tbody></table>"
    )


def _segment(part: Part, of_bar: float) -> str:
    wide = of_bar >= _LABELLED
    classes = f"hfgpu-part {'' if wide else 'hfgpu-part-thin '}{_CLASSES.get(part.name, '')}".strip()
    title = escape(f"{part.name}: {format_bytes(part.bytes)} ({of_bar:.1%})")
    label = f"<span>{escape(part.name)}</span>" if wide else ""
    return f'<div class="{classes}" title="{title}"{_paint(part.name, f"width:{of_bar:.4%}")}>{label}</div>'


def _paint(name: str, more: str = "") -> str:
    rules = [more] if more else []
    if color := CATEGORY_COLORS.get(name):
        rules.append(f"background:{color};color:{_ON.get(name, _BLACK)}")
    return f' style="{";".join(rules)}"' if rules else ""


def _timeline(report: RunReport) -> str:
    """Allocated and reserved over the run's device operations, with the card's limit."""
    points = report.timeline
    if len(points) < 2:
        return ""
    context = report.peak.device - report.peak.reserved
    limit = max(report.total_memory - context, 1)
    top = max(limit, *(max(p.reserved, p.allocated) for p in points))
    drawn = _thinned(points, _COLUMNS)
    first, last = drawn[0].operation, drawn[-1].operation
    span = max(last - first, 1)

    def path(values: Iterable[tuple[int, int]]) -> str:
        # Memory changes in steps: it holds its level until the next operation.
        steps = [
            f"{'H' if i else 'M'}{(op - first) * 1000 / span:.1f}{'V' if i else ' '}{100 - b * 100 / top:.2f}"
            for i, (op, b) in enumerate(values)
        ]
        return "".join(steps)

    allocated = path((p.operation, p.allocated) for p in drawn)
    reserved = path((p.operation, p.reserved) for p in drawn)
    y = f"{100 - limit * 100 / top:.2f}"
    most = max(p.allocated for p in points)
    said = f"Memory over {last - first:,} device operations; allocated peaks at {format_bytes(most)}"
    rows = "".join(
        "<tr>"
        + "".join(
            f'<td class="hfgpu-num">{v}</td>'
            for v in (f"{p.operation:,}", format_bytes(p.allocated), format_bytes(p.reserved))
        )
        + "</tr>"
        for p in _thinned(points, _ROWS)
    )
    return (
        "<h4>Memory over the run</h4>"
        f'<div class="hfgpu-chart"><div class="hfgpu-axis"><span>{format_bytes(top)}</span></div>'
        f'<svg viewBox="0 0 1000 100" preserveAspectRatio="none" role="img" aria-label="{escape(said)}">'
        f'<path class="hfgpu-area" d="{allocated}V100H0Z"/>'
        f'<path class="hfgpu-line hfgpu-line-allocated" d="{allocated}"/>'
        f'<path class="hfgpu-line hfgpu-line-reserved" d="{reserved}"/>'
        f'<path class="hfgpu-line hfgpu-line-limit" d="M0 {y}H1000"/></svg>'
        f'<div class="hfgpu-axis"><span>operation {first:,}</span>'
        '<span><span class="hfgpu-key hfgpu-key-allocated"></span>allocated</span>'
        '<span><span class="hfgpu-key hfgpu-key-reserved"></span>reserved</span>'
        '<span><span class="hfgpu-key hfgpu-key-limit"></span>'
        f"room beside the context: {format_bytes(limit)}</span>"
        f"<span>{last:,}</span></div></div>"
        "<details><summary>The same as a table</summary>"
        '<table class="hfgpu-table"><thead><tr><th scope="col" class="hfgpu-num">operation</th>'
        '<th scope="col" class="hfgpu-num">allocated</th><th scope="col" class="hfgpu-num">reserved</th></tr>'
        f"</thead><tbody>{rows}</tbody></table></details>"
    )


def _thinned(points: tuple[TimelinePoint, ...], most: int) -> list[TimelinePoint]:
    """About `most` points: the ends, and of each stretch the one with most allocated, so no peak is lost."""
    if len(points) <= most:
        return list(points)
    stretches = (points[len(points) * i // most : len(points) * (i + 1) // most] for i in range(most))
    highest = [max(s, key=lambda p: (p.allocated, p.reserved)) for s in stretches]
    ends = [p for p in (points[0], points[-1]) if p not in highest]
    return sorted([*highest, *ends], key=lambda p: p.operation)


def _holdings(report: RunReport) -> str:
    held = report.largest_at_peak
    if not held:
        return ""
    rows = "".join(
        f'<tr><td class="hfgpu-num">{format_bytes(h.bytes)}</td><td>{escape(h.category)}</td>'
        f"<td><code>{escape(h.name)}</code></td></tr>"
        for h in held
    )
    return (
        f"<details><summary>Largest when it was fullest ({len(held)})</summary>"
        '<table class="hfgpu-table"><thead><tr><th scope="col" class="hfgpu-num">bytes</th>'
        '<th scope="col">category</th><th scope="col">held by</th></tr></thead>'
        f"<tbody>{rows}</tbody></table></details>"
    )


def _notes(notes: tuple[str, ...]) -> str:
    if not notes:
        return ""
    return "<h4>Notes</h4><ul>" + "".join(f"<li>{escape(n)}</li>" for n in notes) + "</ul>"
