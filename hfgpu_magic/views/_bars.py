"""What fills a card at its fullest moment, as the ordered parts of one bar."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from ..virtual.report import CATEGORIES, DeviceUse, Peak

#: Parts of the card that are no program's tensors, in the order drawn after the categories.
CACHED: Final = "cached, unused"
CONTEXT: Final = "CUDA context"
FREE: Final = "free"


@dataclass(frozen=True)
class Part:
    """One stretch of the bar.  `letter` stands for it where there is no colour; `bytes` may be 0."""

    name: str
    letter: str
    bytes: int


def parts(by_category: dict[str, int], peak: Peak, total: int) -> list[Part]:
    """Categories, then what the allocator holds unused, the context, and the rest of `total`: bytes.

    Parts of no bytes are left out.

    The categories are taken when most was allocated and `reserved` when most was reserved, so the
    unused cache is the difference of two peaks: what the process cannot give to anybody else.
    """
    named = [Part(c, c[0].upper(), by_category.get(c, 0)) for c in CATEGORIES]
    named[-1] = Part("other", "X", by_category.get("other", 0))  # O is the optimizer's
    allocated = sum(p.bytes for p in named)
    named += [
        Part(CACHED, "r", max(peak.reserved - allocated, 0)),
        Part(CONTEXT, "c", max(peak.device - max(peak.reserved, allocated), 0)),
    ]
    named.append(Part(FREE, ".", max(total - sum(p.bytes for p in named), 0)))
    return [p for p in named if p.bytes]


def device_parts(device: DeviceUse) -> list[Part]:
    """The same for one of several devices."""
    return parts(device.by_category_at_peak, device.peak, device.total_memory)


def share(n: int, total: int) -> str:
    """`n` of `total` in percent; what is there but tiny is not called 0."""
    percent = 100 * n / max(total, 1)
    return "<0.1%" if 0 < percent < 0.1 else f"{percent:.1f}%"


def cells(sizes: list[int], width: int) -> list[int]:
    """`width` character cells shared out by size; what is cut off goes to the largest remainders."""
    total = sum(sizes)
    if not total:
        return [0] * len(sizes)
    given = [s * width // total for s in sizes]
    by_remainder = sorted(range(len(sizes)), key=lambda i: sizes[i] * width % total, reverse=True)
    for i in by_remainder[: width - sum(given)]:
        given[i] += 1
    return given
