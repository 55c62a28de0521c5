"""scaled_dot_product_attention as CUDA dispatches it.

Which kernel runs decides what is saved for backward and what temporaries exist, so the choice follows
ATen's `transformers/cuda/sdp_utils.cpp` check by check: cuDNN first on Hopper and B200-class cards, then
flash attention, then memory-efficient attention, then plain math.
"""

from __future__ import annotations

import functools
import math
from pathlib import Path
from typing import Any, NamedTuple

import torch

from .. import state

Tensor = torch.Tensor
_aten = torch.ops.aten
_HALF = (torch.float16, torch.bfloat16)

#: `torch.nn.attention.SDPBackend`
MATH, FLASH, EFFICIENT, CUDNN = 0, 1, 2, 3

#: First PyTorch whose wheels carry a cuDNN past 9.15.0, from which ATen prefers cuDNN's attention on
#: capability 9.x and 10.x (`check_prefer_cudnn_attention`).  2.10 had 9.10.2, 2.11 has 9.19.
_CUDNN_PREFERRED_SINCE = (2, 11)


class _Call(NamedTuple):
    """The arguments the choice depends on."""

    q: Tensor
    k: Tensor
    v: Tensor
    mask: Tensor | None
    dropout: float
    causal: bool
    gqa: bool
    capability: tuple[int, int]

    @property
    def training(self) -> bool:
        return torch.is_grad_enabled() and (
            self.q.requires_grad or self.k.requires_grad or self.v.requires_grad
        )

    @property
    def head_dims(self) -> tuple[int, int, int]:
        return self.q.size(-1), self.k.size(-1), self.v.size(-1)


@functools.cache
def _efficient_takes_gqa() -> bool:
    """Newer PyTorch runs grouped queries memory-efficiently; its header then knows `supports_mqa`."""
    header = Path(torch.__file__).parent / "include/ATen/native/transformers/sdp_utils_cpp.h"
    return header.exists() and "supports_mqa" in header.read_text(encoding="utf-8")


def _shapes_ok(c: _Call, *, gqa: bool) -> bool:
    """Four dimensions, one batch size, nothing empty, and heads that agree or divide."""
    if not (c.q.dim() == c.k.dim() == c.v.dim() == 4 and c.q.size(0) == c.k.size(0) == c.v.size(0)):
        return False
    if c.q.size(-2) == 0 or c.k.size(-2) == 0:
        return False
    heads, key_heads, value_heads = c.q.size(1), c.k.size(1), c.v.size(1)
    if c.gqa:
        return gqa and key_heads == value_heads and heads % key_heads == 0
    return heads == key_heads == value_heads


def _one_dtype(c: _Call, *allowed: torch.dtype) -> bool:
    return c.q.dtype is c.k.dtype is c.v.dtype and c.q.dtype in allowed


def _cudnn_ok(c: _Call) -> bool:
    dq, dk, dv = c.head_dims if c.q.dim() == 4 else (0, 0, 0)
    return (
        torch.backends.cuda.cudnn_sdp_enabled()
        and c.capability >= (8, 0)
        and _shapes_ok(c, gqa=True)
        and _one_dtype(c, *_HALF)
        and not torch.are_deterministic_algorithms_enabled()
        and (c.dropout * 16).is_integer()
        and dq == dk
        and max(dq, dv) <= 128
        and dq % 8 == dv % 8 == 0
        and c.k.size(-2) != 1
        and not (c.dropout and c.q.size(-2) == 1)
    )


def _flash_ok(c: _Call) -> bool:
    if not torch.backends.cuda.flash_sdp_enabled() or c.mask is not None or c.capability < (8, 0):
        return False
    if not (_shapes_ok(c, gqa=True) and _one_dtype(c, *_HALF)):
        return False
    dq, dk, dv = c.head_dims
    if not dq == dk == dv <= 256:
        return False
    if c.causal and c.q.size(-2) != c.k.size(-2):
        return False
    # Its backward needs more shared memory than these cards have.
    small = (8, 6) <= c.capability <= (8, 9) or (12, 0) <= c.capability <= (12, 1)
    return not (c.training and small and dq > 192 and (c.dropout or dq <= 224))


