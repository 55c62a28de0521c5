"""Where the caching allocator gets its segments, and when it gives them back.

The slow half of the model: cudaMalloc or expandable segments, the ladder of releases before an
out-of-memory error, `empty_cache`, garbage collection.  The rules were read in
c10/cuda/CUDACachingAllocator.cpp (torch 2.4 to 2.14).
"""

from __future__ import annotations

from collections.abc import Callable

from .blocks import ALLOCATED, DEAD, FREE, UNMAPPED, Block, FreeList, Pool, PrivatePool
from .expandable import ExpandableSegments
from .memory import AddressSpace, DeviceMemory
from .oom import AllocationFailed
from .settings import MIN_BLOCK, UNLIMITED, AllocatorSettings
from .stats import HotStats, PoolCounters, Stat, Totals

MiB = 1 << 20
SMALL_SIZE = MiB  # up to here a request is served by the small pool
SMALL_SEGMENT = 2 * MiB  # what the small pool asks cudaMalloc for
MIN_LARGE_ALLOC = 10 * MiB  # below, a request gets a segment of settings.large_segment_size
ROUND_LARGE = 2 * MiB  # above, its segment is a multiple of this

#: action, address (free device bytes for "oom"), bytes, stream; actions as in torch's memory history.
Observer = Callable[[str, int, int, int], None]


def always(*_: object) -> bool:
    """Every stream has finished; every stream is captured."""
    return True


