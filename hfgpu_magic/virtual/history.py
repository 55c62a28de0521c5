"""`torch.cuda.memory._record_memory_history`: every event of the allocator with the Python lines behind it.

The entries are those of PyTorch's snapshots, so that pytorch.org/memory_viz and `hfgpu replay` read what
`torch.cuda.memory._dump_snapshot` writes.  Nothing is paid while nothing is recorded: the allocator's two
calls are replaced only in between.
"""

from __future__ import annotations

import os
import sys
import time
from collections import deque
from typing import TYPE_CHECKING, Any

from .user_code import OURS

if TYPE_CHECKING:
    from types import CodeType, FrameType

    from .blocks import Block
    from .device import VirtualDevice

_UNLIMITED = sys.maxsize


class History:
    """The event log of one device.  Sizes in bytes, times in microseconds."""

    def __init__(self, device: VirtualDevice) -> None:
        self._device = device
        self._entries: deque[dict[str, Any]] = deque()
        self._frames: dict[tuple[CodeType, int], dict[str, Any]] = {}
        self._of_block: dict[int, list[dict[str, Any]]] = {}
        self._recording = False
        self._stacks = True

    def start(self, max_entries: int = _UNLIMITED, *, stacks: bool = True, trace: bool = True) -> None:
        """Begin (or go on) recording; of more than `max_entries` events the last are kept."""
        self._entries = deque(self._entries, maxlen=min(max_entries, _UNLIMITED) if trace else 0)
        self._stacks = stacks
        if self._recording:
            return
        self._recording = True
        allocator = self._device.allocator
        malloc, free = allocator.malloc, allocator.free

        def recorded_malloc(nbytes: int, stream: int = 0) -> Block:
            block = malloc(nbytes, stream)
            if nbytes:
                frames = self._stack()
                self._of_block[block.address] = frames
                self._add("alloc", block.address, nbytes, stream, frames)
            return block

        def recorded_free(block: Block) -> None:
            if block.size:
                address, size, stream = block.address, block.requested, block.stream
                frames = self._of_block.pop(address, [])
                self._add("free_requested", address, size, stream, frames)
                free(block)
                self._add("free_completed", address, size, stream, frames)
            else:
                free(block)

        allocator.malloc, allocator.free = recorded_malloc, recorded_free  # type: ignore[method-assign]
        allocator.observer = self._segment_event

    def stop(self) -> None:
        """Record no more and forget what was recorded."""
        if self._recording:
            allocator = self._device.allocator
            del allocator.malloc, allocator.free
            allocator.observer = None
            self._recording = False
        self.clear()

    def clear(self) -> None:
        self._entries.clear()
        self._of_block.clear()

    def snapshot(self) -> dict[str, Any]:
        """What `torch.cuda.memory._snapshot()` returns."""
        allocator = self._device.allocator
        if self._recording:
            self._add("snapshot", 0, allocator.allocated, 0, self._stack())
        segments = allocator.snapshot()
        for segment in segments:
            for block in segment["blocks"]:
                block["frames"] = self._of_block.get(block["address"], [])
        return {
            "segments": segments,
            "device_traces": [list(self._entries)],
            "allocator_settings": {
                "PYTORCH_CUDA_ALLOC_CONF": os.environ.get("PYTORCH_CUDA_ALLOC_CONF", ""),
            },
        }

    def _segment_event(self, action: str, address: int, size: int, stream: int) -> None:
        self._add(action, address, size, stream, self._stack())

    def _add(self, action: str, address: int, size: int, stream: int, frames: list[dict[str, Any]]) -> None:
        entry: dict[str, Any] = {
            "action": action,
            "size": size,
            "stream": stream,
            "time_us": time.time_ns() // 1000,
            "frames": frames,
        }
        # For "oom" the allocator hands over the free bytes of the card in the address's place.
        entry["device_free" if action == "oom" else "addr"] = address
        self._entries.append(entry)

    def _stack(self) -> list[dict[str, Any]]:
        """The lines of Python that led here, innermost first, this package's own left out."""
        if not self._stacks:
            return []
        found: list[dict[str, Any]] = []
        frame: FrameType | None = sys._getframe(2)
        while frame is not None:
            code, line = frame.f_code, frame.f_lineno
            if not code.co_filename.startswith(OURS):
                key = (code, line)
                entry = self._frames.get(key)
                if entry is None:
                    entry = {"filename": code.co_filename, "line": line, "name": code.co_name}
                    self._frames[key] = entry
                found.append(entry)
            frame = frame.f_back
        return found
