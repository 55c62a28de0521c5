"""Convolutions as cuDNN runs them: channels last when either side is, copies where an argument is not.

PyTorch's meta kernel leaves the memory format open (a meta tensor has no backend), so the rule of ATen's
`cudnn_conv_suggest_memory_format` stands here.
"""

from __future__ import annotations

from typing import Any

import torch
from torch._prims_common import suggest_memory_format

from .. import state
from . import generic

Tensor = torch.Tensor
_aten = torch.ops.aten


def _format(input: Tensor, weight: Tensor) -> torch.memory_format:
    if torch.float64 in (input.dtype, weight.dtype):
        return torch.contiguous_format
    found = suggest_memory_format(input)
    return suggest_memory_format(weight) if found is torch.contiguous_format else found


def convolution(input: Tensor, weight: Tensor, *rest: Any, **kwargs: Any) -> Tensor:
    layout = _format(input, weight)
    if input.dtype is weight.dtype and input.dim() == weight.dim():  # else refused below, in PyTorch's words
        input, weight = input.contiguous(memory_format=layout), weight.contiguous(memory_format=layout)
    result: Tensor = generic.run(_aten.convolution.default, (input, weight, *rest), kwargs)
    groups = rest[6] if len(rest) > 6 else kwargs.get("groups", 1)
    if groups == 1 and max(weight.shape[2:]) > 1:
        state.current().libraries.convolution(input.nbytes + result.nbytes)
    return result


def convolution_backward(
    grad_output: Tensor, input: Tensor, weight: Tensor, *rest: Any, **kwargs: Any
) -> Any:
    layout = _format(input, weight)
    if grad_output.dim() == weight.dim():
        input, weight = input.contiguous(memory_format=layout), weight.contiguous(memory_format=layout)
        grad_output = grad_output.contiguous(memory_format=layout)
    return generic.run(_aten.convolution_backward.default, (grad_output, input, weight, *rest), kwargs)


def _convolution_shape(input: Tensor, weight: Tensor, *rest: Any, **kwargs: Any) -> Tensor:
    out: Tensor = _aten.convolution.default(input, weight, *rest, **kwargs)
    return out.contiguous(memory_format=_format(input, weight))


KERNELS: dict[str, Any] = {"convolution": convolution, "convolution_backward": convolution_backward}


def install() -> None:
    generic.SHAPES["aten::convolution"] = _convolution_shape
