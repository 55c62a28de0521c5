"""When the card is full: the exact error, numbers that agree, and a program that can go on."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path

import pytest
import torch
from torch import nn

from hfgpu_magic.virtual import VirtualGPU

GIB = 1 << 30
HERE = str(Path(__file__))


def _wide(gib: float) -> nn.Linear:
    """A layer whose weight takes `gib` GiB of fp32; it costs the host nothing while a virtual GPU runs."""
    return nn.Linear(1 << 15, int(gib * GIB) // 4 // (1 << 15), bias=False)


def _in_forward() -> None:
    model = _wide(6).cuda()
    model(torch.empty(64 << 10, 1 << 15, device="cuda"))


def _in_to() -> None:
    nn.Sequential(_wide(8), _wide(8)).to("cuda")


def _in_backward() -> None:
    model = nn.Sequential(_wide(5), nn.ReLU()).cuda()
    model(torch.empty(1 << 14, 1 << 15, device="cuda")).sum().backward()


def _in_optimizer() -> None:
    model = _wide(4).cuda()
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.empty(8, 1 << 15, device="cuda")).sum().backward()
    optimizer.step()


PLACES = {"forward": _in_forward, "to": _in_to, "backward": _in_backward, "optimizer": _in_optimizer}


@pytest.mark.parametrize("place", PLACES)
def test_the_exact_type_reaches_the_program(place: str) -> None:
    gpu = VirtualGPU("T4")
    with pytest.raises(torch.OutOfMemoryError) as caught, gpu:
        PLACES[place]()
    assert type(caught.value) is torch.OutOfMemoryError is torch.cuda.OutOfMemoryError
    assert isinstance(caught.value, RuntimeError)  # what older programs catch
    assert str(caught.value).startswith("CUDA out of memory. Tried to allocate ")
    assert gpu.report.outcome == "oom"
    assert gpu.report.oom is not None
    assert gpu.report.oom.message == str(caught.value)
    assert not gpu.report.oom.caught
    assert gpu.report.error is None


@pytest.mark.parametrize("place", PLACES)
def test_the_report_points_at_the_programs_own_line(place: str) -> None:
    gpu = VirtualGPU("T4")
    with pytest.raises(torch.OutOfMemoryError) as caught, gpu:
        PLACES[place]()
    oom = gpu.report.oom
    assert oom is not None
    own = [entry for entry in caught.traceback if str(entry.path) == HERE]
    assert (oom.file, oom.line) == (HERE, own[-1].lineno + 1)
    assert oom.code == str(own[-1].statement).strip()


def test_the_line_inside_a_users_module_is_the_innermost_one() -> None:
    class Greedy(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.repeat(1 << 14, 1)  # here

    gpu = VirtualGPU("T4")
    with pytest.raises(torch.OutOfMemoryError), gpu:
        nn.Sequential(Greedy()).cuda()(torch.empty(1 << 18, 4, device="cuda"))
    assert gpu.report.oom is not None
    assert gpu.report.oom.code == "return x.repeat(1 << 14, 1)  # here"


def _gib(message: str, pattern: str) -> float:
    """A figure of the message in bytes."""
    found = re.search(pattern.replace("#", r"([\d.]+) (GiB|MiB|KiB|bytes)"), message)
    assert found is not None, message
    return float(found[1]) * {"GiB": GIB, "MiB": 1 << 20, "KiB": 1 << 10, "bytes": 1}[found[2]]


def test_the_messages_numbers_are_those_of_the_memory_api(t4: VirtualGPU) -> None:
    kept = [torch.empty(5 * GIB, dtype=torch.uint8, device="cuda")]
    cached = torch.empty(3 * GIB, dtype=torch.uint8, device="cuda")
    part = torch.empty(15 << 20, dtype=torch.uint8, device="cuda")
    del part
    with pytest.raises(torch.OutOfMemoryError) as caught:
        torch.empty(12 * GIB, dtype=torch.uint8, device="cuda")
    message = str(caught.value)
    free, total = torch.cuda.mem_get_info()
    close = {"abs": 0.006 * GIB}  # two decimals
    assert _gib(message, "Tried to allocate #") == 12 * GIB
    assert _gib(message, "total capacity of #") == pytest.approx(total, **close)
    assert _gib(message, "of which # is free") == pytest.approx(free, **close)
    assert _gib(message, "has # memory in use") == pytest.approx(total - free, **close)
    assert _gib(message, "# is allocated by PyTorch") == pytest.approx(torch.cuda.memory_allocated(), **close)
    unallocated = torch.cuda.memory_reserved() - torch.cuda.memory_allocated()
    assert _gib(message, "# is reserved by PyTorch but unallocated") == pytest.approx(
        unallocated, abs=0.006 * (1 << 20)
    )
    assert torch.cuda.memory_stats()["num_ooms"] == 1
    assert sum(t.numel() for t in kept) + cached.numel() == torch.cuda.memory_allocated()


def test_free_memory_never_goes_below_zero_and_the_limit_is_the_card(t4: VirtualGPU) -> None:
    kept = []
    with pytest.raises(torch.OutOfMemoryError):
        while True:
            kept.append(torch.empty(256 << 20, dtype=torch.uint8, device="cuda"))
    free, total = torch.cuda.mem_get_info()
    assert 0 <= free < 256 << 20
    assert free + torch.cuda.memory_reserved() + t4.report.peak.device - t4.report.peak.reserved == total


def test_a_program_that_catches_it_goes_on(t4: VirtualGPU) -> None:
    x = torch.empty(10 * GIB, dtype=torch.uint8, device="cuda")
    with pytest.raises(torch.OutOfMemoryError):
        torch.empty(10 * GIB, dtype=torch.uint8, device="cuda")
    assert torch.cuda.memory_allocated() == 10 * GIB
    del x
    torch.cuda.empty_cache()
    assert torch.cuda.memory_reserved() == 0
    assert torch.empty(10 * GIB, dtype=torch.uint8, device="cuda").is_cuda
    oom = t4.report.oom
    assert t4.report.outcome == "fits"
    assert oom is not None
    assert oom.caught
    assert oom.requested == 10 * GIB


def test_halving_the_batch_until_it_fits(t4: VirtualGPU) -> None:
    """What `find_executable_batch_size` and its kin do: nothing of a failed attempt may stay behind."""
    model = nn.Sequential(*[nn.Linear(4096, 4096) for _ in range(4)]).cuda()
    tried = []
    batch = 1 << 20
    while True:
        tried.append(batch)
        try:
            model(torch.empty(batch, 4096, device="cuda")).sum().backward()
            break
        except torch.OutOfMemoryError:
            model.zero_grad()
            torch.cuda.empty_cache()
            batch //= 2
    weights = sum(p.numel() * 4 for p in model.parameters())
    # What has to be there at once: weights, their gradients, the input, four outputs and one gradient of one.
    per_row = 4096 * 4 * (1 + 4 + 1)
    assert batch * per_row + 2 * weights < t4.gpu.memory_total < 2 * batch * per_row + 2 * weights + (1 << 30)
    assert len(tried) > 1


def test_a_failed_backward_leaves_the_parameters_usable(t4: VirtualGPU) -> None:
    model = nn.Sequential(_wide(5), nn.ReLU()).cuda()
    with pytest.raises(torch.OutOfMemoryError):
        model(torch.empty(1 << 14, 1 << 15, device="cuda")).sum().backward()
    model.zero_grad(set_to_none=True)
    torch.cuda.empty_cache()
    model(torch.empty(8, 1 << 15, device="cuda")).sum().backward()
    assert model[0].weight.grad is not None


def test_a_preemptive_refusal_is_told_as_one(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = "per_process_memory_fraction:0.5,throw_on_cudamalloc_oom:True"
    monkeypatch.setenv("PYTORCH_CUDA_ALLOC_CONF", settings)
    with VirtualGPU("T4"), pytest.raises(torch.OutOfMemoryError, match="preemptively rejected"):
        torch.empty(8 * GIB, dtype=torch.uint8, device="cuda")


def test_a_bare_except_cannot_hide_it_from_the_report(t4: VirtualGPU) -> None:
    with contextlib.suppress(Exception):
        torch.empty(100 * GIB, dtype=torch.uint8, device="cuda")
    assert t4.report.oom is not None
    assert t4.report.oom.caught
    assert t4.report.oom.requested == 100 * GIB


def test_an_error_raised_from_it_is_still_out_of_memory() -> None:
    gpu = VirtualGPU("T4")
    with pytest.raises(ValueError, match="too large"), gpu:
        try:
            torch.empty(100 * GIB, dtype=torch.uint8, device="cuda")
        except torch.OutOfMemoryError as error:
            raise ValueError("too large") from error
    assert gpu.report.outcome == "oom"


def test_an_unrelated_error_after_a_caught_one_is_an_error() -> None:
    gpu = VirtualGPU("T4")
    with pytest.raises(ValueError, match="later"), gpu:
        with contextlib.suppress(torch.OutOfMemoryError):
            torch.empty(100 * GIB, dtype=torch.uint8, device="cuda")
        raise ValueError("later")
    assert gpu.report.outcome == "error"
    assert gpu.report.oom is not None
    assert gpu.report.oom.caught
