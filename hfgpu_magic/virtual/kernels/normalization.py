"""Normalisations: which kernel runs on the card, and what it copies first."""

from __future__ import annotations

from typing import Any

import torch

from . import generic

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


#: Registered for autograd too.
KERNELS: dict[str, Any] = {"_batch_norm_impl_index": batch_norm_impl_index}


# PyTorch's meta kernels keep the input's strides; CUDA's kernels work on contiguous tensors, copying what is
# not (`layer_norm_cuda`, `layer_norm_backward_cuda` in layer_norm_kernel.cu).


def layer_norm(input: Tensor, shape: Any, weight: Tensor | None, bias: Tensor | None, eps: float) -> Any:
    return generic.run(_aten.native_layer_norm.default, (input.contiguous(), shape, weight, bias, eps), {})


def layer_norm_backward(
    grad_out: Tensor, input: Tensor, shape: Any, mean: Tensor, rstd: Tensor, weight: Any, bias: Any, mask: Any
) -> Any:
    contiguous = input.contiguous()
    op = _aten.native_layer_norm_backward.default
    out = generic.run(op, (grad_out, contiguous, shape, mean, rstd, weight, bias, mask), {})
    if not grad_out.is_contiguous():
        grad_out.contiguous()  # copied by the kernel, after its results exist, for the time it runs
    return out


def _canonical(shape: Any) -> Any:
    """A shape function whose results are contiguous, whatever strides the meta kernel would keep."""

    def shapes(*args: Any, **kwargs: Any) -> Any:
        return tuple(
            t if t is None else torch.empty(t.shape, dtype=t.dtype, device="meta")
            for t in shape(*args, **kwargs)
        )

    return shapes


#: On the device's own key only.
WRITTEN_OUT: dict[str, Any] = {
    "native_layer_norm": layer_norm,
    "native_layer_norm_backward": layer_norm_backward,
}


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
    generic.SHAPES["aten::_grouped_mm"] = _grouped_mm
    for op in (_aten.native_layer_norm.default, _aten.native_layer_norm_backward.default):
        generic.SHAPES[op._schema.name] = _canonical(op)
