"""README of Stonesjtu/pytorch_memlab: what its reporters print for a few small layers.

The README dates from 2019-2020 (torch 1.x): cuBLAS's workspace was not yet in PyTorch's allocator.  The card
is not stated; allocator figures of these programs do not depend on it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from . import Measurement, MiB, Row, current, peaks


def _linear(until: str) -> Measurement:
    import torch

    layer = torch.nn.Linear(1024, 1024).cuda()
    if until == "load":
        return current()
    inputs = torch.Tensor(512, 1024).cuda()
    out = layer(inputs).mean()
    if until == "forward":
        return current()
    out.backward()
    return current()


def _three_linears() -> Measurement:
    import torch

    layers = [torch.nn.Linear(100, 100).cuda() for _ in range(3)]
    found = peaks()
    del layers
    return found


def rows() -> Iterable[Row]:
    def row(name: str, metric: str, build: Callable[[], Measurement]) -> Row:
        return Row(f"memlab-{name}", "TITAN RTX", metric, build, MiB, torch="1.4")  # type: ignore[arg-type]

    yield row("linear-load", "allocated", lambda: _linear("load"))
    yield row("linear-fwd", "allocated", lambda: _linear("forward"))
    yield row("linear-bwd", "allocated", lambda: _linear("backward"))
    yield row("lineprof-3linears", "reserved", _three_linears)
