"""Naming memory: which module runs, what is a parameter, a gradient, an optimizer's state.

Uses PyTorch's own global hooks (module forward, optimizer step).  Each storage on the card has a
`timeline.Record`; the hooks write categories and module names into it.
"""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import torch

from . import backend

if TYPE_CHECKING:
    from .device import VirtualDevice
    from .patches import Patches


class Attribution:
    """Keeps the stack of running modules and labels storages of one run."""

    def __init__(self, device: VirtualDevice) -> None:
        self._device = device
        self._stack: list[torch.nn.Module] = []
        self._names: weakref.WeakKeyDictionary[torch.nn.Module, str] = weakref.WeakKeyDictionary()
        self._roots: weakref.WeakSet[torch.nn.Module] = weakref.WeakSet()
        self._optimizers: weakref.WeakKeyDictionary[Any, int] = weakref.WeakKeyDictionary()
        #: Name of the innermost running module, "" outside all.
        self.current_module = ""
        self.steps = 0
        self.in_optimizer = False
        self._building = 0

    def install(self, patches: Patches) -> None:
        from torch.nn.modules import module as nn_module
        from torch.optim import optimizer as optim

        handles = (
            nn_module.register_module_forward_pre_hook(self._enter),
            nn_module.register_module_forward_hook(self._leave, always_call=True),
            optim.register_optimizer_step_pre_hook(self._before_step),
            optim.register_optimizer_step_post_hook(self._after_step),
        )
        for handle in handles:
            patches.on_undo(handle.remove)
        move: Callable[..., Any] = torch.nn.Module._apply

        def _apply(module: Any, fn: Any, recurse: bool = True) -> Any:
            with self.building():
                return move(module, fn, recurse)

        patches.set(torch.nn.Module, "_apply", _apply)

    @contextlib.contextmanager
    def building(self) -> Iterator[None]:
        """While a model is moved or loaded: what appears on the card is its parameters."""
        self._building += 1
        try:
            yield
        finally:
            self._building -= 1

    @property
    def in_building(self) -> bool:
        return self._building > 0

    # ------------------------------------------------------------ modules

    def _enter(self, module: torch.nn.Module, args: Any) -> None:
        if not self._stack and module not in self._roots:
            self._roots.add(module)
            for name, child in module.named_modules():
                self._names.setdefault(child, name or type(child).__name__)
        self._stack.append(module)
        self.current_module = self._names.get(module, "")
        self._label_own(module)

    def _leave(self, module: torch.nn.Module, args: Any, output: Any) -> None:
        # An exception may have skipped inner exits: unwind to this module.
        while self._stack:
            if self._stack.pop() is module:
                break
        self.current_module = self._names.get(self._stack[-1], "") if self._stack else ""

    def _label_own(self, module: torch.nn.Module) -> None:
        record_of = self._device.record_of
        for parameter in module._parameters.values():
            if parameter is not None:
                self._label(parameter, "parameters", record_of, module)
        for buffer in module._buffers.values():
            if buffer is not None:
                self._label(buffer, "buffers", record_of, module)

    def _label(self, t: torch.Tensor, category: str, record_of: Any, module: Any = None) -> None:
        for part in _parts(t):
            record = record_of(part)
            if record is None:
                continue
            # Once a parameter, always one; only a buffer that was moved with its model is set right.
            if record.category != "parameters" or category == "buffers":
                record.category = category
            if module is not None and not record.module:
                record.module = self._names.get(module, "")

    @property
    def in_module(self) -> bool:
        return bool(self._stack)

    # ------------------------------------------------------------ optimizers

    def _before_step(self, optimizer: Any, args: Any, kwargs: Any) -> None:
        self.in_optimizer = True
        self.label_parameters(p for group in optimizer.param_groups for p in group["params"])
        self._optimizers.setdefault(optimizer, 0)

    def _after_step(self, optimizer: Any, args: Any, kwargs: Any) -> None:
        self.in_optimizer = False
        self.steps += 1
        if self._optimizers.get(optimizer) != len(optimizer.state):
            self._optimizers[optimizer] = len(optimizer.state)
            self._label_state(optimizer)

    def _label_state(self, optimizer: Any) -> None:
        record_of = self._device.record_of
        for state in list(optimizer.state.values()):
            if isinstance(state, dict):
                for value in state.values():
                    if isinstance(value, torch.Tensor):
                        self._label(value, "optimizer", record_of)

    def label_parameters(self, parameters: Any) -> None:
        """Mark parameters and what they hold in `.grad`."""
        record_of = self._device.record_of
        for p in parameters:
            self._label(p, "parameters", record_of)
            if p.grad is not None:
                self._label(p.grad, "gradients", record_of)

    def settle(self) -> None:
        """Before a report: label everything still reachable from the modules and optimizers seen."""
        for module in list(self._names):
            self._label_own(module)
            self.label_parameters(p for p in module._parameters.values() if p is not None)
        for optimizer in list(self._optimizers):
            self._label_state(optimizer)


def _parts(t: torch.Tensor) -> list[torch.Tensor]:
    """The plain tensors a (possibly quantized) parameter is made of."""
    parts = [t]
    if type(t) not in (torch.Tensor, torch.nn.Parameter):
        state = getattr(t, "quant_state", None)  # bitsandbytes: absmax and code tables
        for holder in (state, getattr(state, "state2", None)):
            for name in ("absmax", "code", "offset"):
                part = getattr(holder, name, None)
                if isinstance(part, torch.Tensor):
                    parts.append(part)
        flatten = getattr(t, "__tensor_flatten__", None)  # torchao and other wrapper subclasses
        if flatten is not None:
            names, _ = flatten()
            parts = [p for n in names for p in _parts(getattr(t, n))]
    return [p for p in parts if backend.is_virtual(p)]
