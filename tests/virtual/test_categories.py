"""What held the memory at the peak: each category is what the model's own sizes say."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from hfgpu_magic.virtual import VirtualGPU
from hfgpu_magic.virtual.report import CATEGORIES


def _block(nbytes: int) -> int:
    """Bytes of the allocator's block for a request: a multiple of 512."""
    return -(-nbytes // 512) * 512


def _held(tensors: Any) -> int:
    return sum(_block(t.numel() * t.element_size()) for t in tensors)


def _model() -> nn.Sequential:
    return nn.Sequential(nn.Linear(512, 2048), nn.GELU(), nn.Linear(2048, 512), nn.BatchNorm1d(512))


def _train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int = 2, rows: int = 4) -> None:
    for _ in range(steps):
        model(torch.randn(rows, 512).cuda()).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()


OPTIMIZERS = {
    "SGD": (lambda p: torch.optim.SGD(p), 0),
    "SGD momentum": (lambda p: torch.optim.SGD(p, momentum=0.9), 1),
    "AdamW": (lambda p: torch.optim.AdamW(p), 2),
    "AdamW fused": (lambda p: torch.optim.AdamW(p, fused=True), 2),
    "Adam amsgrad": (lambda p: torch.optim.Adam(p, amsgrad=True), 3),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_parameters_gradients_and_optimizer_states(name: str) -> None:
    build, copies = OPTIMIZERS[name]
    with VirtualGPU("T4") as gpu:
        model = _model().cuda()
        optimizer = build(model.parameters())
        _train(model, optimizer)
        weights = _held(model.parameters())
        counters = sum(
            _block(4)
            for state in optimizer.state.values()
            for value in state.values()
            if torch.is_tensor(value) and value.numel() == 1 and value.is_cuda
        )
    sizes = gpu.report.by_category_at_peak
    assert sizes["parameters"] == weights
    assert sizes["gradients"] == weights
    assert sizes["optimizer"] == copies * weights + counters


def test_the_categories_add_up_to_the_peak() -> None:
    with VirtualGPU("T4") as gpu:
        model = _model().cuda()
        _train(model, torch.optim.AdamW(model.parameters()))
    report = gpu.report
    assert tuple(report.by_category_at_peak) == CATEGORIES
    assert sum(report.by_category_at_peak.values()) == report.peak.allocated
    assert sum(h.bytes for h in report.largest_at_peak) <= report.peak.allocated


def test_before_the_first_step_there_is_no_optimizer_state() -> None:
    with VirtualGPU("T4") as gpu:
        model = _model().cuda()
        torch.optim.AdamW(model.parameters())
        model(torch.randn(4, 512).cuda()).square().mean().backward()
    assert gpu.report.by_category_at_peak["optimizer"] == 0
    assert gpu.report.by_category_at_peak["gradients"] > 0


def test_buffers_inputs_and_workspace_have_their_own_place() -> None:
    with VirtualGPU("T4") as gpu:
        model = _model().cuda()
        batch = torch.randn(1024, 512).cuda()
        model(batch)
    sizes = gpu.report.by_category_at_peak
    assert sizes["buffers"] == _held([torch.empty(512), torch.empty(512), torch.empty((), dtype=torch.long)])
    assert sizes["inputs"] == 1024 * 512 * 4
    # cuBLAS: 8,519,680 bytes a handle before Hopper; cuBLASLt a mebibyte (PyTorch's documented defaults).
    assert 8_519_680 <= sizes["workspace"] <= 8_519_680 + (1 << 20)


def test_activations_grow_with_the_batch_and_nothing_else_does() -> None:
    def sizes(rows: int) -> dict[str, int]:
        with VirtualGPU("T4") as gpu:
            model = _model().cuda()
            model(torch.randn(rows, 512).cuda()).square().mean()
        return gpu.report.by_category_at_peak

    small, large = sizes(4096), sizes(8192)
    assert large["activations"] == pytest.approx(2 * small["activations"], rel=0.01)
    assert large["inputs"] == 2 * small["inputs"]
    for name in ("parameters", "buffers", "workspace", "gradients"):
        assert large[name] == small[name]


def test_only_trained_parameters_have_gradients() -> None:
    with VirtualGPU("T4") as gpu:
        model = _model().cuda()
        for p in model[0].parameters():
            p.requires_grad_(False)
        optimizer = torch.optim.AdamW(p for p in model.parameters() if p.requires_grad)
        _train(model, optimizer)
        trained = _held(p for p in model.parameters() if p.requires_grad)
        everything = _held(model.parameters())
    sizes = gpu.report.by_category_at_peak
    assert sizes["parameters"] == everything
    assert sizes["gradients"] == trained
    assert sizes["optimizer"] == 2 * trained


def test_mixed_precision_keeps_fp32_weights_and_counts_their_casts_as_activations() -> None:
    with VirtualGPU("T4") as gpu:
        model = nn.Linear(2048, 2048, bias=False).cuda()
        with torch.autocast("cuda", dtype=torch.float16):
            model(torch.randn(8, 2048).cuda())
    sizes = gpu.report.by_category_at_peak
    assert sizes["parameters"] == 2048 * 2048 * 4
    assert sizes["activations"] >= 2048 * 2048 * 2


def test_a_model_built_on_the_card_is_parameters_too() -> None:
    with VirtualGPU("T4") as gpu, torch.device("cuda"):
        model = nn.Linear(1024, 1024)
        model(torch.empty(2, 1024))
    assert gpu.report.by_category_at_peak["parameters"] == _held(model.parameters())


def test_tensors_outside_any_module_are_other() -> None:
    with VirtualGPU("T4") as gpu:
        kept = torch.empty(1 << 20, device="cuda")
    assert gpu.report.by_category_at_peak["other"] == kept.numel() * 4


def test_the_largest_holders_name_their_modules() -> None:
    with VirtualGPU("T4") as gpu:
        model = nn.ModuleDict({"small": nn.Linear(8, 1024), "large": nn.Linear(1024, 8192)}).cuda()
        nn.Sequential(model["small"], model["large"])(torch.randn(2, 8).cuda())
    top = gpu.report.largest_at_peak[0]
    assert top.category == "parameters"
    assert top.bytes == _held(model["large"].parameters())
    assert top.name in ("1", "large")


def test_the_timeline_reaches_the_peak_and_is_thinned() -> None:
    with VirtualGPU("T4") as gpu:
        model = _model().cuda()
        _train(model, torch.optim.AdamW(model.parameters()), steps=60)
    curve = gpu.report.timeline
    assert len(curve) <= 1200
    assert max(point.allocated for point in curve) == gpu.report.peak.allocated
    assert [p.operation for p in curve] == sorted(p.operation for p in curve)
