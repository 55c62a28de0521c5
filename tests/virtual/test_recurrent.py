"""Recurrent layers run as one cuDNN call, with its flat weights and gradients."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from hfgpu_magic.virtual import VirtualGPU

# The CPU's own remark on projections.
pytestmark = pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")

LAYERS: dict[str, Any] = {
    "LSTM": lambda: nn.LSTM(8, 16, num_layers=2, batch_first=True),
    "LSTM both ways with projection": lambda: nn.LSTM(8, 16, bidirectional=True, proj_size=4),
    "LSTM with dropout": lambda: nn.LSTM(8, 16, num_layers=3, dropout=0.1),
    "GRU": lambda: nn.GRU(8, 16, num_layers=2, bidirectional=True),
    "GRU without biases": lambda: nn.GRU(8, 16, bias=False),
    "RNN": lambda: nn.RNN(8, 16),
    "RNN relu": lambda: nn.RNN(8, 16, nonlinearity="relu", batch_first=True),
}
CELLS: dict[str, Any] = {
    "LSTMCell": lambda: nn.LSTMCell(8, 16),
    "GRUCell": lambda: nn.GRUCell(8, 16),
    "RNNCell": lambda: nn.RNNCell(8, 16),
}


def _shapes(model: nn.Module, x: Any) -> Any:
    """Shapes of every result and gradient."""
    if isinstance(x, torch.Tensor):
        x.requires_grad_()
    out = model(x)

    def tensors(y: Any) -> list[torch.Tensor]:
        return [y] if isinstance(y, torch.Tensor) else [t for z in y if z is not None for t in tensors(z)]

    results = [t for t in tensors(out) if t.is_floating_point()]
    torch.stack([t.sum() for t in results]).sum().backward()
    gradients = [p.grad.shape for p in model.parameters() if p.grad is not None]
    assert len(gradients) == len(list(model.parameters()))
    return [t.shape for t in results], gradients, x.grad.shape if isinstance(x, torch.Tensor) else None


@pytest.mark.parametrize("name", LAYERS)
def test_results_and_gradients_have_the_shapes_of_a_real_run(name: str) -> None:
    expected = _shapes(LAYERS[name](), torch.randn(3, 5, 8))
    with VirtualGPU("T4"):
        assert _shapes(LAYERS[name]().cuda(), torch.randn(3, 5, 8, device="cuda")) == expected


@pytest.mark.parametrize("name", CELLS)
def test_cells(name: str) -> None:
    expected = _shapes(CELLS[name](), torch.randn(3, 8))
    with VirtualGPU("T4"):
        assert _shapes(CELLS[name]().cuda(), torch.randn(3, 8, device="cuda")) == expected


@pytest.mark.parametrize("name", ["LSTM", "GRU"])
def test_packed_sequences(name: str) -> None:
    def shapes(device: str) -> Any:
        packed = nn.utils.rnn.pack_padded_sequence(torch.randn(5, 3, 8).to(device), torch.tensor([5, 3, 2]))
        return _shapes(getattr(nn, name)(8, 16).to(device), packed)

    expected = shapes("cpu")
    with VirtualGPU("T4"):
        assert shapes("cuda") == expected


def test_weights_become_one_buffer_and_stay_the_same_parameters() -> None:
    with VirtualGPU("T4"):
        model = nn.LSTM(256, 256)
        before = list(model.parameters())
        model.cuda()
        weights = list(model.parameters())
        assert all(a is b for a, b in zip(weights, before, strict=True))
        assert len({w.untyped_storage().data_ptr() for w in weights}) == 1
        assert torch.cuda.memory_allocated() == sum(w.numel() * 4 for w in weights)


def test_nothing_is_kept_for_backward_in_evaluation() -> None:
    def activations(training: bool) -> int:
        with VirtualGPU("T4"), torch.set_grad_enabled(training):
            model = nn.LSTM(256, 256).cuda().train(training)
            x = torch.randn(64, 32, 256, device="cuda")
            before = torch.cuda.memory_allocated()
            out = model(x)
            held = torch.cuda.memory_allocated() - before
            assert out[0].shape == (64, 32, 256)
        return held

    results = 64 * 32 * 256 * 4 + 2 * 32 * 256 * 4
    assert results <= activations(training=False) < results + 2048
    # Four gates and the cell for each step are the least backward needs.
    assert activations(training=True) >= results + 5 * 64 * 32 * 256 * 4


def test_autocast_runs_them_in_half_precision() -> None:
    with VirtualGPU("T4"), torch.autocast("cuda", dtype=torch.float16):
        assert nn.GRU(8, 16).cuda()(torch.randn(3, 5, 8, device="cuda"))[0].dtype is torch.float16


def test_the_estimate_is_said() -> None:
    with VirtualGPU("T4") as gpu:
        nn.GRU(8, 16).cuda()(torch.randn(3, 5, 8, device="cuda"))
    assert any("Recurrent layers" in note for note in gpu.report.notes)
