"""A `CheckReport` as text for a terminal."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING, Final

from ..devices.na import NotAvailable
from ..units import format_bytes
from ._term import paint

if TYPE_CHECKING:
    from ..checks.report import CheckReport
    from ..checks.rule import Check
    from ..devices.snapshot import DeviceSnapshot

#: Status -> (icon, heading, colour).
STATES: Final = {
    "fail": ("✗", "To fix", "red"),
    "warn": ("⚠", "To know", "yellow"),
    "pass": ("✓", "Fine", "green"),
    "skip": ("–", "Not here, or not judged", "dim"),
}
_LABEL: Final = 9
_BAR: Final = 30


def check_text(report: CheckReport, *, color: bool = False, width: int = 80) -> str:
    """Summary, device cards, then the checks from worst to best; readable without colour."""
    blocks = [
        _summary(report, color, width),
        *(_device(d, report, color, width) for d in report.devices),
        *(_finding(c, color, width) for s in ("fail", "warn") for c in report.by_status(s)),
        _fine(report, color, width),
        _skipped(report, color, width),
    ]
    return "\n\n".join(b for b in blocks if b)


def overall(report: CheckReport) -> str:
    """The worst status there is, of "fail", "warn" and "pass"."""
    return next((s for s in ("fail", "warn") if report.by_status(s)), "pass")


def _summary(report: CheckReport, color: bool, width: int) -> str:
    icon, _, hue = STATES[overall(report)]
    lines = textwrap.wrap(f"{icon} {report.summary}", width, subsequent_indent="  ")
    return "\n".join(paint(line, "bold", hue, color=color) for line in lines)


# --- devices ----------------------------------------------------------------------------------------------


def place(device: DeviceSnapshot) -> str:
    """'cuda:0', or why the process has no such number."""
    if device.state != "ok":
        return device.state.replace("_", " ")
    if device.cuda_index is None:
        return "not offered to this process" if device.message else "hidden from this process"
    prefix = {"rocm": "cuda", "virtual": "cuda"}.get(device.backend, device.backend)
    return f"{prefix}:{device.cuda_index}"


def readings(device: DeviceSnapshot) -> list[str]:
    """Temperature, power, utilisation: what the driver tells, in words."""
    found = []
    if not isinstance(device.temperature, NotAvailable):
        found.append(f"{device.temperature} °C")
    if not isinstance(device.power, NotAvailable):
        limit = "" if isinstance(device.power_limit, NotAvailable) else f" of {device.power_limit:.0f}"
        found.append(f"{device.power:.0f}{limit} W")
    if not isinstance(device.utilization, NotAvailable):
        found.append(f"{device.utilization} % busy")
    if device.mig_enabled is True:
        found.append("MIG on")
    if device.ecc is True:
        found.append("ECC on")
    return found


def driver_line(report: CheckReport) -> str:
    version, cuda = report.versions.get("driver"), report.versions.get("driver.cuda")
    if report.gpu or not version:
        return ""
    return f"driver {version}" + (f", CUDA {cuda}" if cuda else "")


def heading(device: DeviceSnapshot) -> str:
    parts = [f"GPU {device.index}" if isinstance(device.name, NotAvailable) else device.name]
    if not isinstance(device.capability, NotAvailable):
        parts.append(f"capability {device.capability[0]}.{device.capability[1]}")
    return ", ".join(parts)


def used_share(device: DeviceSnapshot) -> float | None:
    """0..1, None where the driver does not tell."""
    if isinstance(device.used, NotAvailable) or isinstance(device.total, NotAvailable) or not device.total:
        return None
    return min(max(device.used / device.total, 0.0), 1.0)


def memory_line(device: DeviceSnapshot) -> str:
    if isinstance(device.total, NotAvailable):
        return "memory N/A"
    if isinstance(device.used, NotAvailable):
        return f"{format_bytes(device.total)} memory"
    return f"{format_bytes(device.used)} of {format_bytes(device.total)} used"


def _device(device: DeviceSnapshot, report: CheckReport, color: bool, width: int) -> str:
    head = heading(device)
    lines = [paint(f"{place(device)}  {head}", "bold", color=color)]
    share = used_share(device)
    memory = memory_line(device)
    if share is not None:
        room = max(min(_BAR, width - len(memory) - 6), 8)
        filled = round(share * room)
        bar = paint("█" * filled, "cyan", color=color) + paint("░" * (room - filled), "dim", color=color)
        memory = f"[{bar}] {memory}"
    lines.append(f"  {memory}")
    if report.gpu is None:
        extra = " · ".join([*([driver_line(report)] if device.backend == "cuda" else []), *readings(device)])
        lines += textwrap.wrap(extra, width - 2, initial_indent="  ", subsequent_indent="  ")
    if device.message:
        lines += textwrap.wrap(device.message, width - 2, initial_indent="  ", subsequent_indent="  ")
    return "\n".join(line for line in lines if line.strip())


# --- checks -----------------------------------------------------------------------------------------------


def _finding(check: Check, color: bool, width: int) -> str:
    icon, _, hue = STATES[check.status]
    word = "fail" if check.status == "fail" else "warning"
    lines = [paint(f"{icon} {word}: {check.title}", "bold", hue, color=color)]
    lines += _field("found", check.found, width)
    lines += _field("needed", check.required, width)
    lines += _field("why", check.why, width)
    if check.fix:
        # A command stays on one line however long: it is there to be copied.
        label = paint("fix", "bold", color=color) + " " * (_LABEL - 3)
        lines += [f"  {' ' * _LABEL if n else label}{line}" for n, line in enumerate(check.fix.splitlines())]
    return "\n".join(lines)


def _field(label: str, text: str, width: int) -> list[str]:
    return textwrap.wrap(
        text, width, initial_indent=f"  {label:<{_LABEL}}", subsequent_indent=" " * (_LABEL + 2)
    )


def _fine(report: CheckReport, color: bool, width: int) -> str:
    checks = report.by_status("pass")
    if not checks:
        return ""
    icon, word, hue = STATES["pass"]
    lines = [paint(f"{icon} {word}: {len(checks)}", "bold", hue, color=color)]
    # One line each; the notebook and --json have the rest.
    lines += [
        textwrap.shorten(f"{c.title}: {c.found}", width - 4, placeholder=" …").join(("  ", ""))
        for c in checks
    ]
    return "\n".join(lines)


def _skipped(report: CheckReport, color: bool, width: int) -> str:
    checks = report.by_status("skip")
    if not checks:
        return ""
    icon, word, hue = STATES["skip"]
    text = f"{icon} {word}: " + "; ".join(f"{c.title} ({c.found})" for c in checks)
    lines = textwrap.wrap(text, width, subsequent_indent="  ")
    return "\n".join(paint(line, hue, color=color) for line in lines)
