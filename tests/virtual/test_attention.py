"""Which attention kernel runs where: the choices of ATen's sdp_utils.cpp, and what each keeps."""

from __future__ import annotations

import pytest
import torch

from hfgpu_magic.virtual.kernels.attention import CUDNN, EFFICIENT, FLASH, MATH, _efficient_takes_gqa
from hfgpu_magic.virtual.session import VirtualGPU


def choice(
    card: str,
    *,
    dtype: torch.dtype = torch.float16,
    heads: int = 8,
    kv: int = 8,
    dim: int = 64,
    **options: object,
) -> int:
    query_rows, key_rows = options.pop("rows", (128, 128))  # type: ignore[misc]
    grad = bool(options.pop("grad", False))
    with VirtualGPU(card, torch_version=str(options.pop("torch_version", "2.13.0"))):
        q = torch.empty(2, heads, query_rows, dim, dtype=dtype, device="cuda", requires_grad=grad)
        k, v = (torch.empty(2, kv, key_rows, dim, dtype=dtype, device="cuda") for _ in range(2))
        mask = None
        if options.pop("mask", False):
            mask = torch.ones(2, 1, query_rows, key_rows, dtype=torch.bool, device="cuda")
        return torch._fused_sdp_choice(q, k, v, mask, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("card", "expected"),
    [("P100", EFFICIENT), ("T4", EFFICIENT), ("A100", FLASH), ("L4", FLASH), ("H100", CUDNN)],
)
def test_half_precision_without_a_mask(card: str, expected: int) -> None:
    assert choice(card) == expected


def test_fp32_is_never_flash() -> None:
    assert choice("A100", dtype=torch.float32) == EFFICIENT


def test_emulated_bf16_has_no_fused_kernel() -> None:
    assert choice("T4", dtype=torch.bfloat16) == MATH


def test_a_mask_rules_flash_out() -> None:
    assert choice("A100", mask=True) == EFFICIENT


def test_grouped_queries_need_flash_or_cudnn() -> None:
    assert choice("A100", kv=2, enable_gqa=True) == FLASH
    assert choice("H100", kv=2, enable_gqa=True) == CUDNN
    # Newer PyTorch takes grouped queries memory-efficiently as well.
    assert choice("T4", kv=2, enable_gqa=True) == (EFFICIENT if _efficient_takes_gqa() else MATH)


def test_causal_with_a_cache_is_not_flash() -> None:
    assert choice("A100", rows=(16, 128), is_causal=True) == EFFICIENT


def test_large_heads_in_training_on_consumer_cards() -> None:
    assert choice("RTX 4090", dim=208, grad=True) == EFFICIENT
    assert choice("RTX 4090", dim=208) == FLASH
    assert choice("A100", dim=208, grad=True) == FLASH


def test_cudnn_is_preferred_from_its_bug_fix_on() -> None:
    assert choice("H100", torch_version="2.10.0") == FLASH
    assert choice("H100", dim=192) == FLASH  # beyond cuDNN's heads
    assert choice("H100", dropout_p=0.1) == FLASH  # not a multiple of 1/16


@pytest.mark.parametrize("card", ["T4", "A100", "H100"])
def test_forward_and_backward_keep_shapes(card: str) -> None:
    with VirtualGPU(card):
        q, k, v = (
            torch.randn(2, 8, 128, 64, dtype=torch.float16, device="cuda", requires_grad=True)
            for _ in range(3)
        )
        out = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        out.sum().backward()
        assert out.shape == q.shape
        assert q.grad is not None
        assert q.grad.shape == q.shape


def test_a_fused_kernel_keeps_no_scores() -> None:
    def kept(card: str, dtype: torch.dtype) -> int:
        with VirtualGPU(card):
            q, k, v = (
                torch.randn(1, 8, 1024, 64, dtype=dtype, device="cuda", requires_grad=True) for _ in range(3)
            )
            before = torch.cuda.memory_allocated()
            out = torch.nn.functional.scaled_dot_product_attention(q, k, v)
            grown = torch.cuda.memory_allocated() - before
            del out
            return grown

    scores = 8 * 1024 * 1024 * 2
    assert kept("A100", torch.bfloat16) < scores
    assert kept("H100", torch.bfloat16) < scores
    assert kept("T4", torch.bfloat16) >= scores
