"""What CUDA's scattered accumulations take on the way: sorted copies of the indices and sort buffers.

`index_put_(accumulate=True)` and the gradient of an embedding sort the indices so that equal ones are added
in one place (ATen: native/cuda/Indexing.cu, Embedding.cu, EmbeddingBackwardKernel.cu; CUB's
DeviceRadixSort).  The sequence for `index_put_` is the one recorded in lm_medium_ctx*_training.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch

Tensor = torch.Tensor

#: Up to this many indices the gradient of an embedding is added up without sorting (Embedding.cu).
_UNSORTED_EMBEDDING = 3072
#: Rows one thread adds up in the embedding's gradient (NROWS_PER_THREAD, EmbeddingBackwardKernel.cu).
_ROWS_PER_THREAD = 10


def radix_sort_pairs_bytes(n: int, key: int, value: int, bits: int) -> int:
    """Temporary storage of cub::DeviceRadixSort::SortPairs without double buffers: bytes.

    One tile is sorted in place of a single block; beyond, the "onesweep" algorithm keeps histograms, a
    look-back table and, with more than one pass, a second copy of keys and values.  Tile sizes: CUB's
    tuning for compute capability 8.0 and newer.
    """
    widest = max(key, value)
    if n <= 256 * max(1, 19 * 4 // widest):
        return 1
    passes = -(-bits // 8)
    blocks = -(-n // (384 * max(1, 21 * 4 // widest)))
    parts = [passes * 256 * 8, blocks * 256 * 4, passes * 4]
    if passes > 1:
        parts += [n * key, n * value]
    return sum(-(-part // 256) * 256 for part in parts) + 255


def _bits(largest: int) -> int:
    return max(1, largest.bit_length())


def _index_put(args: Any, kwargs: Any, out: Any) -> Any:
    target, indices, values = args[:3]
    accumulate = args[3] if len(args) > 3 else kwargs.get("accumulate", False)
    given = [i for i in indices if i is not None]
    if not accumulate or not given or any(i.dtype in (torch.bool, torch.uint8) for i in given):
        return None
    n = math.prod(torch.broadcast_shapes(*[i.shape for i in given]))
    if not n or not target.numel():
        return None
    each = n * 8
    places = [d for d, i in enumerate(indices) if i is not None]
    row = math.prod(s for d, s in enumerate(target.shape) if d not in places)
    sort = radix_sort_pairs_bytes(n, 8, 8, _bits(target.numel() // max(row, 1) - 1))
    read_as_it_lies = values.is_contiguous() or values.numel() < n * row
    copied = [] if read_as_it_lies else [values.numel() * values.element_size()]

    def effect(device: Any, args: Any, kwargs: Any, out: Any) -> None:
        linear: Any = None
        for _ in given:
            wrapped = device.hold(each, "workspace", "indices")
            strided = device.hold(each, "workspace", "indices")
            device.release(wrapped)
            if linear is None:
                linear = strided
            else:
                total = device.hold(each, "workspace", "indices")
                device.release(strided)
                device.release(linear)
                linear = total
        try:
            device.scratch([*copied, each, each, each, sort])
        finally:
            device.release(linear)

    return effect


def _embedding_backward(args: Any, kwargs: Any, out: Any) -> Any:
    grad, indices, rows = args[0], args[1], args[2]
    by_frequency = args[4] if len(args) > 4 else kwargs.get("scale_grad_by_freq", False)
    n, item = indices.numel(), indices.element_size()
    if n == 0 or (n <= _UNSORTED_EMBEDDING and not by_frequency):
        return None
    width = grad.shape[-1]
    segments = min(n, rows)
    partial = n // _ROWS_PER_THREAD + segments
    accumulated = 4 if grad.dtype in (torch.float16, torch.bfloat16) else grad.element_size()
    sort = radix_sort_pairs_bytes(n, item, item, _bits(rows - 1))
    kept = [n * item, n * item]  # sorted and original positions
    reduction = [
        n * item, 8, segments * item, segments * item, 8, partial * item, partial * width * accumulated
    ]  # fmt: skip

    def effect(device: Any, args: Any, kwargs: Any, out: Any) -> None:
        def work() -> None:
            device.scratch([n * item, sort])
            device.scratch(reduction)

        device.scratch(kept, work)

    return effect


CHOOSERS: dict[str, Callable[[Sequence[Any], dict[str, Any], Any], Any]] = {
    "index_put_": _index_put,
    "index_put": _index_put,
    "_index_put_impl_": _index_put,
    "_index_put_impl": _index_put,
    "embedding_dense_backward": _embedding_backward,
}
