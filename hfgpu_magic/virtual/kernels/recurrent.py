"""LSTM, GRU and plain recurrent layers: one cuDNN call each, with cuDNN's buffers.

PyTorch hands a recurrent layer to cuDNN where the card has it.  What that allocates (results, the flat
weight buffer, flat weight gradients, copies of operands that are not contiguous) follows ATen's
cudnn/RNN.cpp.  cuDNN alone knows the size of its "reserve", what forward keeps for backward; it is
estimated as what backward cannot do without: each gate, the LSTM's cells, and what passes between layers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from .. import backend, roofline, state
from . import generic

Tensor = torch.Tensor
_aten = torch.ops.aten

_RELU, _TANH, _LSTM, _GRU = 0, 1, 2, 3
#: What PyTorch's modules call cuDNN's modes.
MODES = {"RNN_RELU": _RELU, "RNN_TANH": _TANH, "LSTM": _LSTM, "GRU": _GRU}
#: Mode -> (activated values per hidden unit, cell states per hidden unit) kept for backward.
#: The GRU keeps the hidden part of its new gate beside its three gates.
_KEPT = {_RELU: (1, 0), _TANH: (1, 0), _LSTM: (4, 1), _GRU: (4, 0)}


def _total(weights: Sequence[Tensor]) -> int:
    return sum(w.numel() for w in weights)


def _flat_views(weights: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
    """A flat buffer and views of it shaped like `weights`."""
    flat = backend.make_tensor((_total(weights),), (1,), weights[0].dtype)
    views, at = [], 0
    for w in weights:
        views.append(flat.as_strided(w.shape, backend.contiguous_strides(w.shape), at))
        at += w.numel()
    return flat, views


def _flatten_weight(weight_arr: Sequence[Tensor], *rest: Any) -> Tensor:
    """`flatten_parameters`: the parameters become views of one buffer."""
    flat, views = _flat_views(weight_arr)
    for w, view in zip(weight_arr, views, strict=True):
        view.copy_(w)
        backend.set_storage(w, flat.untyped_storage(), int(view.storage_offset()), view.shape, view.stride())
    return flat


def _cudnn_rnn(
    input: Tensor, weight: Sequence[Tensor], weight_stride0: int, weight_buf: Tensor | None, hx: Tensor,
    cx: Tensor | None, mode: int, hidden_size: int, proj_size: int, num_layers: int, batch_first: bool,
    dropout: float, train: bool, bidirectional: bool, batch_sizes: Sequence[int],
    dropout_state: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    device = state.current()
    state.refuse_outlived((input, weight, hx))
    device.operations += 1
    x = input.transpose(0, 1) if batch_first and not batch_sizes else input
    x = x.contiguous()
    directions, width = 2 if bidirectional else 1, proj_size or hidden_size
    shape = (*x.shape[:-1], width * directions)
    rows = x.numel() // x.size(-1)  # time steps times sequences
    batch = batch_sizes[0] if batch_sizes else x.size(1)
    output = backend.make_tensor(shape, backend.contiguous_strides(shape), x.dtype)
    state_shape = (num_layers * directions, batch)
    hy, cy = (
        backend.make_tensor((*state_shape, n), backend.contiguous_strides((*state_shape, n)), x.dtype)
        for n in (width, hidden_size if cx is not None else 0)
    )
    reserve = _reserve(rows, mode, hidden_size, width, num_layers, directions, dropout) if train else 0
    kept = backend.make_tensor((reserve * x.element_size(),), (1,), torch.uint8)
    device.seconds += _seconds(rows, weight, x)
    if train:
        device.note("Recurrent layers: what cuDNN keeps for backward is estimated (gates and states).")
    if batch_first and not batch_sizes:
        output = output.transpose(0, 1)
    return output, hy, cy, kept, backend.make_tensor((0,), (1,), x.dtype)


def _reserve(
    rows: int, mode: int, hidden: int, width: int, layers: int, directions: int, dropout: float
) -> int:
    """Elements kept for backward."""
    gates, cells = _KEPT[mode]
    per_row = layers * directions * (gates + cells) * hidden
    between = (layers - 1) * directions * width
    return rows * (per_row + between * (2 if dropout else 1))


def _seconds(rows: int, weight: Sequence[Tensor], x: Tensor) -> float:
    gpu = state.current().gpu
    moved = _total(weight) * x.element_size() / gpu.bandwidth
    return max(moved, 2 * rows * _total(weight) / roofline.rate(gpu, x.dtype), roofline.LAUNCH)


def _cudnn_rnn_backward(
    input: Tensor, weight: Sequence[Tensor], weight_stride0: int, weight_buf: Tensor, hx: Tensor,
    cx: Tensor | None, output: Tensor, grad_output: Tensor | None, grad_hy: Tensor | None,
    grad_cy: Tensor | None, mode: int, hidden_size: int, proj_size: int, num_layers: int, batch_first: bool,
    dropout: float, train: bool, bidirectional: bool, batch_sizes: Sequence[int],
    dropout_state: Tensor | None, reserve: Tensor,
    output_mask: Sequence[bool],
) -> tuple[Tensor | None, Tensor | None, Tensor | None, list[Tensor]]:  # fmt: skip
    device = state.current()
    device.operations += 1
    turned = batch_first and not batch_sizes

    def in_time(t: Tensor) -> Tensor:
        return (t.transpose(0, 1) if turned else t).contiguous()

    x = in_time(input)
    # Outputs whose gradient nobody asked for have one of zeros.
    zeros = [
        torch.zeros_like(t)
        for t, g in ((output, grad_output), (hx, grad_hy), (cx, grad_cy))
        if g is None and t is not None
    ]
    operands = [in_time(t) for t in (output, grad_output) if t is not None]
    dx = torch.empty_like(x)
    dhx = torch.empty_like(hx)
    dcx = torch.empty_like(cx) if cx is not None else None
    dw = _flat_views(weight)[1] if output_mask[3] else []
    device.seconds += 2 * _seconds(x.numel() // x.size(-1), weight, x)
    del zeros, operands
    return dx.transpose(0, 1) if turned else dx, dhx, dcx, dw


def _layer(mode: int) -> Callable[..., Any]:
    """`lstm.input` (hx holds two states) or `gru.input`, `rnn_*.input`."""

    def layer(
        input: Tensor, hx: Any, params: Sequence[Tensor], has_biases: bool, num_layers: int, dropout: float,
        train: bool, bidirectional: bool, batch_first: bool,
    ) -> Any:  # fmt: skip
        return _call(
            mode, input, hx, params, has_biases, num_layers, dropout, train, bidirectional, batch_first, ()
        )

    return layer


def _packed_layer(mode: int) -> Callable[..., Any]:
    """The same for a `PackedSequence`."""

    def layer(
        data: Tensor, batch_sizes: Tensor, hx: Any, params: Sequence[Tensor], has_biases: bool,
        num_layers: int, dropout: float, train: bool, bidirectional: bool,
    ) -> Any:  # fmt: skip
        sizes = batch_sizes.tolist()
        return _call(
            mode, data, hx, params, has_biases, num_layers, dropout, train, bidirectional, False, sizes
        )

    return layer


def _call(
    mode: int, input: Tensor, hx: Any, params: Sequence[Tensor], has_biases: bool, num_layers: int,
    dropout: float, train: bool, bidirectional: bool, batch_first: bool, batch_sizes: Sequence[int],
) -> Any:  # fmt: skip
    h, c = hx if mode == _LSTM else (hx, None)
    hidden = c.size(2) if c is not None else h.size(2)
    projected = h.size(2) if h.size(2) != hidden else 0
    stride = (4 if has_biases else 2) + bool(projected)
    output, hy, cy, _, _ = _aten._cudnn_rnn(
        input, params, stride, None, h, c, mode, hidden, projected, num_layers, batch_first, dropout, train,
        bidirectional, batch_sizes, None,
    )  # fmt: skip
    return (output, hy, cy) if mode == _LSTM else (output, hy)


#: Kernels of the device itself.
KERNELS: dict[str, Any] = {
    "_cudnn_rnn": _cudnn_rnn,
    "_cudnn_rnn_backward": _cudnn_rnn_backward,
    "_cudnn_rnn_flatten_weight": _flatten_weight,
}
#: What chooses cuDNN, above autograd.
CHOICES: dict[str, Any] = {
    f"{name}.{variant}": build(mode)
    for name, mode in (("lstm", _LSTM), ("gru", _GRU), ("rnn_tanh", _TANH), ("rnn_relu", _RELU))
    for variant, build in (("input", _layer), ("data", _packed_layer))
}


def _gru_cell(input_gates: Tensor, hidden_gates: Tensor, hx: Tensor, *bias: Any, **biases: Any) -> Any:
    """ATen's fused GRU cell keeps five values per hidden unit (GRU_WORKSPACE_MULTIPLIER in RNN.cu)."""
    return torch.empty_like(hx, memory_format=torch.contiguous_format), hx.new_empty(
        (hx.size(0), hx.size(1) * 5)
    )


def _gru_cell_backward(grad_hy: Tensor, workspace: Tensor, has_bias: bool) -> Any:
    gates = 3 * (workspace.size(1) // 5)
    made = [workspace.new_empty((workspace.size(0), gates)) for _ in range(2)]
    bias = [workspace.new_empty((gates,)) if has_bias else None for _ in range(2)]
    return (*made, torch.empty_like(grad_hy, memory_format=torch.contiguous_format), *bias)


def install() -> None:
    generic.SHAPES["aten::_thnn_fused_gru_cell"] = _gru_cell
    generic.SHAPES["aten::_thnn_fused_gru_cell_backward"] = _gru_cell_backward
