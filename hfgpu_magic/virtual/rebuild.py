"""Putting an allocator into a recorded state."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

from .allocator import CachingAllocator
from .blocks import ALLOCATED, FREE, UNMAPPED, Block, FreeList
from .expandable import ExpandableSegment
from .memory import AddressSpace
from .trace import GRAIN, DeviceTrace, Ranges, SegmentState

_SMALL_PAGE, _LARGE_PAGE = 2 << 20, 20 << 20
#: Fresh addresses a replay may need below the recorded ones.
_ROOM = 1 << 44


class RecordedAddresses(AddressSpace):
    """Gives a segment the address it had in the recording, when one of that size is expected."""

    __slots__ = ("_expected", "_told")

    def __init__(self, top: int, size: int, *, told: bool) -> None:
        super().__init__(top, size)
        self._told = told
        self._expected: list[tuple[int, int]] = []

    def expect(self, address: int, size: int) -> None:
        """The recording asks the device for `size` bytes and gets `address`."""
        if self._told:
            self._expected.append((address, size))

    def forget(self) -> None:
        self._expected.clear()

    def take(self, size: int) -> int:
        """The recorded address where `size` bytes are what the recording asked for next."""
        if self._expected and self._expected[0][1] == size:
            return self._expected.pop(0)[0]
        return super().take(size)

    def give(self, address: int, size: int) -> None:
        if self.bottom <= address < self.top:
            super().give(address, size)


def recorded_addresses(
    device: DeviceTrace, start: list[SegmentState], *, blind: bool
) -> tuple[RecordedAddresses, int]:
    """Addresses for a replay, and by how much to move the recorded ones.

    A blind replay takes fresh segments below everything it started with.  Where too little is left
    there, the start is moved up as a whole: only the order of addresses matters.
    """
    lowest = min([s.address for s in start] + list(Ranges(device).bases.values()), default=0x7F00_0000_0000)
    if not blind:
        # Only segments the recording does not have come from here; keep them apart from its own.
        return RecordedAddresses((1 << 48) - GRAIN, _ROOM, told=True), 0
    offset = 0 if lowest > 2 * _ROOM else 2 * _ROOM
    return RecordedAddresses(lowest + offset, _ROOM, told=False), offset


def restore(
    allocator: CachingAllocator, device: DeviceTrace, start: list[SegmentState], offset: int = 0
) -> dict[int, Block]:
    """Give an empty allocator the segments of `start`.  Returns the live blocks by recorded address."""
    live: dict[int, Block] = {}
    for segment in start:
        if not segment.expandable:
            private = (0, 1) if segment.private else None
            home = allocator.free_list(segment.small, segment.stream, private)
            allocator.adopt(_chain(list(_cut(segment, home, offset, live))))
    for (stream, small), base in Ranges(device).bases.items():
        mapped = [s for s in start if s.expandable and (s.stream, s.small) == (stream, small)]
        others = [b for b in Ranges(device).bases.values() if b > base]
        page = _SMALL_PAGE if small else _LARGE_PAGE
        span = (min(others, default=base + _ROOM) - base) // page * page
        home = allocator.free_list(small, stream)
        _range(allocator, home, mapped, ExpandableSegment(base + offset, span, page), offset, live)
    allocator.reset_peak_stats()
    return live


def _cut(segment: SegmentState, home: FreeList, offset: int, live: dict[int, Block]) -> Iterator[Block]:
    """The blocks of one stretch of memory: those in use, and what lies between them."""
    at, end = segment.address, segment.address + segment.size
    for state in segment.blocks:
        assert state.size is not None
        if state.address > at:
            yield Block(at + offset, state.address - at, home, None, FREE)
        block = Block(state.address + offset, state.size, home, None, ALLOCATED)
        block.requested = state.requested
        live[state.address] = block
        yield block
        at = state.address + state.size
    if at < end:
        yield Block(at + offset, end - at, home, None, FREE)


def _chain(blocks: list[Block]) -> Block:
    """Link blocks in address order and put the free ones into their list; the lowest one."""
    for lower, upper in pairwise(blocks):
        lower.next, upper.prev = upper, lower
    for block in blocks:
        if block.state == FREE:
            block.home.insert(block)
        elif block.state == UNMAPPED:
            block.home.unmapped.append(block)
    return blocks[0]


def _range(
    allocator: CachingAllocator,
    home: FreeList,
    mapped: list[SegmentState],
    segment: ExpandableSegment,
    offset: int,
    live: dict[int, Block],
) -> None:
    """One expandable segment with its mapped stretches."""
    blocks: list[Block] = []
    at = segment.address
    for stretch in mapped:
        start = stretch.address + offset
        if start > at:
            blocks.append(Block(at, start - at, home, segment, UNMAPPED))
        blocks += _cut(stretch, home, offset, live)
        at = start + stretch.size
    if at < segment.address + segment.size:
        blocks.append(Block(at, segment.address + segment.size - at, home, segment, UNMAPPED))
    for block in blocks:
        block.segment = segment
    allocator.adopt(_chain(blocks))
