"""One training step of a tiny model, on the host for real and on the virtual GPU: the same program."""

from __future__ import annotations

import gc
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from .recorder import Recorder, View, watched_allocations
from .table import Architecture


@dataclass(frozen=True)
class Run:
    """The record of a step, and the outputs, gradients and optimizer states it made."""

    recorder: Recorder
    state: dict[str, View]


def on_host(architecture: Architecture, attention: str = "eager", *, dropout: bool = False) -> Run:
    return _run(architecture, "cpu", Recorder(), None, attention, dropout)


def on_card(architecture: Architecture, gpu: Any, attention: str = "eager", *, dropout: bool = False) -> Run:
    """Inside a `VirtualGPU` block; `gpu` is its device."""
    from hfgpu_magic.virtual import backend

    return _run(architecture, "cuda", Recorder(backend.on_card), gpu, attention, dropout)


def _run(
    architecture: Architecture, device: str, recorder: Recorder, gpu: Any, attention: str, dropout: bool
) -> Run:
    model = architecture.build(attention, dropout=dropout).to(device)
    batch = {k: v.to(device) for k, v in architecture.inputs().items()}
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, foreach=True)
    recorder.known([list(model.parameters()), list(model.buffers()), batch])
    state: dict[str, View] = {}
    with _no_collection(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if gpu is None:
            with recorder:
                _step(architecture, model, batch, optimizer, recorder, state)
        else:
            with watched_allocations(recorder, gpu), recorder:
                _step(architecture, model, batch, optimizer, recorder, state)
    recorder.ended = True
    return Run(recorder, state)


@contextmanager
def _no_collection() -> Iterator[None]:
    """When the collector of cycles runs is no property of the program."""
    gc.collect()
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _step(
    architecture: Architecture,
    model: torch.nn.Module,
    batch: dict[str, torch.Tensor],
    optimizer: torch.optim.Optimizer,
    recorder: Recorder,
    state: dict[str, View],
) -> None:
    torch.manual_seed(2)
    extra = {"return_loss": True} if architecture.batch == "text_and_image" else {}
    out = model(**batch, **extra)
    for name, value in out.items():
        if isinstance(value, torch.Tensor):
            state[f"output {name}"] = recorder.view(value)
    out["loss"].backward()
    del out
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            state[f"grad {name}"] = recorder.view(parameter.grad)
    optimizer.step()
    for name, parameter in model.named_parameters():
        for key, value in optimizer.state.get(parameter, {}).items():
            state[f"optimizer {name}.{key}"] = recorder.view(value)
    optimizer.zero_grad()

