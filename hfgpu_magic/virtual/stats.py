"""Counters behind `torch.cuda.memory_stats()`.

What changes on each tensor (allocations, bytes, requested bytes) lives as bare integers in
`PoolCounters`, and the peaks of these are looked at only when a fall follows a rise: a peak can be
nowhere else.  What changes with a segment is rare enough for a `Stat` of its own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .settings import UNLIMITED

if TYPE_CHECKING:
    from .reporting import ReportingSource

#: The order of `torch.cuda.memory_stats_as_nested_dict()`.
KINDS = ("all", "small_pool", "large_pool")
METRICS = ("current", "peak", "allocated", "freed")
#: Counts kept as `Stat`s because only segments and splits move them.
RARE_STATS = ("segment", "reserved_bytes", "inactive_split", "inactive_split_bytes")


class Stat:
    """One count with its history: `current`, the highest it was, the sums of its rises and falls."""

    __slots__ = METRICS

    def __init__(self) -> None:
        self.current = self.peak = self.allocated = self.freed = 0

    def increase(self, amount: int) -> None:
        self.current += amount
        self.allocated += amount
        if self.current > self.peak:
            self.peak = self.current

    def decrease(self, amount: int) -> None:
        self.current -= amount
        self.freed += amount

    def reset_peak(self) -> None:
        self.peak = self.current

    def reset_accumulated(self) -> None:
        self.allocated = self.freed = 0

    def as_dict(self) -> dict[str, int]:
        return {name: getattr(self, name) for name in METRICS}


class StatPair:
    """A `Stat` for the small or the large pools and the one for all of them, moved together."""

    __slots__ = ("all", "kind")

    def __init__(self, everything: Stat) -> None:
        self.kind = Stat()
        self.all = everything

    def increase(self, amount: int) -> None:
        for stat in (self.kind, self.all):  # not by calling them: this runs for most tensors
            stat.current += amount
            stat.allocated += amount
            if stat.current > stat.peak:
                stat.peak = stat.current

    def decrease(self, amount: int) -> None:
        for stat in (self.kind, self.all):
            stat.current -= amount
            stat.freed += amount


class Totals:
    """The `Stat`s of all pools together, for what `PoolCounters` moves through `StatPair`."""

    __slots__ = ("inactive_split", "inactive_split_bytes", "reserved_bytes", "segment")

    def __init__(self) -> None:
        self.segment = Stat()
        self.reserved_bytes = Stat()
        self.inactive_split = Stat()
        self.inactive_split_bytes = Stat()


class PoolCounters:
    """Counters of all small or of all large pools.  Bytes where the name says so.

    `count`, `bytes` (block sizes) and `requested` are of allocated blocks; `pending_*` of blocks that
    were freed but are still in use on another stream.  `*_total` only grow: falls follow from them.
    """

    __slots__ = (
        "bytes",
        "bytes_total",
        "count",
        "count_total",
        "inactive_split",
        "inactive_split_bytes",
        "pending_bytes",
        "pending_count",
        "requested",
        "requested_total",
        "reserved_bytes",
        "segment",
    )

    def __init__(self, totals: Totals) -> None:
        self.count = self.bytes = self.requested = 0
        self.count_total = self.bytes_total = self.requested_total = 0
        self.pending_count = self.pending_bytes = 0
        self.segment = StatPair(totals.segment)
        self.reserved_bytes = StatPair(totals.reserved_bytes)
        self.inactive_split = StatPair(totals.inactive_split)
        self.inactive_split_bytes = StatPair(totals.inactive_split_bytes)


class HotStats:
    """Peaks and accumulated sums of the five counts that change with each tensor.

    `note()` must run before any of them falls, and before anybody reads a peak.
    """

    #: Stat -> how to read its current value and its running total from `PoolCounters`.
    NAMES = ("allocation", "allocated_bytes", "active", "active_bytes", "requested_bytes")

    __slots__ = ("_bases", "large", "peaks", "small")

    def __init__(self, small: PoolCounters, large: PoolCounters) -> None:
        self.small, self.large = small, large
        # rows: all, small pool, large pool; columns: NAMES
        self.peaks = [[0] * 5 for _ in KINDS]
        self._bases: list[tuple[list[int], list[int]]] = [([0] * 5, [0] * 5) for _ in KINDS]

    def _current(self, counters: PoolCounters) -> list[int]:
        c = counters
        return [c.count, c.bytes, c.count + c.pending_count, c.bytes + c.pending_bytes, c.requested]

    def _totals(self, counters: PoolCounters) -> list[int]:
        c = counters
        return [c.count_total, c.bytes_total, c.count_total, c.bytes_total, c.requested_total]

    def _rows(self, of_small: list[int], of_large: list[int]) -> list[list[int]]:
        return [[a + b for a, b in zip(of_small, of_large, strict=True)], of_small, of_large]

    def note(self) -> None:
        """Raise the peaks to the current values.  Written out: it runs once per two tensor events."""
        small, large = self.small, self.large
        every, of_small, of_large = self.peaks
        count, size, requested = small.count, small.bytes, small.requested
        pending_count, pending = small.pending_count, small.pending_bytes
        if size > of_small[1]:
            of_small[1] = size
        if count > of_small[0]:
            of_small[0] = count
        if requested > of_small[4]:
            of_small[4] = requested
        if count + pending_count > of_small[2]:
            of_small[2] = count + pending_count
        if size + pending > of_small[3]:
            of_small[3] = size + pending
        count2, size2, requested2 = large.count, large.bytes, large.requested
        pending_count2, pending2 = large.pending_count, large.pending_bytes
        if size2 > of_large[1]:
            of_large[1] = size2
        if count2 > of_large[0]:
            of_large[0] = count2
        if requested2 > of_large[4]:
            of_large[4] = requested2
        if count2 + pending_count2 > of_large[2]:
            of_large[2] = count2 + pending_count2
        if size2 + pending2 > of_large[3]:
            of_large[3] = size2 + pending2
        count += count2
        size += size2
        requested += requested2
        if size > every[1]:
            every[1] = size
        if count > every[0]:
            every[0] = count
        if requested > every[4]:
            every[4] = requested
        if count + pending_count + pending_count2 > every[2]:
            every[2] = count + pending_count + pending_count2
        if size + pending + pending2 > every[3]:
            every[3] = size + pending + pending2

    def reset_peaks(self) -> None:
        self.peaks = self._rows(self._current(self.small), self._current(self.large))

    def reset_accumulated(self) -> None:
        now = self._rows(self._current(self.small), self._current(self.large))
        totals = self._rows(self._totals(self.small), self._totals(self.large))
        self._bases = [
            (total, [t - n for t, n in zip(total, current, strict=True)])
            for total, current in zip(totals, now, strict=True)
        ]

    def as_dicts(self) -> dict[str, dict[str, dict[str, int]]]:
        """{stat: {kind: {metric: value}}} of the five counts."""
        now = self._rows(self._current(self.small), self._current(self.large))
        totals = self._rows(self._totals(self.small), self._totals(self.large))
        found: dict[str, dict[str, dict[str, int]]] = {name: {} for name in self.NAMES}
        for row, kind in enumerate(KINDS):
            up_base, down_base = self._bases[row]
            for column, name in enumerate(self.NAMES):
                current, total = now[row][column], totals[row][column]
                found[name][kind] = {
                    "current": current,
                    "peak": max(self.peaks[row][column], current),
                    "allocated": total - up_base[column],
                    "freed": total - current - down_base[column],
                }
        return found


def memory_stats(allocator: ReportingSource) -> dict[str, int]:
    """The flat, sorted dictionary of `torch.cuda.memory_stats()`."""
    large, small = allocator.counters
    found: dict[str, int] = {}

    def put(name: str, values: dict[str, int]) -> None:
        for metric, value in values.items():
            found[f"{name}.{metric}"] = value

    for name, kinds in allocator.hot_stats().items():
        for kind, values in kinds.items():
            put(f"{name}.{kind}", values)
    for name in RARE_STATS:
        pair: StatPair = getattr(small, name)
        put(f"{name}.all", pair.all.as_dict())
        put(f"{name}.small_pool", pair.kind.as_dict())
        put(f"{name}.large_pool", getattr(large, name).kind.as_dict())
    put("oversize_allocations", allocator.oversize_allocations.as_dict())
    put("oversize_segments", allocator.oversize_segments.as_dict())
    limit = allocator.settings.max_split_size
    found |= {
        "max_split_size": -1 if limit == UNLIMITED else limit,  # size_t's maximum read as int64
        "num_alloc_retries": allocator.num_alloc_retries,
        "num_device_alloc": allocator.num_device_alloc,
        "num_device_free": allocator.num_device_free,
        "num_ooms": allocator.num_ooms,
        "num_oom_rejections": allocator.num_oom_rejections,
        "num_sync_all_streams": allocator.num_sync_all_streams,
    }
    return dict(sorted(found.items()))
