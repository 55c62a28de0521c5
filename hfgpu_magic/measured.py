"""Running code on this machine's own GPU and measuring what it took.

`MeasuredGPU` is used like `VirtualGPU` and gives the same kind of report, so a notebook's cells need
not know which of the two they run on.
"""

from __future__ import annotations

import time
from types import TracebackType
from typing import TYPE_CHECKING, Literal, Self

from .errors import VirtualGPUError
from .virtual.report import CATEGORIES, DeviceUse, OutOfMemory, Peak, RunReport

if TYPE_CHECKING:
    import torch as _torch


def has_real_gpu() -> bool:
    """Whether this process can use an NVIDIA GPU, found out without starting CUDA."""
    from .devices.probe import inventory

    if not any(d.backend == "cuda" and d.cuda_index is not None for d in inventory().devices):
        return False
    import torch

    return torch.version.cuda is not None


class MeasuredGPU:
    """Measures the block's peak memory on CUDA device 0 of this process.

    `report` has the figures `torch.cuda` recorded.  `peak.device` is the highest reserved memory plus what
    the driver counts for this process beside it at the end; where the driver does not tell processes apart
    (WSL2, containers), everybody else's memory is in it.  What filled the card is not known from a
    measurement: every byte is "other".
    """

    def __init__(self) -> None:
        self._final: RunReport | None = None
        self._entered = False

    @property
    def never_started(self) -> bool:
        return not self._entered

    @property
    def report(self) -> RunReport:
        if self._final is None:
            raise VirtualGPUError("The measurement is not over yet.")
        return self._final

    def __enter__(self) -> Self:
        import torch

        torch.cuda.init()
        self._entered = True
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        self._started = time.perf_counter()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> Literal[False]:
        import torch

        wall = time.perf_counter() - self._started
        properties = torch.cuda.get_device_properties(0)
        peak = self._peak(torch)
        oom = None
        outcome: Literal["fits", "oom", "error"] = "fits" if error is None else "error"
        if isinstance(error, torch.OutOfMemoryError):
            from .virtual.user_code import line_of_error

            outcome = "oom"
            file, line, code = line_of_error(error)
            oom = OutOfMemory(str(error), file, line, _requested(str(error)), code)
        categories = dict.fromkeys(CATEGORIES, 0) | {"other": peak.allocated}
        use = DeviceUse(0, properties.name, properties.total_memory, peak, categories)
        self._final = RunReport(
            gpu=properties.name,
            total_memory=properties.total_memory,
            outcome=outcome,
            peak=peak,
            devices=(use,),
            oom=oom,
            by_category_at_peak=categories,
            estimated_seconds=None,
            wall_seconds=wall,
            operations=0,
            notes=("Measured on this machine's GPU. Run the cell on a virtual card to see what filled it.",),
            error=None if error is None or oom else f"{type(error).__name__}: {error}",
            measured=True,
        )
        return False

    def _peak(self, torch: _torch) -> Peak:  # type: ignore[valid-type]
        reserved = torch.cuda.max_memory_reserved()  # type: ignore[attr-defined]
        free, total = torch.cuda.mem_get_info()  # type: ignore[attr-defined]
        # The driver's word on this process where it gives one, else all that is not free.
        now = _process_memory() or (total - free)
        context = max(now - torch.cuda.memory_reserved(), 0)  # type: ignore[attr-defined]
        return Peak(torch.cuda.max_memory_allocated(), reserved, reserved + context)  # type: ignore[attr-defined]


def measure() -> MeasuredGPU:
    """A block whose peak memory on this machine's GPU is measured; `.report` afterwards.

    >>> with measure() as cell:
    ...     model(batch).loss.backward()
    >>> cell.report.peak.allocated

    Raises `VirtualGPUError` where this process can use no NVIDIA GPU.
    """
    if not has_real_gpu():
        raise VirtualGPUError(
            'This process can use no NVIDIA GPU, so there is nothing to measure. `with VirtualGPU("T4")`, '
            "or %%gpurun T4 in a notebook, runs the same code on a virtual one."
        )
    return MeasuredGPU()


def _process_memory() -> int:
    """Bytes the driver counts for this process; 0 where it does not tell (WSL2, containers)."""
    import os

    from .devices.probe import inventory

    for device in inventory().devices:
        for process in device.processes or ():
            if process.pid == os.getpid() and process.used_memory:
                return int(process.used_memory)
    return 0


def _requested(message: str) -> int:
    """Bytes from PyTorch's "Tried to allocate 20.00 MiB"; 0 where it does not say."""
    import re

    from .units import GiB, KiB, MiB

    found = re.search(r"Tried to allocate ([\d.]+) (bytes|KiB|MiB|GiB)", message)
    if found is None:
        return 0
    return int(float(found.group(1)) * {"bytes": 1, "KiB": KiB, "MiB": MiB, "GiB": GiB}[found.group(2)])
