"""Replaying a recording of a real caching allocator through this one.

`replay` runs it twice.  First with the segments at their recorded addresses: every allocation must land
where it landed on the card, every segment be asked for, mapped and released when and in the order it was.
Then blind, with no segment told after the start and fresh ones at falling addresses: the peak of reserved
memory must come out the same.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from .._result import Result
from .allocator import AllocationFailed, CachingAllocator
from .blocks import FREE, UNMAPPED, Block
from .memory import DeviceMemory
from .rebuild import recorded_addresses, restore
from .settings import AllocatorSettings
from .trace import DeviceTrace, SegmentState, Trace, load, start_state

#: Room for a card no recording names: large enough never to be the reason for anything.
_UNBOUNDED = 1 << 46
_SEGMENT_ACTIONS = {"segment_alloc", "segment_free", "segment_map", "segment_unmap"}
_RELEASES = {"segment_free", "segment_unmap"}


@dataclass(frozen=True)
class TraceReplay(Result):
    """How far the model agrees with one recording.  `*_matches` count agreements; bytes for the peaks."""

    trace: str
    events: int
    allocations: int
    address_matches: int
    segment_events: int
    segment_matches: int
    blocks: int
    blocks_matches: int
    ooms: int
    oom_matches: int
    peak_reserved_predicted: int
    peak_reserved_recorded: int
    seconds: float

    @property
    def exact(self) -> bool:
        """Whether nothing differs, the blind peak included."""
        return (
            self.address_matches == self.allocations
            and self.segment_matches == self.segment_events
            and self.blocks_matches == self.blocks
            and self.oom_matches == self.ooms
            and self.peak_reserved_predicted == self.peak_reserved_recorded
        )

    def to_dict(self) -> dict[str, Any]:
        return {**super().to_dict(), "exact": self.exact}

    def to_text(self, *, color: bool = False, width: int = 88) -> str:
        from ..views.replay import replay_text

        return replay_text((self,), color=color, width=width)

    def to_html(self) -> str:
        from ..views.replay import replay_html

        return replay_html((self,))


def replay(path: str | Path) -> TraceReplay:
    """Replay the recording in `path`; the seconds include reading it."""
    began = time.perf_counter()
    trace = load(path)
    return replay_trace(trace, began=began)


def replay_trace(trace: Trace, *, began: float | None = None) -> TraceReplay:
    """Replay a recording already read."""
    began = time.perf_counter() if began is None else began
    sums: Counter[str] = Counter()
    for device in trace.devices:
        start = start_state(device, trace.settings)
        told = _Run(device, start, trace.settings, blind=False)
        told.play()
        blind = _Run(device, start, trace.settings, blind=True)
        blind.play()
        blocks, agreeing = told.compare_blocks()
        sums.update(
            events=len(device.events),
            allocations=told.allocations,
            address_matches=told.address_matches,
            segment_events=told.segment_events,
            segment_matches=told.segment_matches,
            blocks=blocks,
            blocks_matches=agreeing,
            ooms=told.ooms,
            oom_matches=told.oom_matches,
            peak_reserved_predicted=blind.allocator.max_reserved,
            peak_reserved_recorded=_recorded_levels(device, start)[0],
        )
    counts = {f.name: sums[f.name] for f in fields(TraceReplay) if f.name not in ("trace", "seconds")}
    return TraceReplay(trace=trace.name, seconds=time.perf_counter() - began, **counts)


def _recorded_levels(device: DeviceTrace, start: list[SegmentState]) -> tuple[int, int | None]:
    """The highest sum of segments in the recording, and the card's bytes if an OOM tells them."""
    now = peak = sum(s.size for s in start)
    capacity = None
    for action, address, size, _ in device.events:
        if action in ("segment_alloc", "segment_map"):
            now += size
            peak = max(peak, now)
        elif action in _RELEASES:
            now -= size
        elif action == "oom" and capacity is None:
            capacity = now + address  # address: what cudaMemGetInfo called free
    return peak, capacity


