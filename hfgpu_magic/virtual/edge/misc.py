"""The rest of the border: default devices, foreach grouping, the accelerator API, compile."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import torch

from .. import backend
from .names import CUDA0, to_cuda, to_virtual

if TYPE_CHECKING:
    from ..device import VirtualDevice
    from ..patches import Patches


def install(patches: Patches, device: VirtualDevice) -> None:
    _default_devices(patches)
    group = torch._C._group_tensors_by_device_and_dtype

    def grouped(*args: Any, **kwargs: Any) -> Any:
        return {(to_cuda(d), dtype): v for (d, dtype), v in group(*args, **kwargs).items()}

    # Optimizers compare the keys with `tensor.device`.
    patches.set(torch._C, "_group_tensors_by_device_and_dtype", grouped)
    _accelerator(patches)
    _compile(patches, device)


def _default_devices(patches: Patches) -> None:
    from torch.utils import _device as contexts

    def torch_function(self: Any, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in contexts._device_constructors() and kwargs.get("device") is None:
            kwargs["device"] = to_virtual(self.device)
        return func(*args, **kwargs)

    patches.set(contexts.DeviceContext, "__torch_function__", torch_function)
    get_default = torch.get_default_device

    def get_default_device() -> torch.device:
        d = get_default()
        return CUDA0 if d.type in ("cuda", backend.NAME) else d

    patches.set(torch, "get_default_device", get_default_device)


def _accelerator(patches: Patches) -> None:
    from torch.accelerator import _utils

    from .names import gpu_index

    def index(d: Any, optional: bool = False) -> int:
        return gpu_index(d)

    patches.set(_utils, "_get_device_index", index)
    patches.set(torch.accelerator, "_get_device_index", index)
    for name, function in (
        ("device_count", lambda: 1),
        ("is_available", lambda: True),
    ):
        patches.set(torch.accelerator, name, function)


_EAGER = "torch.compile: the code ran eagerly, so the peak is that of the uncompiled program."


def _compile(patches: Patches, device: VirtualDevice) -> None:
    """Compiled code runs eagerly: there is no kernel to generate, and eager memory is the safe bound."""
    original = torch.compile

    @functools.wraps(original)
    def compile(model: Any = None, **kwargs: Any) -> Any:
        if model is None:
            return lambda m: compile(m, **kwargs)
        # Libraries decorate helpers at import; only a compiled model is worth a sentence.
        if isinstance(model, torch.nn.Module):
            device.note(_EAGER)
        return model

    patches.set(torch, "compile", compile)
    patches.set(torch.nn.Module, "compile", lambda self, *args, **kwargs: device.note(_EAGER))
