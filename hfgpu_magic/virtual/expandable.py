"""Expandable segments: one range of addresses per pool and stream, mapped page by page.

Instead of a cudaMalloc per segment, PyTorch reserves addresses for 9/8 of the card once and backs
them with pages of 2 MiB (small pool) or 20 MiB (large pool) where a request needs them.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Callable
from operator import attrgetter

from .blocks import DEAD, FREE, UNMAPPED, Block, FreeList
from .memory import AddressSpace, DeviceMemory

_by_address = attrgetter("address")

Report = Callable[[str, int, int, int], None]


class ExpandableSegment:
    """A reserved address range.  `page` is the unit it is backed in; bytes."""

    __slots__ = ("address", "page", "size")

    def __init__(self, address: int, size: int, page: int) -> None:
        self.address = address
        self.size = size
        self.page = page


class ExpandableSegments:
    """All expandable segments of one allocator.

    `device` pays for the pages, `addresses` gives the ranges, `report(action, address, size, stream)`
    hears of each map and unmap.
    """

    def __init__(self, device: DeviceMemory, addresses: AddressSpace, report: Report) -> None:
        self.device = device
        self.addresses = addresses
        self.report = report
        self.heads: dict[int, Block] = {}  # lowest block of each range
        self.maps = self.unmaps = 0

    def allocate(self, home: FreeList, size: int, page: int) -> Block | None:
        """A free block of `size` bytes or more, out of its list; None when pages are not to be had.

        What was mapped before the card ran full stays mapped, as in PyTorch.
        """
        block = self._find(home, size, page)
        if block.state == UNMAPPED:
            mapped = self._map(block, min(block.size, size))
            if mapped is None:
                return None
            block = mapped
        while block.size < size:
            following = block.next
            assert following is not None
            assert following.state == UNMAPPED
            mapped = self._map(following, min(size - block.size, following.size))
            if mapped is None:
                return None
            block = mapped
        home.remove(block)
        return block

    def _find(self, home: FreeList, size: int, page: int) -> Block:
        """The lowest place where free and unmapped blocks in a row have room for `size` bytes."""
        for block in home.unmapped:
            before = block.prev
            start = before if before is not None and before.state == FREE else block
            room = 0
            walk: Block | None = start
            while room < size and walk is not None and walk.state in (FREE, UNMAPPED):
                room += walk.size
                walk = walk.next
            if room >= size:
                return start
        # 1 1/8 of the card, so pages unmapped low can come back high
        span = -(-(self.device.total + self.device.total // 8) // page) * page
        largest = self.addresses.largest
        if span > largest:  # a real card has 2**47 addresses; here leave some for the next stream
            span = max(largest // 2 // page * page, -(-size // page) * page)
        return self.add_range(home, self.addresses.take(span), span, page)

    def add_range(self, home: FreeList, address: int, size: int, page: int) -> Block:
        """Start a new, wholly unmapped range at `address`."""
        segment = ExpandableSegment(address, size, page)
        block = Block(address, size, home, segment, UNMAPPED)
        insort(home.unmapped, block, key=_by_address)
        self.heads[address] = block
        return block

    def _map(self, block: Block, size: int) -> Block | None:
        """Back the first `size` bytes of an unmapped block, whole pages; the free block they joined."""
        home, segment = block.home, block.segment
        assert segment is not None
        size = -(-size // segment.page) * segment.page
        if not self.device.reserve(size):
            return None
        address = block.address
        home.unmapped.remove(block)
        if size < block.size:
            rest = Block(address + size, block.size - size, home, segment, UNMAPPED)
            rest.prev, rest.next = block, block.next
            if rest.next is not None:
                rest.next.prev = rest
            block.next, block.size = rest, size
            insort(home.unmapped, rest, key=_by_address)
        block.state = FREE
        following = block.next
        if following is not None and following.state == FREE:
            home.remove(following)
            _absorb_next(block)
        before = block.prev
        if before is not None and before.state == FREE:
            home.remove(before)
            before.requested = block.requested
            _absorb_next(before)
            block = before
        home.insert(block)
        home.counters.reserved_bytes.increase(size)
        if home.pool.private is not None:
            home.pool.private.held += size
        self.maps += 1
        self.report("segment_map", address, size, home.stream)
        return block

    def unmap(self, block: Block) -> None:
        """Give back the whole pages inside a free block; drop the range when nothing is left in it."""
        home, segment = block.home, block.segment
        assert segment is not None
        page, base = segment.page, segment.address
        start = base + -(-(block.address - base) // page) * page
        end = base + (block.address + block.size - base) // page * page
        if start >= end:
            return
        home.remove(block)
        if end < block.address + block.size:
            after = Block(end, block.address + block.size - end, home, segment, FREE)
            after.prev, after.next = block, block.next
            if after.next is not None:
                after.next.prev = after
            block.next = after
            home.insert(after)
        if block.address < start:
            hole = Block(start, end - start, home, segment, UNMAPPED)
            hole.prev, hole.next = block, block.next
            if hole.next is not None:
                hole.next.prev = hole
            block.next, block.size = hole, start - block.address
            hole.requested, block.requested = block.requested, 0
            home.insert(block)
        else:
            hole = block
            hole.size, hole.state = end - start, UNMAPPED
        if hole.next is not None and hole.next.state == UNMAPPED:
            home.unmapped.remove(hole.next)
            _absorb_next(hole)
        if hole.prev is not None and hole.prev.state == UNMAPPED:
            before = hole.prev
            home.unmapped.remove(before)
            _absorb_next(before)
            hole = before
        insort(home.unmapped, hole, key=_by_address)
        self.device.release(end - start)
        home.counters.reserved_bytes.decrease(end - start)
        if home.pool.private is not None:
            home.pool.private.held -= end - start
        self.unmaps += 1
        self.report("segment_unmap", start, end - start, home.stream)
        if hole.prev is None and hole.next is None:
            home.unmapped.remove(hole)
            del self.heads[segment.address]
            self.addresses.give(segment.address, segment.size)


def _absorb_next(block: Block) -> None:
    """Join a block with the one above it."""
    following = block.next
    assert following is not None
    block.size += following.size
    following.state = DEAD
    block.next = following.next
    if block.next is not None:
        block.next.prev = block