def _efficient_ok(c: _Call) -> bool:
    if not torch.backends.cuda.mem_efficient_sdp_enabled():
        return False
    if not _shapes_ok(c, gqa=_efficient_takes_gqa()):
        return False
    dtypes = (*_HALF, torch.float32) if c.capability >= (8, 0) else (torch.float16, torch.float32)
    if not _one_dtype(c, *dtypes) or any(t.stride(-1) != 1 for t in (c.q, c.k, c.v)):
        return False
    # Tensor cores want rows of a multiple of 128 bits.
    half = c.q.dtype in _HALF
    tensor_cores = c.capability >= (8, 0) or (c.capability >= (7, 0) and half)
    step = (8 if half else 4) if tensor_cores else 1
    dq, dk, dv = c.head_dims
    return dq == dk and dq % step == dv % step == 0


def choose(c: _Call) -> int:
    """The backend PyTorch picks on this card."""
    device = state.current()
    if c.capability[0] in (9, 10) and device.torch_version >= _CUDNN_PREFERRED_SINCE and _cudnn_ok(c):
        return CUDNN
    if _flash_ok(c):
        return FLASH
    return EFFICIENT if _efficient_ok(c) else MATH


def _pad_last(t: Tensor, multiple: int) -> Tensor:
    extra = -t.size(-1) % multiple
    return torch.nn.functional.pad(t, (0, extra)) if extra else t


def scaled_dot_product_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """The operator: choose, prepare what the chosen kernel wants, call it."""
    capability = state.current().gpu.capability
    call = _Call(query, key, value, attn_mask, dropout_p, is_causal, enable_gqa, capability)
    backend = choose(call)
    out: Tensor
    if backend == FLASH:
        size = query.size(-1)
        if size % 8:
            # The kernel reads rows of 16 bytes: q, k and v are copied to padded ones first.
            scale = 1 / math.sqrt(size) if scale is None else scale
            query, key, value = (_pad_last(t, 8) for t in (query, key, value))
        out = _aten._scaled_dot_product_flash_attention(query, key, value, dropout_p, is_causal, scale=scale)[
            0
        ]
        return out[..., :size] if size % 8 else out
    if backend == CUDNN:
        mask = None if attn_mask is None else _additive(query, attn_mask)
        out = _aten._scaled_dot_product_cudnn_attention(
            query, key, value, mask, call.training, dropout_p, is_causal, False, scale=scale
        )[0]
        return out
    if backend == EFFICIENT:
        if key.size(1) != query.size(1):
            groups = query.size(1) // key.size(1)
            key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
        bias = None if attn_mask is None else _bias(query, key, attn_mask)
        out = _aten._scaled_dot_product_efficient_attention(
            query, key, value, bias, call.training, dropout_p, is_causal, scale=scale
        )[0]
        return out
    out = _aten._scaled_dot_product_attention_math(
        query, key, value, attn_mask, dropout_p, is_causal, None, scale=scale, enable_gqa=enable_gqa
    )[0]
    return out


def _additive(query: Tensor, mask: Tensor) -> Tensor:
    """A boolean mask as the numbers that are added to the scores."""
    if mask.dtype is not torch.bool:
        return mask
    zero = torch.zeros((), dtype=query.dtype, device=query.device)
    return torch.where(mask, zero, float("-inf")).to(query.dtype)


def _bias(query: Tensor, key: Tensor, mask: Tensor) -> Tensor:
    """The mask as the memory-efficient kernel takes it: additive, rows padded to 16 elements, expanded."""
    mask = _additive(query, mask)
    last = mask.size(-1)
    if last % 16:
        mask = torch.nn.functional.pad(mask, (0, -last % 16))[..., :last]
    return mask.expand(query.size(0), query.size(1), query.size(2), key.size(2))


def fused_sdp_choice(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> int:
    """`torch._fused_sdp_choice`: the number of the backend in `torch.nn.attention.SDPBackend`."""
    capability = state.current().gpu.capability
    return choose(_Call(query, key, value, attn_mask, dropout_p, is_causal, enable_gqa, capability))


KERNELS: dict[str, Any] = {
    "scaled_dot_product_attention": scaled_dot_product_attention,
    "_fused_sdp_choice": fused_sdp_choice,
}
