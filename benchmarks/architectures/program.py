"""One training step of a tiny model, on the host for real and on the virtual GPU: the same program."""

from __future__ import annotations

import warnings
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch

from hfgpu_magic.runner import uncollected

from .recorder import Card, Recorder, View
from .table import Architecture


@dataclass
class Program:
    """A model, its batch and its optimizer, where they belong, before the step."""

    model: torch.nn.Module
    batch: dict[str, Any]
    optimizer: torch.optim.Optimizer
    recorder: Recorder | None = None
    state: dict[str, View] = field(default_factory=dict)
    """Outputs, gradients and optimizer states, once the step has been recorded."""

    def note(self, name: str, t: torch.Tensor) -> None:
        if self.recorder is not None:
            self.state[name] = self.recorder.view(t)


@dataclass(frozen=True)
class Run:
    """The record of a step, and the outputs, gradients and optimizer states it made."""

    recorder: Recorder
    state: dict[str, View]


def on_host(architecture: Architecture, attention: str = "eager", *, dropout: bool = False) -> Run:
    return record_on_host(prepared(architecture, "cpu", attention, dropout=dropout))


def on_card(architecture: Architecture, attention: str = "eager", *, dropout: bool = False) -> Run:
    """Inside a `VirtualGPU` block."""
    return record_on_card(prepared(architecture, "cuda", attention, dropout=dropout))


def record_on_host(program: Program) -> Run:
    """Take the step, and the record of it."""
    return _recorded(program, Recorder(), nullcontext())


def record_on_card(program: Program) -> Run:
    """The same inside a `VirtualGPU` block."""
    from hfgpu_magic.virtual import state

    card = Card(state.current())
    recorder = Recorder(card)
    return _recorded(program, recorder, card.watched(recorder))


def prepared(architecture: Architecture, device: str, attention: str, *, dropout: bool = False) -> Program:
    """Everything there before the step.  AdamW takes its foreach form, as it does by itself on cuda."""
    model = architecture.build(attention, dropout=dropout).to(device)
    batch = {k: _moved(v, device) for k, v in architecture.inputs().items()}
    return Program(model, batch, torch.optim.AdamW(model.parameters(), lr=1e-3, foreach=True))


def _moved(value: Any, device: str) -> Any:
    return value.to(device) if isinstance(value, torch.Tensor) else value


def _recorded(program: Program, recorder: Recorder, watched: AbstractContextManager[None]) -> Run:
    recorder.known([list(program.model.parameters()), list(program.model.buffers()), program.batch])
    program.recorder = recorder
    with uncollected(), warnings.catch_warnings(), watched:
        warnings.simplefilter("ignore")
        with recorder:
            step(program)
        recorder.finish()
    return Run(recorder, program.state)


def step(program: Program) -> None:
    """Forward, backward, one step of the optimizer, gradients dropped."""
    torch.manual_seed(2)
    out = program.model(**program.batch)
    for name, value in out.items():
        if isinstance(value, torch.Tensor):
            program.note(f"output {name}", value)
    out["loss"].backward()
    del out
    parameters = dict(program.model.named_parameters())
    for name, parameter in parameters.items():
        if parameter.grad is not None:
            program.note(f"grad {name}", parameter.grad)
    program.optimizer.step()
    for name, parameter in parameters.items():
        for key, value in program.optimizer.state.get(parameter, {}).items():
            program.note(f"optimizer {name}.{key}", value)
    program.optimizer.zero_grad()
