"""The staging buffer of CUDA's reductions.

When few results are made from many values, one block of threads per result leaves most of the card
idle, so several blocks share one: their partial results go through a buffer in global memory, beside
a semaphore per group.  Both come from the caching allocator and can be many times the result (a bias
gradient over 8,192 tokens: 100 MiB).  The launch geometry is that of ATen's `Reduce.cuh`
(`setReduceConfig`, `ReduceConfig::global_memory_size`), on the dimensions that TensorIterator leaves
after sorting and merging them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from .. import state

Tensor = torch.Tensor

_WARP = 32
_MIN_VALUES, _MAX_VALUES = 16, 256
_THREADS = 512
_VECTOR = 4


@dataclass(frozen=True)
class Dimension:
    """One dimension of the iteration: elements, stride of the result and of the input (elements)."""

    size: int
    out: int
    inp: int


def staging(
    t: Tensor, reduced: Sequence[int], element: int, *, sm_count: int, threads_per_sm: int
) -> tuple[int, int]:
    """Bytes of the partial results and of the semaphores; (0, 0) when each block finishes its results.

    `element` is the size of what is carried along: 4 for a sum in fp32, 16 for a value with its index.
    """
    if t.numel() == 0:
        return 0, 0
    dims = _dimensions(t, set(reduced))
    inputs = math.prod(d.size for d in dims if d.out == 0)
    outputs = t.numel() // inputs
    n_reduced = sum(1 for d in dims if d.out == 0)
    fastest = n_reduced == len(dims) or dims[0].inp < dims[n_reduced].inp
    if not dims:
        width, height, step = 1, 1, 1
        fastest = True
    elif fastest:
        width, height, step = inputs, outputs, dims[0].inp
    else:
        width, height, step = outputs, inputs, dims[n_reduced].inp

    out_vector = 1
    if step == 1:
        if fastest and width > 128 and len(dims) == 1:
            width //= _VECTOR
        elif not fastest:
            out_vector = _output_vector(dims, n_reduced)
            width //= out_vector
    most = (_THREADS // 2 if t.dtype in (torch.float64, torch.complex128) else _THREADS) // out_vector
    width_pow2, height_pow2 = min(_pow2(width), most), min(_pow2(height), most)
    block_x = min(width_pow2, _WARP)
    block_y = min(height_pow2, most // block_x)
    block_x = min(width_pow2, most // block_y)

    step_input = step_output = 1
    across = fastest or not dims
    if across:
        step_input *= block_x
    else:
        step_output *= block_x
    split = False
    values = _ceil(inputs, step_input)
    if values >= block_y * 16 or values >= _MAX_VALUES:
        split = True
        step_input *= block_y
    else:
        step_output *= block_y
    values = _ceil(inputs, step_input)
    grid = _ceil(outputs // out_vector, step_output)
    target = sm_count * (threads_per_sm // (block_x * block_y))
    if not (split and values >= _MAX_VALUES and grid <= target):
        return 0, 0
    shares = max(min(_ceil(target, grid), _ceil(values, _MIN_VALUES)), _ceil(values, _MAX_VALUES))
    if shares <= 1:
        return 0, 0
    size = element * outputs * shares
    if not across:
        size *= block_x * out_vector
    return size, 4 * grid


def _dimensions(t: Tensor, reduced: set[int]) -> list[Dimension]:
    """TensorIterator's dimensions, fastest first: reduced ones, then by stride, neighbours merged."""
    out_strides, running = [0] * t.dim(), 1
    for i in reversed(range(t.dim())):
        if i not in reduced:
            out_strides[i] = running
            running *= t.size(i)
    dims = [Dimension(t.size(i), out_strides[i], t.stride(i)) for i in reversed(range(t.dim()))]
    for i in range(1, len(dims)):
        at = i
        for j in reversed(range(i)):
            order = _order(dims[j], dims[at])
            if order > 0:
                dims[j], dims[at] = dims[at], dims[j]
                at = j
            elif order < 0:
                break
    merged: list[Dimension] = []
    for d in dims:
        if merged and (joined := _join(merged[-1], d)) is not None:
            merged[-1] = joined
        else:
            merged.append(d)
    return merged


