"""How long an operation would take at the card's best: an estimate, and called one everywhere.

time = max(bytes moved / bandwidth, FLOP / peak rate of the data type), never less than the time
one kernel launch takes from Python.  Counts of FLOP come from PyTorch's own flop counter.
"""

from __future__ import annotations

import functools
from typing import Any

import torch

from ..devices.catalog import GPU

#: Seconds from one eager kernel launch to the next: about 5 us of framework and driver work on the
#: host.  PyTorch's own "CUDA graphs" write-up measures gaps of this size between small kernels.
LAUNCH = 5e-6

_RATE_OF = {
    torch.float64: "fp64",
    torch.float32: "fp32",
    torch.float16: "fp16",
    torch.bfloat16: "bf16",
    torch.int8: "int8",
    torch.float8_e4m3fn: "fp8",
    torch.float8_e5m2: "fp8",
}


@functools.cache
def _flop_registry() -> dict[Any, Any]:
    import logging

    # Importing it warns about a missing triton, which says nothing about the user's program.
    logger = logging.getLogger("torch.utils.flop_counter")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        from torch.utils import flop_counter
    finally:
        logger.setLevel(level)
    return dict(flop_counter.flop_registry)


def _nbytes(x: Any) -> int:
    if isinstance(x, torch.Tensor):
        return x.numel() * x.element_size()
    if isinstance(x, (list, tuple)):
        return sum(_nbytes(y) for y in x)
    return 0


def _dtype(x: Any) -> torch.dtype | None:
    if isinstance(x, torch.Tensor):
        return x.dtype
    if isinstance(x, (list, tuple)):
        for y in x:
            found = _dtype(y)
            if found is not None:
                return found
    return None


def rate(gpu: GPU, dtype: torch.dtype | None) -> float:
    """Dense FLOP/s of `gpu` for `dtype`; bf16 on a card that only emulates it runs at the fp32 rate."""
    rates = gpu.rates
    kind = "fp32" if dtype is None else _RATE_OF.get(dtype, "fp32")
    return rates.get(kind, 0.0) or rates.get("fp32", 0.0) or 1e12


def seconds(gpu: GPU, op: Any, args: Any, kwargs: Any, out: Any) -> float:
    """Estimated seconds of `op` on `gpu`.  `args`, `kwargs` and `out` need only shapes and dtypes."""
    moved = _nbytes(args) + _nbytes(list(kwargs.values())) + _nbytes(out)
    time = moved / gpu.bandwidth
    counter = _flop_registry().get(op._overloadpacket)
    if counter is not None:
        try:
            flop = counter(*args, **{k: v for k, v in kwargs.items() if k != "out"}, out_val=out)
            time = max(time, flop / rate(gpu, _dtype(args)))
        except Exception:  # noqa: BLE001 - a count that does not fit this call costs only the estimate
            pass
    return max(time, LAUNCH)
