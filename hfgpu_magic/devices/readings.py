"""From what a driver returned to what can be believed.

A field that a driver does not fill comes back as all ones, an empty text, or something no device can
have.  Shown as it is, that becomes "17179869184 GiB used"; here it becomes `NA`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .na import NA, NotAvailable

if TYPE_CHECKING:
    from .snapshot import Flag, Number, Text

# 1 PiB: three orders above the largest device, far below the all-ones patterns of 32 and 64 bits
# (2**32 - 1 bytes is a possible amount of memory, so for bytes only the upper bound can tell).
_MOST_BYTES = 1 << 50


def text(value: Any) -> Text:
    """Bytes or str as printable text.

    Not valid UTF-8 -> U+FFFD for the bad bytes; control characters (an escape sequence in a process
    name) -> U+FFFD as well, so that no terminal obeys them.  Empty -> NA.
    """
    if isinstance(value, bytes):
        value = value.decode("utf-8", errors="replace")
    if not isinstance(value, str):
        return NA
    shown = "".join(c if c.isprintable() else "\ufffd" for c in value.strip().strip("\0"))
    return shown or NA


def number(value: Any, *, low: int = 0, high: int = _MOST_BYTES) -> Number:
    """An integer between `low` and `high`, else NA."""
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        return NA
    return value


def percent(value: Any) -> Number:
    return number(value, high=100)


def megahertz(value: Any) -> Number:
    return number(value, high=20_000)


def watts(milliwatts: Any) -> float | NotAvailable:
    """Milliwatts as watts; a reading above 100 kW is none."""
    value = number(milliwatts, high=100_000_000)
    return NA if isinstance(value, NotAvailable) else value / 1000


def flag(value: Any) -> Flag:
    """nvmlEnableState_t: 0 or 1, anything else is NA."""
    return bool(value) if value in (0, 1) and value is not NA else NA


class Readings:
    """nvmlMemory_t of either version, made consistent: no part may exceed the total."""

    def __init__(self, info: Any) -> None:
        self.total: Number = number(getattr(info, "total", NA), low=1)
        self.used = self._part(info, "used")
        self.free = self._part(info, "free")
        self.reserved = self._part(info, "reserved")  # absent from version 1

    def _part(self, info: Any, name: str) -> Number:
        limit = _MOST_BYTES if isinstance(self.total, NotAvailable) else self.total
        return number(getattr(info, name, NA), high=limit)
