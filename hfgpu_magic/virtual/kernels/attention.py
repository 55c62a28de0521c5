"""scaled_dot_product_attention as CUDA dispatches it.

Which fused kernel runs decides what is saved for backward and what temporaries exist, so the choice
follows ATen's `sdp_utils.cpp`: flash attention, then memory-efficient attention, then plain math.
"""

from __future__ import annotations

import math
from typing import Any

import torch

from .. import state

Tensor = torch.Tensor
_aten = torch.ops.aten
_HALF = (torch.float16, torch.bfloat16)


def _flash_ok(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, capability: tuple[int, int]) -> bool:
    return (
        torch.backends.cuda.flash_sdp_enabled()
        and mask is None
        and q.dtype in _HALF
        and q.dtype is k.dtype is v.dtype
        and q.dim() == 4
        and capability >= (8, 0)
        and q.size(-1) == k.size(-1) == v.size(-1)
        and q.size(-1) <= 256
        and min(q.size(-2), k.size(-2)) > 0
    )


def _efficient_ok(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, capability: tuple[int, int], gqa: bool) -> bool:
    if not torch.backends.cuda.mem_efficient_sdp_enabled() or gqa or q.dim() != 4:
        return False
    if not (q.dtype is k.dtype is v.dtype) or q.dtype not in (*_HALF, torch.float32):
        return False
    if q.dtype is torch.bfloat16 and capability < (8, 0):
        return False
    if q.size(-3) != k.size(-3) or k.size(-3) != v.size(-3) or q.size(0) != k.size(0):
        return False
    # Tensor cores want rows of a multiple of 128 bits; without them 16-bit types want pairs.
    half = q.dtype in _HALF
    tensor_cores = capability >= (8, 0) or (capability >= (7, 0) and half)
    step = (8 if half else 4) if tensor_cores else 1
    if q.size(-1) % step or v.size(-1) % step:
        return False
    return not (mask is not None and mask.requires_grad)


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
    capability = state.current().gpu.capability
    if _flash_ok(query, key, value, attn_mask, capability):
        size = query.size(-1)
        if size % 8:
            # The kernel reads rows of 16 bytes: q, k and v are copied to padded ones first.
            scale = 1 / math.sqrt(size) if scale is None else scale
            query, key, value = (_pad_last(t, 8) for t in (query, key, value))
        out = _aten._scaled_dot_product_flash_attention(query, key, value, dropout_p, is_causal, scale=scale)[0]
        return out[..., :size] if size % 8 else out
    if _efficient_ok(query, key, value, attn_mask, capability, enable_gqa):
        bias = None if attn_mask is None else _bias(query, key, attn_mask)
        needs_grad = torch.is_grad_enabled() and (
            query.requires_grad or key.requires_grad or value.requires_grad
        )
        return _aten._scaled_dot_product_efficient_attention(
            query, key, value, bias, needs_grad, dropout_p, is_causal, scale=scale
        )[0]
    return _aten._scaled_dot_product_attention_math(
        query, key, value, attn_mask, dropout_p, is_causal, None, scale=scale, enable_gqa=enable_gqa
    )[0]


def _bias(query: Tensor, key: Tensor, mask: Tensor) -> Tensor:
    """The mask as the memory-efficient kernel takes it: additive, rows padded to 16 elements, expanded."""
    if mask.dtype is torch.bool:
        mask = torch.where(mask, torch.zeros((), dtype=query.dtype, device=query.device), float("-inf")).to(query.dtype)
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
    """0 math, 1 flash, 2 memory-efficient: `torch.nn.attention.SDPBackend`."""
    capability = state.current().gpu.capability
    if _flash_ok(query, key, value, attn_mask, capability):
        return 1
    return 2 if _efficient_ok(query, key, value, attn_mask, capability, enable_gqa) else 0


KERNELS = {
    "scaled_dot_product_attention": scaled_dot_product_attention,
    "_fused_sdp_choice": fused_sdp_choice,
}
