"""Memory that operations take beside their results: library workspaces, kernel temporaries.

An effect runs after the operation's results are allocated, as ATen's kernels do: structured operators
allocate their output first, then what they need on the way.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from . import indexing, reductions
from .generic import CHOOSERS

Tensor = torch.Tensor
Effect = Callable[[Any, Any, Any, Any], None]


def _cublas(device: Any, args: Any, kwargs: Any, out: Any) -> None:
    device.libraries.cublas(device)


def _cublaslt(device: Any, args: Any, kwargs: Any, out: Any) -> None:
    device.libraries.cublaslt(device)


def _with_copies(sizes: list[int], library: Effect) -> Effect:
    """Operands that BLAS cannot read as they lie are copied first, for the length of the call."""
    if not sizes:
        return library

    def effect(device: Any, args: Any, kwargs: Any, out: Any) -> None:
        device.scratch(sizes, lambda: library(device, args, kwargs, out))

    return effect


def _nbytes(t: Tensor) -> int:
    return t.numel() * t.element_size()


def _blas_layout(t: Tensor) -> bool:
    """Whether the last two dimensions are rows or columns with a leading one (ATen's prepare_matrix)."""
    if t.dim() < 2 or t.is_contiguous():
        return True
    rows, columns = t.shape[-2:]
    down, across = t.stride()[-2:]
    return (down == 1 and across >= max(1, rows)) or (across == 1 and down >= max(1, columns))


def _copies(*matrices: Tensor) -> list[int]:
    return [_nbytes(t) for t in matrices if not _blas_layout(t)]


def _mm(args: Any, kwargs: Any, out: Any) -> Effect | None:
    """mm(a, b), bmm(a, b): an empty product needs no library."""
    if not _nonempty(*args[:2]):
        return None
    return _with_copies(_copies(*args[:2]), _cublas)


def _addmm(args: Any, kwargs: Any, out: Any) -> Effect | None:
    """addmm(bias, a, b): with a one-dimensional bias cuBLASLt adds it in the same kernel."""
    bias, a, b = args[:3]
    if not _nonempty(a, b):
        return None
    fused = (
        bias.dim() == 1
        and kwargs.get("beta", 1) == 1
        and bias.is_contiguous()
        and bias.size(0) == b.size(1)
        and b.size(0) > 1
        and b.size(1) > 1
        and a.dtype in (torch.float64, torch.float32, torch.float16, torch.bfloat16)
    )
    return _with_copies(_copies(a, b), _cublaslt if fused else _cublas)


def _addmm_activation(args: Any, kwargs: Any, out: Any) -> Effect | None:
    return _with_copies(_copies(*args[1:3]), _cublaslt) if _nonempty(*args[1:3]) else None


def _baddbmm(args: Any, kwargs: Any, out: Any) -> Effect | None:
    return _with_copies(_copies(*args[1:3]), _cublas) if _nonempty(*args[1:3]) else None


def _nonempty(*tensors: Tensor) -> bool:
    return all(t.numel() for t in tensors)


def _always(effect: Effect) -> Callable[[Any, Any, Any], Effect]:
    return lambda args, kwargs, out: effect


#: Operators that reach cuBLAS or cuBLASLt (and so need a workspace on first use).
GEMMS: dict[str, Callable[[Any, Any, Any], Effect | None]] = {
    "mm": _mm,
    "bmm": _mm,
    "addmm": _addmm,
    "addmm_": _addmm,
    "_addmm_activation": _addmm_activation,
    "baddbmm": _baddbmm,
    "baddbmm_": _baddbmm,
    **{name: _always(_cublas) for name in ("addbmm", "mv", "addmv", "dot", "vdot", "_grouped_mm")},
    **{name: _always(_cublaslt) for name in ("_scaled_mm", "_int_mm")},
}


def _accumulated(t: Tensor) -> int:
    """Bytes of an element in the precision that CUDA's kernels add up in."""
    return 4 if t.dtype in (torch.float16, torch.bfloat16) else t.element_size()


def _group_norm(args: Any, kwargs: Any, out: Any) -> Effect | None:
    """Scale and shift per sample and channel, where there are weights (native/cuda/group_norm_kernel.cu)."""
    x, weight, bias, n, channels, pixels = args[:6]
    if pixels == 1 or (weight is None and bias is None):
        return None
    size = n * channels * _accumulated(x)
    return lambda device, args, kwargs, out: device.scratch([size, size])


def _group_norm_backward(args: Any, kwargs: Any, out: Any) -> Effect | None:
    """Sums per sample and channel, then coefficients per channel (with a weight) and per group."""
    x, weight = args[1], args[4]
    n, channels, pixels, groups = args[5:9]
    each = _accumulated(x)
    per_channel, per_group = n * channels * each, n * groups * each
    if pixels == 1:
        sizes = [per_group, per_group]
    else:
        sizes = [per_channel, per_channel]
        if args[9][0]:  # the gradient of the input is wanted
            sizes += [per_group, per_group] if weight is None else [per_group, per_group, per_channel]
    return lambda device, args, kwargs, out: device.scratch(sizes)


NORMALISATIONS = {"native_group_norm": _group_norm, "native_group_norm_backward": _group_norm_backward}


def install() -> None:
    CHOOSERS.update(NORMALISATIONS)
    CHOOSERS.update(GEMMS)
    CHOOSERS.update(reductions.CHOOSERS)
    CHOOSERS.update(indexing.CHOOSERS)