class _Run:
    """One pass of one device's events.  `blind`: fresh segments get fresh addresses, not the recorded."""

    def __init__(
        self, device: DeviceTrace, start: list[SegmentState], settings: AllocatorSettings, *, blind: bool
    ) -> None:
        self.device = device
        self.blind = blind
        _, capacity = _recorded_levels(device, start)
        self.addresses, offset = recorded_addresses(device, start, blind=blind)
        self.allocator = CachingAllocator(
            DeviceMemory(capacity or _UNBOUNDED), settings, self._observe, addresses=self.addresses
        )
        self.live = restore(self.allocator, device, start, offset)
        self.pending: dict[int, Block] = {}  # freed, but recorded as still used by another stream
        self.allocator.stream_finished = lambda _stream, block: block not in self.pending.values()
        self.seen: list[tuple[str, int, int]] = []  # what the model did to segments since last compared
        self.recorded: list[tuple[str, int, int]] = []  # what the recording did
        self.allocations = self.address_matches = self.segment_events = self.segment_matches = 0
        self.ooms = self.oom_matches = 0

    def _observe(self, action: str, address: int, size: int, _stream: int) -> None:
        if action != "oom":
            self.seen.append((action, address, size))

    def play(self) -> None:
        """Run every event."""
        events, allocator, live = self.device.events, self.allocator, self.live
        last = len(events) - 1
        for i, (action, address, size, stream) in enumerate(events):
            if action == "alloc":
                self.allocations += 1
                try:
                    block = allocator.malloc(size, stream)
                except AllocationFailed:
                    continue
                live[address] = block
                if block.address == address:
                    self.address_matches += 1
                if self.seen or self.recorded:
                    self._compare_segments()
            elif action == "free_requested":
                freed = live.pop(address, None)
                if freed is None:
                    continue
                if i < last and events[i + 1][:2] != ("free_completed", address):
                    self._hold(freed, address)
                allocator.free(freed)
            elif action == "free_completed":
                if self.pending.pop(address, None) is not None:
                    allocator.process_events()
            elif action in _SEGMENT_ACTIONS:
                self.recorded.append((action, address, size))
                if action == "segment_alloc":
                    self.addresses.expect(address, size)
                elif action in _RELEASES and (i == last or events[i + 1][0] not in (*_RELEASES, "oom")):
                    allocator.empty_cache()
                    self._compare_segments()
            elif action == "oom":
                self._run_out(address, size, stream)
        self._compare_segments()

    def _hold(self, block: Block, address: int) -> None:
        """Keep a freed block taken until the recording says another stream is done with it."""
        # a stream of its own, as completions of different blocks come in any order
        self.allocator.record_stream(block, -1 - address)
        self.pending[address] = block

    def _run_out(self, device_free: int, size: int, stream: int) -> None:
        self.ooms += 1
        try:
            self.allocator.free(self.allocator.malloc(size, stream))
        except AllocationFailed as failure:
            if failure.device_free == device_free and failure.size == size:
                self.oom_matches += 1
        self._compare_segments()

    def _compare_segments(self) -> None:
        """Count the segment events since the last comparison that are the same on both sides."""
        self.segment_events += len(self.recorded)
        same = sum(a == b for a, b in zip(self.seen, self.recorded, strict=False))
        self.segment_matches += same - max(0, len(self.seen) - len(self.recorded))
        self.seen.clear()
        self.recorded.clear()
        self.addresses.forget()

    def compare_blocks(self) -> tuple[int, int]:
        """How many blocks the recording ends with, and how many of them the model has too."""
        ours = {}
        for head in self.allocator.heads():
            block: Block | None = head
            while block is not None:
                if block.state != UNMAPPED:
                    active = block.state != FREE
                    ours[block.address] = (block.size, active, block.requested if active else None)
                block = block.next
        recorded = {
            b.address: (b.size, b.active, b.requested if b.active else None)
            for s in self.device.segments
            for b in s.blocks
        }
        same = sum(ours.get(address) == block for address, block in recorded.items())
        return len(recorded), same - len(ours.keys() - recorded.keys())


@dataclass(frozen=True)
class Replays(Result):
    """Several recordings replayed."""

    traces: tuple[TraceReplay, ...]

    @classmethod
    def of(cls, paths: Iterable[str | Path]) -> Replays:
        return cls(tuple(replay(path) for path in paths))

    @property
    def exact(self) -> bool:
        return all(t.exact for t in self.traces)

    def to_dict(self) -> dict[str, Any]:
        return {"exact": self.exact, "traces": [t.to_dict() for t in self.traces]}

    def to_text(self, *, color: bool = False, width: int = 88) -> str:
        from ..views.replay import replay_text

        return replay_text(self.traces, color=color, width=width)

    def to_html(self) -> str:
        from ..views.replay import replay_html

        return replay_html(self.traces)
