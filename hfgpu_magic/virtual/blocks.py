"""The pieces the caching allocator moves: blocks, and the ordered lists of free ones.

A segment is a doubly linked list of blocks in address order.  Its lowest block object lives as long as
the segment: splitting makes a new object for the upper part, merging keeps the lower one.
"""

from __future__ import annotations

from bisect import bisect_left
from typing import TYPE_CHECKING

from .stats import PoolCounters

if TYPE_CHECKING:
    from .expandable import ExpandableSegment

# States of a block.  Only FREE blocks are in a free list, and FREE is falsy: merging tests just that.
FREE, ALLOCATED, PENDING, UNMAPPED, DEAD = range(5)

#: Free lists are ordered by (size, address); one int holds both, as addresses have at most 48 bits.
ADDRESS_BITS = 48


class Block:
    """A stretch of device memory: bytes, addresses.

    `requested` is what the program asked for; a free block keeps its last value, as PyTorch's does.
    """

    __slots__ = (
        "address",
        "age_base",
        "events",
        "home",
        "next",
        "prev",
        "requested",
        "segment",
        "size",
        "state",
        "streams",
    )

    def __init__(
        self, address: int, size: int, home: FreeList, segment: ExpandableSegment | None, state: int
    ) -> None:
        self.address = address
        self.size = size
        self.requested = 0
        self.state = state
        self.prev: Block | None = None
        self.next: Block | None = None
        self.home = home
        self.segment = segment  # the expandable segment it lies in, None on a cudaMalloc segment
        self.streams: set[int] | None = None  # other streams it was used on (record_stream)
        self.events = 0  # outstanding events of those streams, once freed
        self.age_base = 0  # its pool's `lookups` when it became free

    @property
    def stream(self) -> int:
        return self.home.stream

    @property
    def is_split(self) -> bool:
        return self.prev is not None or self.next is not None

    def __repr__(self) -> str:
        state = ("free", "allocated", "pending", "unmapped", "dead")[self.state]
        return f"<Block {self.address:#x} size={self.size} requested={self.requested} {state}>"


class FreeList:
    """The free blocks of one pool that belong to one stream, in (size, address) order."""

    __slots__ = ("blocks", "counters", "keys", "pool", "split_above", "stream", "unmapped")

    def __init__(self, pool: Pool, stream: int) -> None:
        self.keys: list[int] = []
        self.blocks: list[Block] = []  # parallel to keys
        self.unmapped: list[Block] = []  # address space of expandable segments, in address order
        self.stream = stream
        self.pool = pool
        self.counters = pool.counters
        self.split_above = pool.split_above

    def insert(self, block: Block) -> None:
        key = (block.size << ADDRESS_BITS) | block.address
        i = bisect_left(self.keys, key)
        self.keys.insert(i, key)
        self.blocks.insert(i, block)
        block.state = FREE
        block.age_base = self.pool.lookups

    def remove(self, block: Block) -> None:
        i = bisect_left(self.keys, (block.size << ADDRESS_BITS) | block.address)
        del self.keys[i]
        del self.blocks[i]

    def first_at_least(self, size: int) -> int:
        """Index of the smallest free block of `size` bytes or more; the length if there is none."""
        return bisect_left(self.keys, size << ADDRESS_BITS)


class Pool:
    """All small, or all large, blocks of the default pool or of one private pool."""

    __slots__ = ("counters", "lists", "lookups", "private", "small", "split_above")

    def __init__(self, small: bool, counters: PoolCounters, private: PrivatePool | None = None) -> None:
        self.small = small
        self.private = private
        self.counters = counters
        self.split_above = 0  # set by the allocator from its settings
        self.lists: dict[int, FreeList] = {}
        self.lookups = 0  # searches made while garbage collection is on; the clock of block ages

    def list_of(self, stream: int) -> FreeList:
        found = self.lists.get(stream)
        if found is None:
            found = self.lists[stream] = FreeList(self, stream)
        return found

    def set_split_above(self, nbytes: int) -> None:
        """Split a block only when more than `nbytes` would be left over."""
        self.split_above = nbytes
        for free in self.lists.values():
            free.split_above = nbytes

    def ordered(self) -> list[Block]:
        """Every free block in PyTorch's set order: stream, size, address."""
        return [block for stream in sorted(self.lists) for block in self.lists[stream].blocks]


class PrivatePool:
    """Memory kept apart for a CUDA graph capture or a `torch.cuda.MemPool`."""

    __slots__ = ("held", "large", "small", "uses")

    def __init__(self, small: PoolCounters, large: PoolCounters) -> None:
        self.small = Pool(True, small, self)
        self.large = Pool(False, large, self)
        self.uses = 1  # graphs that use the pool
        self.held = 0  # bytes of device memory it still holds
