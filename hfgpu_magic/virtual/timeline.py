"""Who held the memory, and when: a log of allocations from which any moment can be rebuilt."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

from .report import CATEGORIES, Holding, TimelinePoint

if TYPE_CHECKING:
    from collections.abc import Iterable

#: Log entries kept before the part that ended before the highest peak is dropped.
_COMPACT_AT = 1_000_000
#: Points of the curve shown to people.
_CURVE = 600


class Record:
    """One allocation.  `category` is refined while the run goes on; `size` is the block's bytes."""

    __slots__ = ("category", "module", "name", "size")

    def __init__(self, size: int, category: str, module: str, name: str = "") -> None:
        self.size = size
        self.category = category
        self.module = module
        self.name = name


class Timeline:
    """The allocation log of one device.

    An entry is (record, +1) for an allocation and (record, -1) for a free, kept as two lists.
    """

    def __init__(self) -> None:
        self._records: list[Record] = []
        self._signs: list[int] = []
        self._base: set[Record] = set()
        self._peak = 0
        self._peak_at = 0
        self._curve: list[TimelinePoint] = []
        self._stride = 1
        #: Allocations to go until the curve wants its next point.
        self.until_tick = 1

    def allocated(self, record: Record, total: int) -> None:
        """Log an allocation; `total` bytes are allocated with it."""
        self._records.append(record)
        self._signs.append(1)
        if total > self._peak:
            self._peak = total
            self._peak_at = len(self._signs)
            if self._peak_at > _COMPACT_AT:
                self._compact()

    def freed(self, record: Record) -> None:
        """Log the end of an allocation."""
        self._records.append(record)
        self._signs.append(-1)

    def _compact(self) -> None:
        self._base = self._alive_at(self._peak_at)
        del self._records[: self._peak_at]
        del self._signs[: self._peak_at]
        self._peak_at = 0

    def _alive_at(self, position: int) -> set[Record]:
        alive = set(self._base)
        for record, sign in zip(self._records[:position], self._signs[:position], strict=True):
            if sign > 0:
                alive.add(record)
            else:
                alive.discard(record)
        return alive

    def at_peak(self) -> set[Record]:
        """The allocations alive when allocated bytes were highest."""
        return self._alive_at(self._peak_at)

    def now(self) -> set[Record]:
        return self._alive_at(len(self._signs))

    def tick(self, operation: int, allocated: int, reserved: int) -> None:
        """Add a point (bytes) to the curve; thinned so that at most about 2 x `_CURVE` are kept."""
        self._curve.append(TimelinePoint(operation, allocated, reserved))
        if len(self._curve) >= 2 * _CURVE:
            # Keep of each pair the higher point, so that no peak is thinned away.
            self._curve = [
                max(pair, key=lambda p: p.allocated)
                for pair in zip(self._curve[::2], self._curve[1::2], strict=False)
            ]
            self._stride *= 2
        self.until_tick = self._stride

    def curve(self) -> tuple[TimelinePoint, ...]:
        return tuple(self._curve)


def by_category(records: Iterable[Record]) -> dict[str, int]:
    """Bytes per category, in the fixed order of `CATEGORIES`, zeros included."""
    totals = dict.fromkeys(CATEGORIES, 0)
    for record in records:
        totals[record.category] += record.size
    return totals


def largest(records: Iterable[Record], n: int = 12) -> tuple[Holding, ...]:
    """The `n` largest holders: allocations of one module and category taken together."""
    groups: dict[tuple[str, str], int] = defaultdict(int)
    for record in records:
        groups[(record.module or record.name or "(outside any module)", record.category)] += record.size
    ordered = sorted(groups.items(), key=lambda item: (-item[1], item[0]))
    return tuple(Holding(name, category, nbytes) for (name, category), nbytes in ordered[:n])
