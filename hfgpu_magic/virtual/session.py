"""`VirtualGPU`: a context manager inside which `cuda` is a card you do not have."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from types import TracebackType
from typing import Any, Literal, Self

import torch

from ..devices.catalog import context_under, parse_gpus
from ..errors import UsageError, VirtualGPUError
from ..units import GiB
from . import backend, edge, engine, hollow, hub, state, switches
from .device import VirtualDevice, version_pair
from .edge import names
from .kernels import external, generic
from .patches import Patches
from .progress import Display
from .report import DeviceUse, OutOfMemory, Peak, RunReport
from .timeline import by_category, largest


class VirtualGPU:
    """Run PyTorch code on a GPU this machine does not have.

    >>> with VirtualGPU("T4") as gpu:
    ...     x = torch.empty(1024, 1024, device="cuda")
    >>> gpu.report.peak.allocated
    4194304

    `name` is a card of the catalog, spelled as people spell it.  `context` overrides the catalog's
    estimate of the CUDA context (bytes), `memory` the card's total memory (bytes), `torch_version` the
    PyTorch whose use of cuBLAS's workspaces is modelled (else the installed one's).

    Inside the block tensors on `cuda` have shapes, types and addresses but no data; PyTorch's caching
    allocator is modelled to the byte, and the card's limit raises the same `torch.OutOfMemoryError` as
    the card would.  Leaving the block, by whatever way, restores PyTorch.

    Raises `UnknownGPUError` for an unknown name, `VirtualGPUError` when another virtual GPU is running or
    this process already uses a real one.
    """

    def __init__(
        self,
        name: str,
        *,
        context: int | None = None,
        memory: int | None = None,
        torch_version: str | None = None,
        display: Display | None = None,
    ) -> None:
        self.gpu, count = parse_gpus(name)
        if count != 1:
            raise UsageError(
                f"{name!r} asks for {count} GPUs; one virtual GPU at a time for now. Try {self.gpu.name!r}."
            )
        self._context = context
        self._torch_version = torch_version
        self._memory = self.gpu.memory_total if memory is None else memory
        self._display = display
        self._device: VirtualDevice | None = None
        self._patches: Patches | None = None
        self._started = 0.0
        self._wall: float | None = None
        self._error: BaseException | None = None
        self._final: RunReport | None = None

    # ------------------------------------------------------------ the block

    def __enter__(self) -> Self:
        if state.active is not None:
            raise VirtualGPUError(
                f"A virtual {state.active.gpu.name} is already running. Leave its block (or cell) first."
            )
        if not self.never_started:
            raise VirtualGPUError("This VirtualGPU has been used. Make a new one for a new run.")
        _refuse_beside_real_gpu()
        backend.ensure_registered()
        generic.clear()
        context = self._context
        if context is None and self._torch_version is not None:
            context = context_under(self.gpu, version_pair(self._torch_version))
        device = VirtualDevice(
            self.gpu, context=context, memory=self._memory, torch_version=self._torch_version
        )
        patches = Patches()
        try:
            switches.install(patches)
            engine.ensure_device_thread(VirtualDevice(self.gpu))
            state.active = device
            edge.install(patches, device)
            hollow.install(patches)
            external.watch(patches)
            device.attribution.install(patches)
            hub.install(patches, device)
        except BaseException:
            state.active = None
            patches.undo()
            raise
        if self._display is not None:
            device.show_on(self._display)
        self._device, self._patches = device, patches
        self._started = time.perf_counter()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> Literal[False]:
        assert self._device is not None
        assert self._patches is not None
        self._wall = time.perf_counter() - self._started
        try:
            names.say_cuda(error)
            self._final = self._report(error)
        finally:
            state.active = None
            self._patches.undo()
            self._device.close()
            self._device = None
        return False

    # ------------------------------------------------------------ what happened

    @property
    def never_started(self) -> bool:
        """True until the block has been entered."""
        return self._device is None and self._final is None

    @property
    def report(self) -> RunReport:
        """What the run used, so far or, after the block, in the end."""
        if self._final is not None:
            return self._final
        if self._device is None:
            raise VirtualGPUError("Nothing has run on this virtual GPU yet.")
        return self._report(None)

    def note(self, text: str) -> None:
        """Add a sentence to the report's notes."""
        if self._device is not None:
            self._device.note(text)

    def _report(self, error: BaseException | None) -> RunReport:
        device = self._device
        assert device is not None
        device.attribution.settle()
        at_peak = device.timeline.at_peak()
        peak = Peak(
            allocated=device.max_allocated,
            reserved=device.max_reserved,
            device=device.memory.context + device.max_reserved,
        )
        oom = device.out_of_memory
        died_of_it = error is not None and _is_out_of_memory(error)
        if oom is not None and not died_of_it:
            oom = OutOfMemory(oom.message, oom.file, oom.line, oom.requested, oom.code, caught=True)
        if isinstance(error, KeyboardInterrupt):
            device.note("Interrupted: the figures are those of the run so far.")
        outcome: Literal["fits", "oom", "error"] = "fits"
        if died_of_it:
            outcome = "oom"
        elif error is not None and not (isinstance(error, SystemExit) and error.code in (None, 0)):
            outcome = "error"
        categories = by_category(at_peak)
        use = DeviceUse(0, self.gpu.driver_name, self._memory, peak, categories)
        return RunReport(
            gpu=self.gpu.name,
            total_memory=self._memory,
            outcome=outcome,
            peak=peak,
            devices=(use,),
            oom=oom,
            by_category_at_peak=categories,
            estimated_seconds=device.seconds,
            wall_seconds=time.perf_counter() - self._started if self._wall is None else self._wall,
            operations=device.operations,
            notes=(*device.notes, *_workspace_note(device)),
            error=None if error is None or died_of_it else f"{type(error).__name__}: {error}",
            largest_at_peak=largest(at_peak),
            timeline=device.timeline.curve(),
        )


def _workspace_note(device: VirtualDevice) -> tuple[str, ...]:
    bound = device.libraries.convolution_bound
    if bound * 100 <= device.max_reserved:
        return ()
    note = (
        "cuDNN's workspace for convolutions is not included: it depends on the algorithm cuDNN chooses, "
        f"and tiled algorithms need up to {bound / GiB:.2f} GiB here."
    )
    return (note,)


def _is_out_of_memory(error: BaseException | None) -> bool:
    """The error, or what it was raised from, is PyTorch's out-of-memory error."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        if isinstance(error, torch.OutOfMemoryError):
            return True
        seen.add(id(error))
        error = error.__cause__ or error.__context__
    return False


def _refuse_beside_real_gpu() -> None:
    """A mapping gap must never reach a real card unnoticed: a process that can see one is not used."""
    available: Callable[[], Any] | None = getattr(torch._C, "_cuda_getDeviceCount", None)
    if available is None:
        return
    if torch.cuda.is_initialized():
        raise VirtualGPUError(
            "This process already uses a real GPU. Run the program in a process of its own: "
            "`hfgpu run --gpu NAME script.py`, or %%gpurun, which does that by itself on such a machine."
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        count = torch.cuda._device_count_nvml()
    if count > 0:
        raise VirtualGPUError(
            "This process can see a real GPU. Run the program in a process of its own: "
            "`hfgpu run --gpu NAME script.py`, or %%gpurun, which does that by itself on such a machine."
        )
