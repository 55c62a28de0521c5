"""FakeTensorMode beside a virtual GPU.

C++ asks a fake tensor for its device and would take a "cuda" answer to the CUDA runtime, which ends the
process.  It gets the internal device; Python keeps seeing cuda.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from .names import to_cuda, to_virtual

if TYPE_CHECKING:
    from ..device import VirtualDevice
    from ..patches import Patches


def install(patches: Patches, device: VirtualDevice) -> None:
    from torch._subclasses import fake_tensor

    ask_device = torch.ops.prim.device.default
    tensor_dispatch = fake_tensor.FakeTensor.__dict__["__torch_dispatch__"].__func__

    def dispatch(cls: Any, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = tensor_dispatch(cls, func, types, args, kwargs or {})
        return to_virtual(result) if func is ask_device else result

    patches.set(fake_tensor.FakeTensor, "__torch_dispatch__", classmethod(dispatch))
    mode_dispatch = fake_tensor.FakeTensorMode.__torch_dispatch__

    def mode(self: Any, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = mode_dispatch(self, func, types, args, kwargs or {})
        return to_virtual(result) if func is ask_device else result

    patches.set(fake_tensor.FakeTensorMode, "__torch_dispatch__", mode)
    create = fake_tensor.FakeTensor.__new__

    def new(cls: Any, fake_mode: Any, elem: Any, device: Any, *args: Any, **kwargs: Any) -> Any:
        return create(cls, fake_mode, elem, to_cuda(device), *args, **kwargs)

    patches.set(fake_tensor.FakeTensor, "__new__", staticmethod(new))
