"""Recordings of real allocators whose program is known, run again event by event.

Sources (the recordings are in the evidence folder, see its INDEX.csv; the programs are public):

* linear_forward_*: shreyansh26/MLSys-Experiments, model_memory_usage/profile_grad.py and profile_no_grad.py:
  nn.Linear(10_000, 50_000) on the card, three times a new (5_000, 10_000) input and a forward.  Recorded
  with torch 2.4 or so (cuBLASLt takes 1 MiB per call) on a Hopper card (32 MiB cuBLAS workspace).
* attention_fwd_bwd: silmont2000/assignment2-systems, cs336_systems/debug_memory.py: attention written out
  (scores, division, a softmax of max, exp, sum), B = 8, S = 4096, d = 16, fp32, torch 2.6.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Recording:
    """One recording and the program behind it.

    `program(record)` runs inside a virtual card, calls `record()` where the original started the recorder,
    and returns what is still alive when the snapshot is taken.
    """

    name: str
    gpu: str
    torch: str
    program: Callable[[Callable[[], None]], object]
    missing: str = ""


def _linear(record: Callable[[], None], grad: bool) -> object:
    import torch

    record()
    layer = torch.nn.Linear(10_000, 50_000, device="cuda")
    with torch.set_grad_enabled(grad):
        for _ in range(3):
            inputs = torch.randn(5_000, 10_000, device="cuda")
            outputs = layer(inputs)
    return layer, inputs, outputs


def _attention(record: Callable[[], None]) -> object:
    import torch

    record()
    q, k, v = (torch.randn(8, 4096, 16, device="cuda", requires_grad=True) for _ in range(3))

    def attention() -> torch.Tensor:
        scores = torch.einsum("bqd,bkd->bqk", q, k)
        scores = scores / 16**0.5

        def softmax(x: torch.Tensor) -> torch.Tensor:
            largest = x.max(dim=-1, keepdim=True).values
            numerator = torch.exp(x - largest)
            denominator = torch.sum(numerator, dim=-1, keepdim=True)
            return numerator / denominator

        weights = softmax(scores)
        return torch.einsum("bqk,bkd->bqd", weights, v)

    output = attention()
    output.register_hook(lambda grad: grad)
    loss = output.sum()
    loss.backward()
    return q, k, v, output, loss


def recordings() -> Iterable[Recording]:
    yield Recording("linear_forward_grad_from_empty", "H100 SXM", "2.4", lambda record: _linear(record, True))
    yield Recording(
        "linear_forward_no_grad_from_empty", "H100 SXM", "2.4", lambda record: _linear(record, False)
    )
    yield Recording("attention_fwd_bwd_from_empty", "RTX 4090", "2.6", _attention)
