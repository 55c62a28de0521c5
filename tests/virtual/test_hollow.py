"""Large host tensors cost neither time nor memory while a virtual GPU runs, and are real otherwise."""

from __future__ import annotations

import resource
import sys
import time

import pytest
import torch
from torch import nn

from hfgpu_magic.virtual import VirtualGPU, hollow

MIB = 1 << 20


def _resident() -> int:
    """Bytes of this process that are in memory, at their highest."""
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return used if sys.platform == "darwin" else used * 1024


def test_a_model_larger_than_the_host_is_built_and_moved() -> None:
    before, started = _resident(), time.perf_counter()
    with VirtualGPU("A100 80GB") as gpu:
        model = nn.Sequential(*[nn.Linear(1 << 14, 1 << 14, bias=False) for _ in range(16)])  # 16 GiB
        model.to(torch.bfloat16).to("cuda")
        assert torch.cuda.memory_allocated() == 8 << 30
    assert gpu.report.outcome == "fits"
    assert _resident() - before < 256 * MIB
    assert time.perf_counter() - started < 5


@pytest.mark.parametrize("name", hollow._INITIALISERS)
def test_every_initialiser_of_a_large_tensor_is_free(name: str, t4: VirtualGPU) -> None:
    before = _resident()
    weight = torch.empty(1 << 14, 1 << 13)
    arguments = {"sparse_": (0.1,)}.get(name, ())
    assert getattr(nn.init, name)(weight, *arguments) is weight
    assert hollow.is_hollow(weight)
    assert _resident() - before < 128 * MIB


def test_small_tensors_are_initialised_for_real(t4: VirtualGPU) -> None:
    layer = nn.Linear(16, 16)
    assert not hollow.is_hollow(layer.weight)
    assert layer.weight.std() > 0
    assert nn.init.trunc_normal_(torch.empty(8, 8)).abs().max() <= 2


def test_after_the_run_large_tensors_are_filled_again() -> None:
    with VirtualGPU("T4"):
        nn.Linear(1024, 1024)
    weight = nn.Linear(1024, 1024).weight
    assert weight.std() > 0
    assert not hollow.is_hollow(weight)


def test_casts_stay_hollow(t4: VirtualGPU) -> None:
    weight = torch.empty(1024, 1024).normal_()
    for cast in (
        weight.half(),
        weight.to(torch.bfloat16),
        weight.double(),
        weight.half().float(),
        weight.to("cpu", torch.half),
    ):
        assert hollow.is_hollow(cast)
        assert cast.shape == weight.shape
    assert weight.t().half().stride() == (1, 1024)


def test_a_large_read_back_costs_nothing(t4: VirtualGPU) -> None:
    before = _resident()
    back = torch.empty(1 << 30, dtype=torch.uint8, device="cuda").cpu()
    assert back.numel() == 1 << 30
    assert _resident() - before < 128 * MIB


@pytest.mark.parametrize("mebibytes", [2, 64])
def test_a_read_back_is_zeros_never_what_lay_there(mebibytes: int, t4: VirtualGPU) -> None:
    for _ in range(3):
        rubbish = torch.full((mebibytes << 20,), 255, dtype=torch.uint8)
        del rubbish
        assert int(torch.empty(mebibytes << 20, dtype=torch.uint8, device="cuda").cpu().max()) == 0


def test_device_initialisers_take_no_host_time(t4: VirtualGPU) -> None:
    weight = torch.empty(1 << 14, 1 << 14, device="cuda")
    started = time.perf_counter()
    for name in ("normal_", "trunc_normal_", "xavier_uniform_", "zeros_"):
        getattr(nn.init, name)(weight)
    assert time.perf_counter() - started < 1


def test_values_of_a_hollow_tensor_are_not_known_on_the_card(t4: VirtualGPU) -> None:
    weight = torch.empty(1024, 1024, dtype=torch.float32).uniform_().cuda()
    assert weight[weight > 0.5].numel() == 1024 * 1024


def test_real_data_on_the_host_is_left_alone(t4: VirtualGPU) -> None:
    data = torch.arange(1 << 20, dtype=torch.float32)
    assert float(data.half().float()[12345]) == 12344.0  # rounded to half, not lost
    assert float((data + 1).sum()) > 0
