"""What a virtual run found: the record behind `hfgpu run`, `%%gpurun` and `VirtualGPU(...).report`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from .._result import Result, plain

#: Order in which the categories of `RunReport.by_category_at_peak` are shown and stacked.
CATEGORIES = (
    "parameters",
    "gradients",
    "optimizer",
    "activations",
    "buffers",
    "inputs",
    "workspace",
    "other",
)


@dataclass(frozen=True)
class Peak:
    """Highest values reached, in bytes.

    `allocated` and `reserved` are what `torch.cuda.max_memory_allocated` and
    `max_memory_reserved` report.  `device` is what nvidia-smi would show for the process at
    its highest: reserved memory plus the CUDA context.
    """

    allocated: int
    reserved: int
    device: int


@dataclass(frozen=True)
class OutOfMemory:
    """The first out-of-memory error the program was given.

    `file`/`line` is the innermost line of the *user's* program (None when there is none),
    `requested` the bytes of the allocation that failed, `caught` whether the program went on.
    """

    message: str
    file: str | None
    line: int | None
    requested: int
    code: str | None = None
    caught: bool = False


@dataclass(frozen=True)
class Holding:
    """Bytes held by one module or one source line when the device was fullest."""

    name: str
    category: str
    bytes: int


@dataclass(frozen=True)
class DeviceUse:
    """One virtual device of the run.  Bytes throughout; `name` as the driver reports it."""

    index: int
    name: str
    total_memory: int
    peak: Peak
    by_category_at_peak: dict[str, int]


@dataclass(frozen=True)
class TimelinePoint:
    """`operation` counts device operations since the start; the rest is bytes."""

    operation: int
    allocated: int
    reserved: int


@dataclass(frozen=True)
class RunReport(Result):
    """The outcome of running a program on a virtual GPU."""

    gpu: str
    total_memory: int
    outcome: Literal["fits", "oom", "error"]
    peak: Peak
    devices: tuple[DeviceUse, ...]
    oom: OutOfMemory | None
    by_category_at_peak: dict[str, int]
    estimated_seconds: float | None
    wall_seconds: float
    operations: int
    notes: tuple[str, ...] = ()
    error: str | None = None
    largest_at_peak: tuple[Holding, ...] = ()
    demand: DeviceUse | None = None
    """What the program would need on a card of this kind with memory to spare; only where asked for."""
    measured: bool = False
    """True when a real card was measured, False for a virtual one."""
    timeline: tuple[TimelinePoint, ...] = field(default=(), repr=False)

    @property
    def needed(self) -> Peak:
        """The peak the program wants: `demand` where it is known, else what was reached."""
        return self.demand.peak if self.demand else self.peak

    @property
    def headroom(self) -> int:
        """Bytes of the card left free at the fullest moment."""
        return self.total_memory - self.peak.device

    def to_dict(self) -> dict[str, Any]:
        data = plain(self)
        assert isinstance(data, dict)
        del data["timeline"]
        return data

    def to_text(self, *, color: bool = False, width: int = 88) -> str:
        from ..views.run_text import run_text

        return run_text(self, color=color, width=width)

    def to_html(self) -> str:
        from ..views.run_html import run_html

        return run_html(self)
