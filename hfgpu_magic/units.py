"""Bytes and seconds as people read them.  Binary units throughout: 1 GiB = 2**30 bytes."""

from __future__ import annotations

from .devices.na import NotAvailable

KiB = 1 << 10
MiB = 1 << 20
GiB = 1 << 30


def format_bytes(n: float | NotAvailable, *, signed: bool = False) -> str:
    """`1536` -> '1.50 KiB', the wording PyTorch itself uses; `NA` -> 'N/A'."""
    if isinstance(n, NotAvailable):
        return "N/A"
    sign = "-" if n < 0 else "+" if signed else ""
    size = abs(n)
    for unit, name in ((GiB, "GiB"), (MiB, "MiB"), (KiB, "KiB")):
        if size >= unit:
            return f"{sign}{size / unit:.2f} {name}"
    return f"{sign}{size:.0f} bytes"


def format_seconds(s: float | NotAvailable) -> str:
    """`0.0123` -> '12 ms', `75` -> '1 min 15 s'; `NA` -> 'N/A'."""
    if isinstance(s, NotAvailable):
        return "N/A"
    if s < 1:
        return f"{s * 1000:.0f} ms"
    if s < 60:
        return f"{s:.1f} s"
    minutes, seconds = divmod(round(s), 60)
    if minutes < 60:
        return f"{minutes} min {seconds} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min"
