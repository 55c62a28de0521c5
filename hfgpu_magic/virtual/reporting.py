"""What an allocator reports about itself: the numbers of `torch.cuda.memory_*`."""

from __future__ import annotations

from typing import Any

from .blocks import Block, PrivatePool
from .segments import SegmentSource
from .snapshot import segments_of
from .stats import RARE_STATS, PoolCounters, Stat, memory_stats


class ReportingSource(SegmentSource):
    """A `SegmentSource` that can be asked.  Bytes throughout."""

    @property
    def active(self) -> int:
        """Allocated bytes and those freed but still used by another stream."""
        return self.allocated + self._counters[0].pending_bytes + self._counters[1].pending_bytes

    @property
    def requested(self) -> int:
        """Bytes the program asked for, before rounding."""
        return self._counters[0].requested + self._counters[1].requested

    @property
    def max_allocated(self) -> int:
        return self._peaks()[1]

    @property
    def max_reserved(self) -> int:
        return self._totals.reserved_bytes.peak

    @property
    def max_active(self) -> int:
        return self._peaks()[3]

    @property
    def max_requested(self) -> int:
        return self._peaks()[4]

    def _peaks(self) -> list[int]:
        if self._rising:
            self._hot.note()
            self._rising = False
        return self._hot.peaks[0]

    @property
    def num_device_alloc(self) -> int:
        return self._cuda_mallocs + self._expandable.maps

    @property
    def num_device_free(self) -> int:
        return self._cuda_frees + self._expandable.unmaps

    @property
    def private_pools(self) -> dict[tuple[int, int], PrivatePool]:
        return self._private

    @property
    def counters(self) -> tuple[PoolCounters, PoolCounters]:
        """Counters of the large pools and of the small ones."""
        return self._counters

    def heads(self) -> list[Block]:
        """The lowest block of every segment and of every expandable range."""
        return [*self._segments.values(), *self._expandable.heads.values()]

    def hot_stats(self) -> dict[str, dict[str, dict[str, int]]]:
        """Counts that change with each tensor, as {stat: {pool kind: {metric: value}}}."""
        self._peaks()
        return self._hot.as_dicts()

    def memory_stats(self) -> dict[str, int]:
        """What `torch.cuda.memory_stats()` returns, key for key, sorted."""
        return memory_stats(self)

    def snapshot(self, device_index: int = 0) -> list[dict[str, Any]]:
        """What `torch.cuda.memory_snapshot()` returns: every segment with its blocks."""
        return segments_of(self, device_index)

    def _rare_stats(self) -> list[Stat]:
        large, small = self._counters
        pairs = [getattr(side, name) for side in (large, small) for name in RARE_STATS]
        found: list[Stat] = [pair.kind for pair in pairs] + [pair.all for pair in pairs[:4]]
        return [*found, self.oversize_allocations, self.oversize_segments]

    def reset_peak_stats(self) -> None:
        """As `torch.cuda.reset_peak_memory_stats()`."""
        self._peaks()
        self._hot.reset_peaks()
        for stat in self._rare_stats():
            stat.reset_peak()

    def reset_accumulated_stats(self) -> None:
        """As `torch.cuda.reset_accumulated_memory_stats()`."""
        self._hot.reset_accumulated()
        for stat in self._rare_stats():
            stat.reset_accumulated()
        self.num_alloc_retries = self.num_ooms = self.num_sync_all_streams = self.num_oom_rejections = 0
        self._cuda_mallocs = self._cuda_frees = 0
        self._expandable.maps = self._expandable.unmaps = 0
