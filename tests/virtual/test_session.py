"""`VirtualGPU` as a context manager: what starts, what is refused, what the report says."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch

from hfgpu_magic.errors import UnknownGPUError, UsageError, VirtualGPUError
from hfgpu_magic.virtual import VirtualGPU


def test_inside_the_block_cuda_is_the_named_card() -> None:
    with VirtualGPU("T4"):
        assert torch.cuda.is_available()
        assert torch.cuda.get_device_name() == "Tesla T4"
        assert torch.ones(2, device="cuda").device == torch.device("cuda", 0)
    assert not torch.cuda.is_available()


def test_names_are_forgiving_and_unknown_ones_suggest_the_nearest() -> None:
    with VirtualGPU("a100 40gb") as gpu:
        assert gpu.gpu.driver_name == "NVIDIA A100-SXM4-40GB"
    with pytest.raises(UnknownGPUError, match="H100"):
        VirtualGPU("H1000")


def test_several_cards_are_refused_with_a_sentence() -> None:
    with pytest.raises(UsageError, match="one virtual GPU at a time"):
        VirtualGPU("T4x2")


def test_nested_use_is_refused_and_the_outer_run_goes_on() -> None:
    with VirtualGPU("T4"):
        with pytest.raises(VirtualGPUError, match="already running"), VirtualGPU("A100 40GB"):
            pass
        assert torch.cuda.get_device_name() == "Tesla T4"
        assert (torch.ones(3, device="cuda") + 1).is_cuda


def test_one_object_is_one_run() -> None:
    gpu = VirtualGPU("T4")
    with gpu:
        pass
    with pytest.raises(VirtualGPUError, match="has been used"), gpu:
        pass


def test_there_is_no_report_before_the_run() -> None:
    gpu = VirtualGPU("T4")
    assert gpu.never_started
    with pytest.raises(VirtualGPUError, match="Nothing has run"):
        _ = gpu.report


def test_the_report_can_be_read_during_the_run_and_grows() -> None:
    with VirtualGPU("T4") as gpu:
        first = torch.empty(1 << 20, device="cuda")
        during = gpu.report
        second = torch.empty(1 << 20, device="cuda")
    assert during.peak.allocated == first.numel() * 4
    assert gpu.report.peak.allocated == (first.numel() + second.numel()) * 4
    assert gpu.report.outcome == during.outcome == "fits"


def test_device_memory_is_context_plus_reserved_and_the_context_can_be_given() -> None:
    with VirtualGPU("T4", context=123 << 20) as gpu:
        torch.empty(1, device="cuda")
    peak = gpu.report.peak
    assert peak.reserved == 2 << 20
    assert peak.device == peak.reserved + (123 << 20)
    assert gpu.report.headroom == gpu.report.total_memory - peak.device


def test_an_exception_is_the_outcome_error_and_passes_through() -> None:
    gpu = VirtualGPU("T4")
    with pytest.raises(KeyError, match="mine"), gpu:
        raise KeyError("mine")
    assert gpu.report.outcome == "error"
    assert gpu.report.error == "KeyError: 'mine'"


@pytest.mark.parametrize(("code", "outcome"), [(0, "fits"), (None, "fits"), (2, "error")])
def test_sys_exit_counts_by_its_code(code: int | None, outcome: str) -> None:
    gpu = VirtualGPU("T4")
    with pytest.raises(SystemExit), gpu:
        raise SystemExit(code)
    assert gpu.report.outcome == outcome


def test_an_interrupt_keeps_the_figures_so_far() -> None:
    gpu = VirtualGPU("T4")
    with pytest.raises(KeyboardInterrupt), gpu:
        torch.empty(1 << 20, device="cuda")
        raise KeyboardInterrupt
    assert gpu.report.peak.allocated == 4 << 20
    assert any("Interrupted" in note for note in gpu.report.notes)


def test_a_report_is_json_with_bytes_as_integers() -> None:
    with VirtualGPU("T4") as gpu:
        torch.nn.Linear(8, 8).cuda()(torch.ones(1, 8, device="cuda"))
    data = json.loads(json.dumps(gpu.report.to_dict()))
    assert {
        "gpu", "total_memory", "outcome", "peak", "devices", "oom", "by_category_at_peak",
        "estimated_seconds", "wall_seconds", "operations", "notes",
    } <= data.keys()  # fmt: skip
    assert all(isinstance(data["peak"][key], int) for key in ("allocated", "reserved", "device"))
    assert sum(data["by_category_at_peak"].values()) == data["peak"]["allocated"]


def test_a_note_is_kept_once() -> None:
    with VirtualGPU("T4") as gpu:
        gpu.note("said")
        gpu.note("said")
    assert gpu.report.notes == ("said",)


def test_every_run_starts_with_an_empty_card() -> None:
    peaks = []
    for _ in range(2):
        with VirtualGPU("T4") as gpu:
            torch.ones(1 << 20, device="cuda") @ torch.ones(1 << 20, device="cuda")
        peaks.append(gpu.report.peak)
    assert peaks[0] == peaks[1]


def test_estimated_time_follows_the_card() -> None:
    times, best = {}, {}
    for name in ("T4", "A100 40GB"):
        with VirtualGPU(name) as gpu:
            a = torch.empty(4096, 4096, device="cuda", dtype=torch.float16)
            a @ a
        times[name], best[name] = gpu.report.estimated_seconds, 2 * 4096**3 / gpu.gpu.rates["fp16"]
    # Never faster than the card's dense fp16 rate, and the faster card is faster.
    assert times["T4"] is not None
    assert times["A100 40GB"] is not None
    assert best["T4"] <= times["T4"] < 1.5 * best["T4"]
    assert times["A100 40GB"] < times["T4"]


def test_a_process_that_trained_on_the_cpu_first_can_still_start_one() -> None:
    """Autograd counts devices at the first backward of a process; a notebook has often run one by then."""
    script = (
        "import torch; torch.nn.Linear(2, 2)(torch.ones(1, 2)).sum().backward()\n"
        "from hfgpu_magic.virtual import VirtualGPU\n"
        "with VirtualGPU('T4') as gpu:\n"
        "    m = torch.nn.Linear(2, 2).cuda(); m(torch.ones(1, 2, device='cuda')).sum().backward()\n"
        "    assert m.weight.grad.is_cuda\n"
        "torch.nn.Linear(2, 2)(torch.ones(1, 2)).sum().backward()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
