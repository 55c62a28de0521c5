"""Normalisations that run as one cuDNN kernel on the card."""

from __future__ import annotations

from typing import Any

import torch

Tensor = torch.Tensor
_aten = torch.ops.aten


def batch_norm_impl_index(
    input: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    training: bool,
    momentum: float,
    eps: float,
    cudnn_enabled: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, int]:
    """Batch norm by cuDNN where ATen would take it, PyTorch's own CUDA kernel elsewhere."""
    affine = weight is not None and bias is not None
    statistics = running_mean is not None and running_var is not None
    use_cudnn = (
        cudnn_enabled
        and affine
        and input.dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64)
        and (training or statistics)
        and input.dim() > 2
        and (input.dtype is torch.float32 or weight is None or weight.dtype is torch.float32)
    )
    if use_cudnn:
        out, mean, var, reserve = _aten.cudnn_batch_norm(
            input, weight, bias, running_mean, running_var, training, momentum, eps
        )
        return out, mean, var, reserve, 1
    out, mean, var = _aten.native_batch_norm(
        input, weight, bias, running_mean, running_var, training, momentum, eps
    )
    return out, mean, var, input.new_empty(0, dtype=torch.uint8), 0


KERNELS: dict[str, Any] = {"_batch_norm_impl_index": batch_norm_impl_index}


def _grouped_mm(a: Tensor, b: Tensor, offs: Any = None, bias: Any = None, out_dtype: Any = None) -> Tensor:
    """PyTorch's meta kernel refuses fp32, which the CUDA build accepts through a fallback."""
    if a.dim() == 2 and b.dim() == 3:
        size = (a.size(0), b.size(-1))
    elif a.dim() == 2:
        size = (offs.size(0), a.size(0), b.size(-1))  # type: ignore[assignment]
    elif b.dim() == 2:
        size = (a.size(1), b.size(-1))
    else:
        size = (a.size(0), a.size(1), b.size(-1))  # type: ignore[assignment]
    return torch.empty(size, dtype=out_dtype or a.dtype, device="meta")


def install() -> None:
    from .generic import SHAPES

    SHAPES["aten::_grouped_mm"] = _grouped_mm