def _order(a: Dimension, b: Dimension) -> int:
    """1 when `b` belongs before `a`, -1 when it does not, 0 when undecided."""
    if (a.out == 0) != (b.out == 0):
        return 1 if b.out == 0 else -1
    for x, y in ((a.out, b.out), (a.inp, b.inp)):
        if x == 0 or y == 0:
            continue
        if x != y:
            return -1 if x < y else 1
        if a.size > b.size:
            return 1
    return 0


def _join(a: Dimension, b: Dimension) -> Dimension | None:
    if a.size == 1:
        return b
    if b.size == 1:
        return a
    if a.size * a.out == b.out and a.size * a.inp == b.inp:
        return Dimension(a.size * b.size, a.out, a.inp)
    return None


def _output_vector(dims: list[Dimension], n_reduced: int) -> int:
    size = _VECTOR
    for n in [dims[n_reduced].size, *(d.inp for i, d in enumerate(dims) if i != n_reduced)]:
        while n % size:
            size //= 2
    return size


def _pow2(n: int) -> int:
    """The largest power of two that is not above `n`; 1 for 0."""
    return 1 << max(n.bit_length() - 1, 0)


def _ceil(a: int, b: int) -> int:
    return -(-a // b)


# ---------------------------------------------------------------- which operators

_SIXTEEN_BIT = (torch.float16, torch.bfloat16)


def _accumulated(t: Tensor, kwargs: dict[str, Any]) -> int:
    """Sums of 16-bit values are carried in fp32; integers in 64 bits."""
    dtype = kwargs.get("dtype") or t.dtype
    if dtype in _SIXTEEN_BIT:
        return 4
    return 8 if not (dtype.is_floating_point or dtype.is_complex) else int(dtype.itemsize)


def _value(t: Tensor, kwargs: dict[str, Any]) -> int:
    return t.element_size()


def _value_and_index(t: Tensor, kwargs: dict[str, Any]) -> int:
    return 16


def _welford(t: Tensor, kwargs: dict[str, Any]) -> int:
    """Mean, second moment and two counts."""
    return 32 if t.dtype is torch.float64 else 16


def _one_byte(t: Tensor, kwargs: dict[str, Any]) -> int:
    return 1


#: Operator -> (bytes carried per result, position of the `dim` argument; None: all dimensions).
_REDUCTIONS: dict[str, tuple[Callable[[Tensor, dict[str, Any]], int], int | None]] = {
    "sum": (_accumulated, 1),
    "mean": (_accumulated, 1),
    "nansum": (_accumulated, 1),
    "prod": (_accumulated, 1),
    "linalg_vector_norm": (_accumulated, 2),
    "norm": (_accumulated, 2),
    "amax": (_value, 1),
    "amin": (_value, 1),
    "max": (_value_and_index, 1),
    "min": (_value_and_index, 1),
    "argmax": (_value_and_index, 1),
    "argmin": (_value_and_index, 1),
    "var": (_welford, 1),
    "std": (_welford, 1),
    "var_mean": (_welford, 1),
    "std_mean": (_welford, 1),
    "any": (_one_byte, 1),
    "all": (_one_byte, 1),
}


def _chooser(name: str) -> Callable[[Any, Any, Any], Any]:
    carried, position = _REDUCTIONS[name]

    def choose(args: Any, kwargs: Any, out: Any) -> Any:
        t = args[0]
        dims = kwargs.get("dim")
        if dims is None and position is not None and len(args) > position:
            dims = args[position]
        if isinstance(dims, Tensor):  # max(a, b) is no reduction
            return None
        if isinstance(dims, bool) or dims is None or dims == []:
            dims = range(t.dim())
        elif isinstance(dims, int):
            dims = (dims,)
        reduced = [d % t.dim() for d in dims] if t.dim() else []
        element = carried(t, kwargs)
        everything = len(reduced) == t.dim() and not isinstance(out, (tuple, list))
        if element == 16 and name in ("max", "min") and everything:
            element = t.element_size()  # the largest value alone carries no index
        gpu = state.current().gpu
        sizes = staging(t, reduced, element, sm_count=gpu.sm_count, threads_per_sm=gpu.threads_per_sm)
        if not sizes[0]:
            return None
        return lambda device, args, kwargs, out: device.scratch(sizes)

    return choose


CHOOSERS = {name: _chooser(name) for name in _REDUCTIONS}
