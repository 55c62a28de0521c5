"""The card filling up, told while the program runs.

The allocation path looks at the clock once in a while; nothing else runs, and no thread is needed.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from .device import VirtualDevice

#: Allocations between two looks at the clock: a few milliseconds of most programs.
EVERY = 64


@dataclass(frozen=True)
class Moment:
    """What a virtual card holds right now.  Bytes; `used` and `peak` are those nvidia-smi would show.

    `steps` are finished optimizer steps, `operations` those of the device since the start, `rate` those of
    the last stretch a second.
    """

    gpu: str
    total: int
    used: int
    peak: int
    allocated: int
    steps: int
    operations: int
    rate: float


class Display(Protocol):
    """Whoever shows moments: a terminal's line, a cell's output."""

    #: Seconds between two moments, at least.
    interval: float

    def show(self, moment: Moment) -> None: ...


class Watch:
    """Tells a display how the device is, no more often than it asked for."""

    def __init__(self, device: VirtualDevice, display: Display) -> None:
        self._device = device
        self._display: Display | None = display
        self._told = time.perf_counter()
        self._operations = device.operations
        self._busy = False

    def look(self) -> None:
        """To be called every `EVERY` allocations, from any thread."""
        now = time.perf_counter()
        display = self._display
        if display is None or self._busy or now - self._told < display.interval:
            return
        self._busy = True  # what the display does may allocate, or end on another thread
        try:
            device = self._device
            elapsed = now - self._told
            moment = Moment(
                gpu=device.gpu.name,
                total=device.memory.total,
                used=device.memory.context + device.allocator.reserved,
                peak=device.memory.context + device.max_reserved,
                allocated=device.allocator.allocated,
                steps=device.attribution.steps,
                operations=device.operations,
                rate=(device.operations - self._operations) / elapsed,
            )
            self._told, self._operations = now, device.operations
            display.show(moment)
        except (OSError, ValueError):  # the terminal has gone, a stream was closed: the program goes on
            self._display = None
        finally:
            self._busy = False