class SegmentSource:
    """The segments of one device: the free blocks in them, and the ways to get more or fewer.

    `CachingAllocator` builds on it; every size in bytes.
    """

    def __init__(
        self,
        device: DeviceMemory,
        settings: AllocatorSettings,
        observer: Observer | None,
        addresses: AddressSpace,
    ) -> None:
        self.device = device
        self.observer = observer
        self.addresses = addresses
        self._totals = Totals()
        self._counters = (PoolCounters(self._totals), PoolCounters(self._totals))  # large, small
        self._hot = HotStats(self._counters[True], self._counters[False])
        self._rising = False  # something was allocated since peaks were last noted
        self._large = Pool(False, self._counters[False])
        self._small = Pool(True, self._counters[True])
        self._segments: dict[int, Block] = {}  # lowest block of each cudaMalloc segment
        self._expandable = ExpandableSegments(device, addresses, self._report)
        self._private: dict[tuple[int, int], PrivatePool] = {}
        self._freeable: dict[tuple[int, int], PrivatePool] = {}
        #: pool, the streams it serves, whether a CUDA graph is being captured
        self._captures: list[tuple[tuple[int, int], Callable[[int], bool], bool]] = []
        self._limit: int | None = None  # bytes allowed by the memory fraction
        self.num_alloc_retries = self.num_ooms = self.num_sync_all_streams = self.num_oom_rejections = 0
        self._cuda_mallocs = self._cuda_frees = 0
        self.oversize_allocations, self.oversize_segments = Stat(), Stat()
        self.settings = settings
        if settings.per_process_memory_fraction < 1.0:
            self.set_memory_fraction(settings.per_process_memory_fraction)

    def _finish_events(self, finished: Callable[[int, Block], bool]) -> None:
        """Free what other streams have finished with; `CachingAllocator` knows those blocks."""

    @property
    def reserved(self) -> int:
        """Bytes taken from the device: `torch.cuda.memory_reserved()`."""
        return self._totals.reserved_bytes.current

    @property
    def allocated(self) -> int:
        """Bytes of blocks in use: `torch.cuda.memory_allocated()`."""
        return self._counters[0].bytes + self._counters[1].bytes

    # -- settings ------------------------------------------------------------------------------------

    @property
    def settings(self) -> AllocatorSettings:
        return self._settings

    @settings.setter
    def settings(self, new: AllocatorSettings) -> None:
        self._settings = new
        self._max_split = new.max_split_size
        # A request this large is not split off a larger block; expandable segments know no such limit.
        self._split_below = UNLIMITED if new.expandable_segments else new.max_split_size
        self._roundup = any(d > 1 for d in new.roundup_power2_divisions)
        self._set_split(self._small, self._large)
        for pool in self._private.values():
            self._set_split(pool.small, pool.large)
        self._set_search()

    def _set_split(self, small: Pool, large: Pool) -> None:
        small.set_split_above(MIN_BLOCK - 1)
        large.set_split_above(MIN_BLOCK - 1 if self._settings.expandable_segments else SMALL_SIZE)

    def _set_search(self) -> None:
        self._ageing = self._limit is not None and self._settings.garbage_collection_threshold > 0
        self._plain = not (
            self._ageing
            or self._max_split < UNLIMITED
            or self._settings.expandable_segments
            or self._expandable.heads
        )

    @property
    def memory_fraction(self) -> float:
        """The share of the card's total this process may take; 1 without a limit."""
        return 1.0 if self._limit is None else self._limit / self.device.total

    def set_memory_fraction(self, fraction: float) -> None:
        """Allow `fraction` of the card's total, as `torch.cuda.set_per_process_memory_fraction`.

        1.0 lifts the limit, as in torch 2.12 and later.
        """
        if not 0 <= fraction <= 1:
            raise ValueError(f"Invalid fraction value: {fraction}. Allowed range: 0~1")
        self._limit = int(fraction * self.device.total) if fraction < 1 else None
        self._set_search()

    # -- getting memory from the device --------------------------------------------------------------

    def _search(self, home: FreeList, size: int) -> Block | None:
        """Best fit under the settings that make it more than the smallest block that is large enough."""
        if self._ageing:
            home.pool.lookups += 1
        blocks = home.blocks
        i = home.first_at_least(size)
        if i == len(blocks):
            return None
        if blocks[i].segment is not None:
            if self._settings.expandable_segments:
                # A block at the edge of the mapped part counts as large as it could become, so that
                # growing the segment is the last choice.
                while (
                    blocks[i].segment is not None
                    and i + 1 < len(blocks)
                    and _could_become(blocks[i + 1]) < _could_become(blocks[i])
                ):
                    i += 1
            else:  # switched off meanwhile: nothing new goes into expandable segments
                while i < len(blocks) and blocks[i].segment is not None:
                    i += 1
                if i == len(blocks):
                    return None
        block = blocks[i]
        if size < self._max_split:
            if block.size >= self._max_split:
                return None  # an oversize block is not split
        elif block.size >= size + self._settings.max_non_split_rounding:
            return None  # nor wasted on a much smaller request
        del home.keys[i], blocks[i]
        return block

    def _grow(self, home: FreeList, size: int, requested: int) -> Block:
        """A new segment for `size` bytes, after releasing cached ones when the device is full."""
        if self._ageing:
            self._collect_garbage()
        if size <= SMALL_SIZE:
            segment_size = SMALL_SEGMENT
        elif size < MIN_LARGE_ALLOC:
            segment_size = self._settings.large_segment_size
        else:
            segment_size = -(-size // ROUND_LARGE) * ROUND_LARGE
        if (
            self._settings.throw_on_cudamalloc_oom
            and self._limit is not None
            and self.reserved + segment_size > self._limit
        ):
            self.num_oom_rejections += 1
            raise self._out_of_memory(home.stream, requested, size, segment_size, preempted=True)
        block = self._take_segment(home, size, segment_size)
        if block is None and self._max_split < UNLIMITED and self._release_oversize(home, size):
            block = self._take_segment(home, size, segment_size)
        if block is None and not any(graph for _, _, graph in self._captures):
            self._release_cached()
            self.num_alloc_retries += 1
            block = self._take_segment(home, size, segment_size)
        if block is None:
            raise self._out_of_memory(home.stream, requested, size, segment_size)
        return block

    def _take_segment(self, home: FreeList, size: int, segment_size: int) -> Block | None:
        if self._limit is not None and self.reserved + segment_size > self._limit:
            return None
        if self._settings.expandable_segments:
            page = SMALL_SEGMENT if home.pool.small else self._settings.large_segment_size
            block = self._expandable.allocate(home, size, page)
            self._plain = False  # from now on free lists can hold blocks with addresses to grow into
            return block
        if not self.device.reserve(segment_size):
            return None
        block = Block(self.addresses.take(segment_size), segment_size, home, None, FREE)
        self._count_segment(block, segment_size)
        self._cuda_mallocs += 1
        self._report("segment_alloc", block.address, segment_size, home.stream)
        return block

    def _count_segment(self, head: Block, size: int) -> None:
        counters = head.home.counters
        self._segments[head.address] = head
        counters.segment.increase(1)
        counters.reserved_bytes.increase(size)
        if size >= self._max_split:
            self.oversize_segments.increase(1)
        if head.home.pool.private is not None:
            head.home.pool.private.held += size

    def adopt(self, head: Block) -> None:
        """Take over a segment or expandable range built elsewhere, given by its lowest block.

        Its free blocks are in their lists already; what it holds is taken from the device here.
        """
        counters = head.home.counters
        chain: list[Block] = []
        block: Block | None = head
        while block is not None:
            chain.append(block)
            block = block.next
        held = sum(b.size for b in chain if b.state != UNMAPPED)
        if not self.device.reserve(held):
            raise ValueError(f"{held} bytes are not free on the device")
        if head.segment is None:
            self._count_segment(head, held)
        else:
            self._expandable.heads[head.address] = head
            counters.reserved_bytes.increase(held)
            self._plain = False
        for block in chain:
            if block.state == ALLOCATED:
                counters.count += 1
                counters.bytes += block.size
                counters.requested += block.requested
                counters.count_total += 1
                counters.bytes_total += block.size
                counters.requested_total += block.requested
            elif block.state == FREE and head.segment is None and len(chain) > 1:
                counters.inactive_split.increase(1)
                counters.inactive_split_bytes.increase(block.size)
        self._rising = True

    def free_list(self, small: bool, stream: int = 0, private: tuple[int, int] | None = None) -> FreeList:
        """The free blocks of one stream in the default pool or in a private one."""
        if private is None:
            return (self._small if small else self._large).list_of(stream)
        if private not in self._private:
            self._add_private_pool(private)
        pool = self._private[private]
        return (pool.small if small else pool.large).list_of(stream)

    def _add_private_pool(self, pool_id: tuple[int, int]) -> None:
        pool = self._private[pool_id] = PrivatePool(self._counters[True], self._counters[False])
        self._set_split(pool.small, pool.large)

    # -- giving memory back to the device ------------------------------------------------------------

    def _release_cached(self) -> None:
        self.num_sync_all_streams += 1
        self._finish_events(always)
        self._release_pool(self._large)
        self._release_pool(self._small)
        for key, pool in list(self._freeable.items()):
            self._release_pool(pool.small)
            self._release_pool(pool.large)
            if not pool.held:
                del self._freeable[key], self._private[key]

    def _release_pool(self, pool: Pool) -> None:
        blocks = pool.ordered()
        for block in blocks:
            if block.segment is None and block.prev is None and block.next is None:
                self._release(block)
        for block in blocks:
            if block.segment is not None:
                self._expandable.unmap(block)

    def _release(self, block: Block) -> None:
        """Hand back with cudaFree the segment a free block fills."""
        counters = block.home.counters
        block.home.remove(block)
        block.state = DEAD
        del self._segments[block.address]
        self.device.release(block.size)
        self.addresses.give(block.address, block.size)
        self._cuda_frees += 1
        counters.segment.decrease(1)
        counters.reserved_bytes.decrease(block.size)
        if block.size >= self._max_split:
            self.oversize_segments.decrease(1)
        if block.home.pool.private is not None:
            block.home.pool.private.held -= block.size
        self._report("segment_free", block.address, block.size, block.home.stream)

    def _release_oversize(self, home: FreeList, size: int) -> bool:
        """Release as few blocks of `max_split_size` or more as make room for `size`."""
        wanted = max(size, self._max_split)
        i = home.first_at_least(wanted)
        if i < len(home.blocks) and home.blocks[i].segment is None:
            self._release(home.blocks[i])
            return True
        released = 0
        for block in home.blocks[:i][::-1]:
            if released >= wanted or block.size < self._max_split:
                break
            if block.segment is None:
                released += block.size
                self._release(block)
        return released >= wanted

    def _collect_garbage(self) -> None:
        """Release the large segments longest unused, once reserved memory passes the threshold."""
        assert self._limit is not None
        threshold = int(self._settings.garbage_collection_threshold * self._limit)
        excess = self.reserved - threshold
        if excess <= 0:
            return
        pool = self._large
        old = [b for b in pool.ordered() if not b.is_split and b.segment is None]
        ages = {b.address: pool.lookups - b.age_base for b in old}
        total_age, reclaimed, moved = sum(ages.values()), 0, True
        while reclaimed < excess and moved and old:
            mean, moved = total_age / len(old), False
            for block in list(old):
                age = ages[block.address]
                if age >= mean:
                    moved = True
                    reclaimed += block.size
                    total_age -= age
                    old.remove(block)
                    self._release(block)

    def _out_of_memory(
        self, stream: int, requested: int, size: int, segment_size: int, preempted: bool = False
    ) -> AllocationFailed:
        free = self.device.free
        self.num_ooms += 1
        self._report("oom", free, size, stream)
        return AllocationFailed(
            requested=requested,
            size=size,
            segment_size=segment_size,
            device_free=free,
            device_total=self.device.total,
            process_memory=self.device.process,
            allowed=self._limit,
            allocated=self.allocated,
            reserved=self.reserved,
            private_pools=sum(  # PyTorch counts what is free in them
                block.size
                for private in self._private.values()
                for pool in (private.small, private.large)
                for block in pool.ordered()
            ),
            preempted=preempted,
        )

    def _report(self, action: str, address: int, size: int, stream: int) -> None:
        if self.observer is not None:
            self.observer(action, address, size, stream)


def _could_become(block: Block) -> int:
    """The size a block has once the unmapped addresses behind it are backed."""
    following = block.next
    return block.size + (following.size if following is not None and following.state == UNMAPPED else 0)
