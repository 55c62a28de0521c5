"""PyTorch's CUDA caching allocator, rule for rule, without memory.

Each tensor of a virtual GPU goes through `malloc` and `free` here, so what `torch.cuda.memory_*` reports,
which request fails and what could have been done about it follow from the same rules as on a real card.
The rules were read in c10/cuda/CUDACachingAllocator.cpp (torch 2.4 to 2.14) and are checked by replaying
recordings of real cards (`replay.py`).

Not modelled: the cudaMallocAsync backend, sharing between processes, checkpointing a graph's pool.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections.abc import Callable

from ..errors import VirtualGPUError
from .blocks import ADDRESS_BITS, ALLOCATED, DEAD, FREE, PENDING, Block, Pool
from .memory import AddressSpace, DeviceMemory
from .oom import AllocationFailed
from .reporting import ReportingSource
from .segments import SMALL_SIZE, Observer, always
from .settings import MIN_BLOCK, AllocatorSettings

__all__ = ["AllocationFailed", "AllocatorSettings", "Block", "CachingAllocator", "DeviceMemory"]


class CachingAllocator(ReportingSource):
    """The caching allocator of one device.

    `device` is the card it takes segments from.  Tensors get addresses below `address_top`; the range of
    `address_size` bytes should be several times the card, because fresh segments get fresh addresses;
    or give an `AddressSpace` of your own.
    `observer(action, address, size, stream)` hears segment_alloc, segment_free, segment_map,
    segment_unmap and oom; nothing is paid for it when absent.

    Safe against the two ways Python re-enters it: a collection that frees tensors in the middle of a call,
    and another thread; such frees are done when the call is over.
    """

    def __init__(
        self,
        device: DeviceMemory,
        settings: AllocatorSettings | None = None,
        observer: Observer | None = None,
        *,
        address_top: int = 0x7F00_0000_0000,
        address_size: int = 1 << 44,
        ascending: bool = False,
        addresses: AddressSpace | None = None,
    ) -> None:
        if address_top >> ADDRESS_BITS:
            raise ValueError(f"device addresses have at most {ADDRESS_BITS} bits, got {address_top:#x}")
        addresses = addresses or AddressSpace(address_top, address_size, ascending=ascending)
        super().__init__(device, settings or AllocatorSettings(), observer, addresses)
        self._events: list[tuple[int, Block]] = []  # (stream, freed block it still uses)
        self._deferred_events: list[Block] = []
        #: Asked for each freed block another stream still uses: has that stream finished with it?
        self.stream_finished: Callable[[int, Block], bool] = always
        self._busy = False
        self._waiting: list[Block] = []
        self._null = Block(0, 0, self._small.list_of(0), None, ALLOCATED)

    # -- the two calls made for every tensor ---------------------------------------------------------

    def malloc(self, nbytes: int, stream: int = 0) -> Block:
        """A block for `nbytes` on `stream`; keep it and hand it to `free`.

        0 bytes take nothing and have address 0.  Raises `AllocationFailed`.
        """
        if self._busy:
            self._wait()
        self._busy = True
        try:
            if self._events and not self._captures:
                self.process_events()
            if nbytes < MIN_BLOCK:
                if nbytes <= 0:
                    if nbytes < 0:
                        raise ValueError(f"cannot allocate {nbytes} bytes")
                    return self._null
                size = MIN_BLOCK
            elif self._roundup:
                size = self._settings.round_size(nbytes)
            else:
                size = (nbytes + 511) & -512
            pool = self._small if size <= SMALL_SIZE else self._large
            if self._captures:
                pool = self._pool_capturing(pool, stream)
            home = pool.lists.get(stream)
            if home is None:
                home = pool.list_of(stream)
            block: Block | None
            if self._plain:
                keys = home.keys
                i = bisect_left(keys, size << ADDRESS_BITS)
                if i < len(keys):
                    del keys[i]
                    block = home.blocks.pop(i)
                else:
                    block = self._grow(home, size, nbytes)
            else:
                block = self._search(home, size) or self._grow(home, size, nbytes)
            prev, following = block.prev, block.next
            rest = block.size - size
            counters = home.counters
            if rest > home.split_above and size < self._split_below:
                upper = Block(block.address + size, rest, home, block.segment, FREE)
                upper.requested = block.requested
                upper.prev = block
                upper.next = following
                if following is not None:
                    following.prev = upper
                block.next = upper
                block.size = size
                key = (rest << ADDRESS_BITS) | upper.address
                i = bisect_left(home.keys, key)
                home.keys.insert(i, key)
                home.blocks.insert(i, upper)
                if self._ageing:
                    upper.age_base = pool.lookups
                if block.segment is None:
                    if prev is not None or following is not None:
                        counters.inactive_split_bytes.decrease(size)
                    else:
                        counters.inactive_split_bytes.increase(rest)
                        counters.inactive_split.increase(1)
            elif (prev is not None or following is not None) and block.segment is None:
                counters.inactive_split_bytes.decrease(block.size)
                counters.inactive_split.decrease(1)
            block.state = ALLOCATED
            block.requested = nbytes
            size = block.size
            counters.count += 1
            counters.bytes += size
            counters.requested += nbytes
            counters.count_total += 1
            counters.bytes_total += size
            counters.requested_total += nbytes
            self._rising = True
            if size >= self._max_split:
                self.oversize_allocations.increase(1)
            return block
        finally:
            self._busy = False
            if self._waiting:
                self._free_waiting()

    def free(self, block: Block) -> None:
        """Take back a block from `malloc`.  Freeing one twice is an error."""
        if self._busy:
            self._waiting.append(block)
            return
        if block.state != ALLOCATED:
            raise ValueError(f"{block!r} is not allocated")
        if block is self._null:
            return
        self._busy = True
        try:
            if self._rising:
                self._hot.note()
                self._rising = False
            counters = block.home.counters
            counters.count -= 1
            counters.bytes -= block.size
            if block.size >= self._max_split:
                self.oversize_allocations.decrease(1)
            if block.streams is not None:
                self._free_later(block)
            else:
                self._free_block(block)
        finally:
            self._busy = False
            if self._waiting:
                self._free_waiting()

    def _free_block(self, block: Block) -> None:
        """Put a block nobody uses any more back among the free ones, joined with free neighbours."""
        home = block.home
        counters = home.counters
        counters.requested -= block.requested
        keys, blocks = home.keys, home.blocks
        subsumed = gone = 0
        near = block.next
        if near is not None and near.state == FREE:
            i = bisect_left(keys, (near.size << ADDRESS_BITS) | near.address)
            del keys[i], blocks[i]
            subsumed, gone = near.size, 1
            block.size += near.size
            near.state = DEAD
            block.next = near.next
            if near.next is not None:
                near.next.prev = block
        near = block.prev
        if near is not None and near.state == FREE:
            i = bisect_left(keys, (near.size << ADDRESS_BITS) | near.address)
            del keys[i], blocks[i]
            subsumed += near.size
            gone += 1
            near.size += block.size
            near.requested = block.requested
            block.state = DEAD
            near.next = block.next
            if block.next is not None:
                block.next.prev = near
            block = near
        block.state = FREE
        key = (block.size << ADDRESS_BITS) | block.address
        i = bisect_left(keys, key)
        keys.insert(i, key)
        blocks.insert(i, block)
        if self._ageing:
            block.age_base = home.pool.lookups
        if block.segment is None:
            if block.prev is not None or block.next is not None:
                # the part that was in use joins what could not be returned to the device
                counters.inactive_split_bytes.increase(block.size - subsumed)
                if gone == 0:
                    counters.inactive_split.increase(1)
                elif gone == 2:
                    counters.inactive_split.decrease(1)
            elif gone:
                counters.inactive_split_bytes.decrease(subsumed)
                counters.inactive_split.decrease(gone)

    def _wait(self) -> None:
        """Another thread is inside a call; give it time to leave."""
        for _ in range(5000):
            time.sleep(0.001)
            if not self._busy:
                return
        raise VirtualGPUError(
            "The virtual allocator was called from inside itself. A finalizer or signal handler that "
            "allocates device memory cannot run while an allocation is under way."
        )

    def _free_waiting(self) -> None:
        while self._waiting and not self._busy:
            self.free(self._waiting.pop())

    def empty_cache(self) -> None:
        """Release every segment that is wholly free, as `torch.cuda.empty_cache()`."""
        if self._busy:
            self._wait()
        self._busy = True
        try:
            self._release_cached()
        finally:
            self._busy = False
            self._free_waiting()

    # -- streams -------------------------------------------------------------------------------------

    def record_stream(self, block: Block, stream: int) -> None:
        """`stream` uses the block too: once freed it stays taken until that stream is done with it."""
        if stream == block.home.stream or block is self._null:
            return
        if block.streams is None:
            block.streams = set()
        block.streams.add(stream)

    def _free_later(self, block: Block) -> None:
        counters = block.home.counters
        counters.pending_count += 1
        counters.pending_bytes += block.size
        block.state = PENDING
        if self._captures:  # events cannot be asked during a capture
            self._deferred_events.append(block)
        else:
            self._insert_events(block)

    def _insert_events(self, block: Block) -> None:
        streams = block.streams or set()
        block.streams = None
        block.events = len(streams)
        self._events.extend((stream, block) for stream in sorted(streams))

    def process_events(self) -> None:
        """Free the blocks whose other streams have finished; done at the start of each `malloc`."""
        for block in self._deferred_events:
            self._insert_events(block)
        self._deferred_events.clear()
        self._finish_events(self.stream_finished)

    def _finish_events(self, finished: Callable[[int, Block], bool]) -> None:
        if not self._events:
            return
        if self._rising:
            self._hot.note()
            self._rising = False
        waiting, self._events = self._events, []
        blocked: set[int] = set()  # the events of one stream finish in order
        for stream, block in waiting:
            if stream in blocked or not finished(stream, block):
                blocked.add(stream)
                self._events.append((stream, block))
                continue
            block.events -= 1
            if block.events == 0:
                block.home.counters.pending_count -= 1
                block.home.counters.pending_bytes -= block.size
                self._free_block(block)

    # -- CUDA graphs and memory pools ----------------------------------------------------------------

    def begin_allocate_to_pool(
        self, pool_id: tuple[int, int], captures: Callable[..., bool] = always, *, graph: bool = True
    ) -> None:
        """From now on serve the streams for which `captures(stream)` holds from the pool `pool_id`.

        `graph`: for a CUDA graph capture (during which the cache cannot be released), not a MemPool.
        """
        if any(known == pool_id for known, _, _ in self._captures):
            raise VirtualGPUError("beginAllocateToPool: already recording to mempool_id")
        if pool_id in self._private:
            self._private[pool_id].uses += 1
        else:
            self._add_private_pool(pool_id)
        self._captures.append((pool_id, captures, graph))

    def end_allocate_to_pool(self, pool_id: tuple[int, int]) -> None:
        """Undo `begin_allocate_to_pool`; what was allocated stays in the pool."""
        for i, (known, _, _) in enumerate(self._captures):
            if known == pool_id:
                del self._captures[i]
                return
        raise VirtualGPUError("endAllocatePool: not currently recording to mempool_id")

    def release_pool(self, pool_id: tuple[int, int]) -> None:
        """One user of the pool less; without users its memory can go back to the device."""
        pool = self._private[pool_id]
        pool.uses -= 1
        if pool.uses == 0:
            self._freeable[pool_id] = pool

    def _pool_capturing(self, default: Pool, stream: int) -> Pool:
        for pool_id, captures, _ in self._captures:
            if captures(stream):
                private = self._private[pool_id]
                return private.small if default.small else private.large
        return default
