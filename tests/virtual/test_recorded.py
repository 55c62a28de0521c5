"""Programs whose memory was recorded on real cards, run again on virtual ones: the same events in order.

The recordings and the programs behind them are described in ../shared/evidence (INDEX.csv); cards and PyTorch
versions are those of the recordings.  Nothing is fitted: what differs is a mechanism that is missing.
"""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from hfgpu_magic.virtual import VirtualGPU

Event = tuple[str, int]


def _recorded(folder: Path, name: str) -> dict[str, Any]:
    with gzip.open(folder / "traces" / f"{name}.json.gz", "rt", encoding="utf-8") as file:
        data: dict[str, Any] = json.load(file)
    return data


def _events(trace: list[Any]) -> list[Event]:
    """(action, bytes); a recording keeps lists, PyTorch's snapshot dictionaries."""
    pairs = [(e["action"], e["size"]) if isinstance(e, dict) else (e[0], e[2]) for e in trace]
    return [(action, size) for action, size in pairs if action != "snapshot"]


def _reserved(segments: list[Any]) -> int:
    return sum(s["total_size"] for s in segments)


def _linear(grad: bool) -> object:
    """shreyansh26/MLSys-Experiments, model_memory_usage: three forwards, each on a new batch."""
    layer = torch.nn.Linear(10_000, 50_000, device="cuda")
    with torch.set_grad_enabled(grad):
        for _ in range(3):
            inputs = torch.randn(5_000, 10_000, device="cuda")
            outputs = layer(inputs)
    return layer, inputs, outputs


def _run(
    program: Any, *arguments: Any, gpu: str, torch_version: str
) -> tuple[list[Event], dict[str, Any], VirtualGPU]:
    """Events, snapshot and card; the program's last tensors are let go while the recorder still runs."""
    with VirtualGPU(gpu, torch_version=torch_version) as card:
        torch.cuda.memory._record_memory_history()
        program(*arguments)
        snapshot: dict[str, Any] = torch.cuda.memory._snapshot()
        torch.cuda.memory._record_memory_history(enabled=None)
    return _events(snapshot["device_traces"][0]), snapshot, card


@pytest.mark.parametrize("grad", [False, True], ids=["no_grad", "grad"])
def test_linear_forward_event_by_event(grad: bool, evidence: Path) -> None:
    recorded = _recorded(evidence, f"linear_forward_{'grad' if grad else 'no_grad'}_from_empty")
    expected = _events(recorded["device_traces"][0])
    events, snapshot, card = _run(_linear, grad, gpu="H100 SXM", torch_version="2.4")
    # The recording ends while the layer and the last batch are alive; here they die with the function.
    assert events[: len(expected)] == expected
    assert {action for action, _ in events[len(expected) :]} <= {"free_requested", "free_completed"}
    assert card.report.peak.reserved == _reserved(recorded["segments"]) == 4_439_670_784
    assert sorted(s["total_size"] for s in snapshot["segments"]) == sorted(
        s["total_size"] for s in recorded["segments"]
    )


def _attention() -> object:
    """silmont2000/assignment2-systems: attention written out, B = 8, S = 4096, d = 16, fp32."""
    q, k, v = (torch.randn(8, 4096, 16, device="cuda", requires_grad=True) for _ in range(3))

    def softmax(x: torch.Tensor) -> torch.Tensor:
        largest = x.max(dim=-1, keepdim=True).values
        numerator = torch.exp(x - largest)
        return numerator / torch.sum(numerator, dim=-1, keepdim=True)

    def attention() -> torch.Tensor:
        scores = torch.einsum("bqd,bkd->bqk", q, k) / 16**0.5
        return torch.einsum("bqk,bkd->bqd", softmax(scores), v)

    output = attention()
    output.sum().backward()
    return q, k, v, output


def test_attention_forward_and_backward_event_by_event(evidence: Path) -> None:
    recorded = _recorded(evidence, "attention_fwd_bwd_from_empty")
    expected = _events(recorded["device_traces"][0])
    events, _, card = _run(_attention, gpu="RTX 4090", torch_version="2.6")
    assert events[: len(expected)] == expected
    assert card.report.peak.reserved == _reserved(recorded["segments"]) == 3_781_165_056
