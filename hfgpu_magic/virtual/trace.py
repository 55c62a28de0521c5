"""Recordings of a real caching allocator: reading one, and working out the state it started from.

Two forms are read: what `torch.cuda.memory._dump_snapshot` pickles, and the compact JSON (plain or gzip)
of the evidence.  A recording holds the last events and the state after them.  Unless it began with an
empty allocator, the state before them is found by undoing the events one by one.
"""

from __future__ import annotations

import gzip
import io
import json
import pickle
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import UsageError
from .settings import AllocatorSettings

MiB = 1 << 20
#: The unit mapped ranges of expandable segments are kept in; every page size is a multiple.
GRAIN = 2 * MiB

#: action, address (free device bytes for "oom"), bytes, stream
Event = tuple[str, int, int, int]


@dataclass
class BlockState:
    """One block: bytes, and whether somebody holds it.  `size` is None while only the request is known."""

    address: int
    size: int | None
    requested: int
    active: bool = True


@dataclass
class SegmentState:
    """One segment of cudaMalloc, or one mapped stretch of an expandable segment.  Bytes."""

    address: int
    size: int
    stream: int
    small: bool
    expandable: bool = False
    private: bool = False
    blocks: list[BlockState] = field(default_factory=list)


@dataclass
class DeviceTrace:
    """The events of one device in order, and the segments after the last of them."""

    index: int
    events: list[Event]
    segments: list[SegmentState]


@dataclass
class Trace:
    """A whole recording.  `name` is the file's, without its endings."""

    name: str
    devices: list[DeviceTrace]
    settings: AllocatorSettings


def load(path: str | Path) -> Trace:
    """Read a recording.  `UsageError` when the file is none."""
    path = Path(path)
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise UsageError(f"{path} cannot be read ({error.strerror}).") from None
    data = _decode(path, raw)
    try:
        return _trace(path, data)
    except UsageError:
        raise
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise UsageError(
            f"{path} looks like a memory snapshot, but a part of it has an unexpected form ({error!r})."
        ) from None


def _decode(path: Path, raw: bytes) -> Mapping[str, Any]:
    data: object = None
    try:
        if raw[:2] == b"\x1f\x8b":
            raw = gzip.decompress(raw)
        data = _PlainUnpickler(io.BytesIO(raw)).load() if raw[:1] == b"\x80" else json.loads(raw)
    except Exception:  # noqa: BLE001 -- a damaged pickle can raise almost anything; all mean the same here
        data = None
    if not isinstance(data, Mapping) or not {"device_traces", "segments"} <= set(data):
        raise UsageError(
            f"{path} is not a recording of the CUDA allocator. Record one with "
            "torch.cuda.memory._record_memory_history() and torch.cuda.memory._dump_snapshot(FILE)."
        )
    return data


class _PlainUnpickler(pickle.Unpickler):
    """Snapshots are made of plain containers; a pickle that wants a class wants to run code."""

    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(f"{module}.{name} in a memory snapshot")


def _trace(path: Path, data: Mapping[str, Any]) -> Trace:
    streams = _Streams()
    by_device: dict[int, list[SegmentState]] = {}
    for segment in data["segments"]:
        by_device.setdefault(segment.get("device", 0), []).append(_segment(segment, streams))
    devices = []
    for index, rows in enumerate(data["device_traces"]):
        segments = sorted(by_device.get(index, []), key=lambda s: s.address)
        if rows or segments:
            devices.append(DeviceTrace(index, [_event(row, streams) for row in rows], segments))
    name = path.name
    for ending in (".gz", ".json", ".pickle", ".pkl"):
        name = name.removesuffix(ending)
    return Trace(name, devices, _settings(data.get("allocator_settings") or {}))


class _Streams:
    """Streams are recorded as handles; the allocator orders them by their value, so they stay numbers."""

    def __call__(self, value: object) -> int:
        return int(value) if isinstance(value, (int, float)) else 0


def _event(row: Any, stream: _Streams) -> Event:
    if isinstance(row, Mapping):
        address = row.get("device_free", 0) if row["action"] == "oom" else row.get("addr", 0)
        return row["action"], address or 0, row.get("size", 0), stream(row.get("stream", 0))
    return row[0], row[1] or 0, row[2], stream(row[3])


def _segment(row: Mapping[str, Any], stream: _Streams) -> SegmentState:
    blocks, address = [], row["address"]
    for entry in row["blocks"]:
        if isinstance(entry, Mapping):
            size, state = entry["size"], entry["state"]
            requested = entry.get("requested_size", size)
        else:
            _, size, requested, state = entry
        blocks.append(BlockState(address, size, requested, state != "inactive"))
        address += size
    return SegmentState(
        address=row["address"],
        size=row["total_size"],
        stream=stream(row.get("stream", 0)),
        small=row["segment_type"] == "small",
        expandable=bool(row.get("is_expandable", False)),
        private=any(row.get("segment_pool_id") or ()),
        blocks=blocks,
    )


