"""Published measurements, rebuilt: one module per source, run on virtual cards by `benchmarks/fidelity.py`.

The contract of a module `benchmarks/published/<source>.py`

* `rows() -> Iterable[Row]` lists the rows it can rebuild.  Listing is free: torch, transformers and
  everything else heavy is imported inside `build`, never at the top of the module.
* `Row.id` is the id in `published.csv`; the measured value is read from there by the harness and appears
  nowhere in this repository.
* `build()` runs inside a fresh `VirtualGPU(row.gpu)` and returns a `Measurement`, normally `peaks()` right
  after the last step.  It does what the source did, in code of our own: shapes, precision, optimizer, order
  of steps, what is still alive.  Seeds, data values and learning rates do not matter.
* The module's docstring names the source and states every fact it relies on that is not in the row: which
  version of a library, and what that version did differently (gradients kept by zero_grad, eager attention,
  fp32 logits, ...).  A difference of an old library is rebuilt in the module, not in `hfgpu_magic`.
* Nothing may be chosen so that a row agrees.  A figure that the source does not state and no source or
  documentation of the library gives is a miss: leave the row wrong and name what is missing in
  `Row.missing` (two or three words: "cuDNN workspace", "dataset lengths").
* The CUDA context of device-level rows is the catalog's.  Only where the same page publishes the context on
  its own (a separate figure, before any workload) may `Row.context` give it, with the place.

Tensors of one row must not outlive `build`: keep everything local.  A row that runs out of memory lets
`torch.OutOfMemoryError` pass; the harness records that and runs the row again on the same card with
memory to spare, to compare the demand.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

KiB, MiB, GiB = 1 << 10, 1 << 20, 1 << 30
GB = 10**9

#: No cuBLAS workspace in PyTorch's allocator: its state before 2.0 (cuBLAS took its own with cudaMalloc).
#: `Row.torch` says the same by version; this is for a row whose version is only known to be that old.
NO_CUBLAS_WORKSPACE: Mapping[str, str] = {"CUBLAS_WORKSPACE_CONFIG": ":0:0"}


@dataclass(frozen=True)
class Measurement:
    """What a row came to on the virtual card, in bytes.

    `allocated` and `reserved` are what the program would have read from `torch.cuda`; `device` is the
    highest that nvidia-smi would have shown, context included.
    """

    allocated: int
    reserved: int
    device: int
    device_high: int | None = None
    """Upper end of the stated band, where a library's workspace is only known within bounds."""


@dataclass(frozen=True)
class Row:
    """One published figure and the program that led to it."""

    id: str
    gpu: str
    """A card of our catalog."""
    metric: Literal["allocated", "reserved", "device"]
    build: Callable[[], Measurement]
    unit: float
    """Bytes of one unit of the published figure: MiB, GiB, GB or 1."""
    torch: str = ""
    """The PyTorch it was measured with, as far as known ("1.4", "2.1"): decides what libraries keep in the
    allocator.  Empty: the installed one's rules."""
    environ: Mapping[str, str] = field(default_factory=dict)
    """Environment variables of the measured process, set around the run."""
    context: int | None = None
    """Bytes of the CUDA context where the source itself publishes them; None: the catalog's estimate."""
    context_source: str = ""
    published_oom: bool = False
    """True where the source says that it ran out of memory."""
    dense_convolution: bool = False
    """True where cuDNN's workspace decides; such rows are summed up apart."""
    missing: str = ""
    """The mechanism that is known to be missing, in two or three words."""


def peaks() -> Measurement:
    """The figures a program reads at its end: highest allocated, reserved and device bytes."""
    import torch

    from hfgpu_magic.virtual import state

    device = state.current()
    reserved = torch.cuda.max_memory_reserved()
    return Measurement(torch.cuda.max_memory_allocated(), reserved, device.memory.context + reserved)


def current() -> Measurement:
    """The figures of this moment: `memory_allocated`, `memory_reserved`, nvidia-smi now."""
    import torch

    from hfgpu_magic.virtual import state

    reserved = torch.cuda.memory_reserved()
    return Measurement(torch.cuda.memory_allocated(), reserved, state.current().memory.context + reserved)
