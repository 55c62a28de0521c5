"""A `CheckReport` as html for a notebook's output."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

from ._style import block, state
from .check_text import driver_line, heading, memory_line, overall, place, readings, used_share

if TYPE_CHECKING:
    from ..checks.report import CheckReport
    from ..checks.rule import Check
    from ..devices.snapshot import DeviceSnapshot


def check_html(report: CheckReport) -> str:
    """A self-contained block: summary, device cards, findings open, the rest folded."""
    body = [
        f'<p class="hfgpu-summary">{state(overall(report), report.summary)}</p>',
        _cards(report),
        *(_finding(check) for status in ("fail", "warn") for check in report.by_status(status)),
        _folded(report, "pass", "fine"),
        _folded(report, "skip", "not here, or not judged"),
    ]
    return block("check", "".join(body))


def _cards(report: CheckReport) -> str:
    if not report.devices:
        return ""
    return '<div class="hfgpu-cards">' + "".join(_card(d, report) for d in report.devices) + "</div>"


def _card(device: DeviceSnapshot, report: CheckReport) -> str:
    small = []
    if report.gpu is None:
        small += [
            x for x in [driver_line(report) if device.backend == "cuda" else "", *readings(device)] if x
        ]
    return (
        '<section class="hfgpu-card">'
        f'<h4><span class="hfgpu-dim">{escape(place(device))}</span> {escape(heading(device))}</h4>'
        + _meter(device)
        + (f'<p class="hfgpu-dim">{escape(" · ".join(small))}</p>' if small else "")
        + (f'<p class="hfgpu-dim">{escape(device.message)}</p>' if device.message else "")
        + "</section>"
    )


def _meter(device: DeviceSnapshot) -> str:
    said = memory_line(device)
    share = used_share(device)
    if share is None:
        return f"<p>{escape(said)}</p>"
    return (
        f'<div class="hfgpu-meter" role="meter" aria-label="memory of {escape(str(device.name))}" '
        f'aria-valuemin="0" aria-valuemax="100" aria-valuenow="{share * 100:.0f}" '
        f'aria-valuetext="{escape(said)}"><div style="width:{share:.1%}"></div></div><p>{escape(said)}</p>'
    )


def _finding(check: Check) -> str:
    return (
        f'<section class="hfgpu-finding hfgpu-finding-{check.status}">'
        f"<h4>{state(check.status)}: {escape(check.title)}</h4>{_fields(check)}</section>"
    )


def _fields(check: Check) -> str:
    rows = [("found", escape(check.found)), ("needed", escape(check.required)), ("why", escape(check.why))]
    if check.fix:
        rows.append(("fix", f"<pre><code>{escape(check.fix)}</code></pre>"))
    rows.append(("source", f'<span class="hfgpu-dim">{escape(check.source)}</span>'))
    return "<dl>" + "".join(f"<dt>{name}</dt><dd>{value}</dd>" for name, value in rows) + "</dl>"


def _folded(report: CheckReport, status: str, word: str) -> str:
    checks = report.by_status(status)
    if not checks:
        return ""
    lines = "".join(
        f"<details><summary>{escape(c.title)}: "
        f'<span class="hfgpu-dim">{escape(c.found)}</span></summary>{_fields(c)}</details>'
        for c in checks
    )
    return (
        f'<details class="hfgpu-folded"><summary>{state(status, f"{len(checks)} {word}")}</summary>'
        f"<div>{lines}</div></details>"
    )