def _settings(recorded: Mapping[str, Any]) -> AllocatorSettings:
    text = recorded.get("PYTORCH_CUDA_ALLOC_CONF") or recorded.get("PYTORCH_ALLOC_CONF") or ""
    return AllocatorSettings.parse(text)


def start_state(trace: DeviceTrace, settings: AllocatorSettings) -> list[SegmentState]:
    """The segments before the first event, by undoing every event of the recording.

    A block that was freed within the recording and allocated before it has left no size.  It is the
    rounded request, or more where the large pool did not split: a free rest of 1 MiB or less cannot
    exist there, so such a gap was part of the block before it.
    """
    live = {b.address: b for s in trace.segments for b in s.blocks if b.active}
    whole = {s.address: s for s in trace.segments if not s.expandable}
    ranges = Ranges(trace)
    for action, address, size, stream in reversed(trace.events):
        if action == "alloc":
            live.pop(address, None)
        elif action == "free_completed":
            live[address] = BlockState(address, None, size)
        elif action == "segment_alloc":
            whole.pop(address, None)
        elif action == "segment_free":
            whole[address] = SegmentState(address, size, stream, small=size == GRAIN)
        elif action == "segment_map":
            ranges.remove(address, size)
        elif action == "segment_unmap":
            ranges.add(address, size)
    segments = [SegmentState(s.address, s.size, s.stream, s.small, private=s.private) for s in whole.values()]
    segments += ranges.segments()
    segments.sort(key=lambda s: s.address)
    _place(segments, sorted(live.values(), key=lambda b: b.address), settings)
    return segments


def _place(segments: list[SegmentState], live: list[BlockState], settings: AllocatorSettings) -> None:
    """Distribute the live blocks over the segments and settle their sizes."""
    at = 0
    for segment in segments:
        end = segment.address + segment.size
        while at < len(live) and live[at].address < segment.address:
            at += 1
        while at < len(live) and live[at].address < end:
            block = live[at]
            at += 1
            following = live[at].address if at < len(live) and live[at].address < end else end
            size = block.size
            if size is None:
                size = settings.round_size(block.requested)
                gap = following - block.address - size
                unsplit = not segment.small and not settings.expandable_segments
                if unsplit and (gap <= MiB or size >= settings.max_split_size):
                    size += gap
            segment.blocks.append(BlockState(block.address, size, block.requested))


class Ranges:
    """The mapped parts of a device's expandable segments, in steps of 2 MiB."""

    def __init__(self, trace: DeviceTrace) -> None:
        self._grains: dict[int, tuple[int, bool]] = {}  # grain -> (stream, small)
        self._kinds: list[tuple[int, int, int, bool]] = []  # address, end, stream, small
        for s in trace.segments:
            if s.expandable:
                self._kinds.append((s.address, s.address + s.size, s.stream, s.small))
                self._set(s.address, s.size, s.stream, s.small)
        self._events = [
            (address, size, stream)
            for action, address, size, stream in trace.events
            if action in ("segment_map", "segment_unmap")
        ]
        self.bases = self._find_bases()

    def _set(self, address: int, size: int, stream: int, small: bool) -> None:
        for grain in range(address // GRAIN, (address + size) // GRAIN):
            self._grains[grain] = (stream, small)

    def _find_bases(self) -> dict[tuple[int, bool], int]:
        """Where the address range of each (stream, pool) begins: its lowest address ever mapped."""
        bases: dict[tuple[int, bool], int] = {}
        for address, _, stream, small in self._kinds:
            bases[stream, small] = min(address, bases.get((stream, small), address))
        for address, size, stream in self._events:
            small = self._is_small(address, size, stream)
            bases[stream, small] = min(address, bases.get((stream, small), address))
        return bases

    def _is_small(self, address: int, size: int, stream: int) -> bool:
        for start, end, owner, small in self._kinds:
            if owner == stream and start <= address < end:
                return small
        return size % (20 * MiB) != 0

    def add(self, address: int, size: int) -> None:
        stream, small = self._owner(address, size)
        self._set(address, size, stream, small)

    def _owner(self, address: int, size: int) -> tuple[int, bool]:
        below = [(base, key) for key, base in self.bases.items() if base <= address]
        return max(below)[1] if below else (0, size % (20 * MiB) != 0)

    def remove(self, address: int, size: int) -> None:
        for grain in range(address // GRAIN, (address + size) // GRAIN):
            self._grains.pop(grain, None)

    def segments(self) -> Iterable[SegmentState]:
        found: list[SegmentState] = []
        for grain in sorted(self._grains):
            stream, small = self._grains[grain]
            last = found[-1] if found else None
            if (
                last is not None
                and last.address + last.size == grain * GRAIN
                and (last.stream, last.small) == (stream, small)
            ):
                last.size += GRAIN
            else:
                found.append(SegmentState(grain * GRAIN, GRAIN, stream, small, expandable=True))
        return found
