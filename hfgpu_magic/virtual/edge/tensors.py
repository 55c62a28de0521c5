"""`torch.Tensor`: device names, moving, casting, pinning, `.data`."""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch._C import TensorBase

from .. import backend, hollow
from .names import CUDA0, to_virtual, with_virtual_device

if TYPE_CHECKING:
    from ..device import VirtualDevice
    from ..patches import Patches

Tensor = torch.Tensor
_device = torch.device
_raw_device = backend.raw_device
_raw_to = backend.raw_to
_on_card = backend.on_card


def install(patches: Patches, device: VirtualDevice) -> None:
    from torch.utils import _device as device_context

    # This list is cached; it has to hold the original factories, which `set_default_device` recognises.
    device_context._device_constructors()
    patches.set(Tensor, "device", property(_get_device))
    patches.set(Tensor, "is_cuda", property(backend.on_card))
    patches.set(Tensor, "get_device", lambda self: 0 if _on_card(self) else -1)
    for name, function in (("to", _to), ("cuda", _cuda), ("type", _type), ("numpy", _numpy)):
        patches.set(Tensor, name, function)
    for name, dtype in _CASTS.items():
        patches.set(Tensor, name, _cast(getattr(TensorBase, name), dtype))
    patches.set(Tensor, "new_tensor", with_virtual_device(TensorBase.new_tensor))
    patches.set(Tensor, "__setitem__", _setitem)
    _install_pinning(patches)
    _install_construction(patches)
    _install_data(patches)


def _get_device(self: Tensor) -> torch.device:
    d = _raw_device(self)
    return CUDA0 if d.type == backend.NAME else d


def _to(self: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """`Tensor.to`: C++ would ask the CUDA runtime about a cuda device."""
    if args:
        first = args[0]
        kind = first.__class__
        if kind is _device or kind is str or kind is int:
            target = to_virtual(first)
            if target is not first:
                args = (target, *args[1:])
    if kwargs and kwargs.get("device") is not None:
        kwargs["device"] = to_virtual(kwargs["device"])
    if _on_card(self):
        # A non-blocking read-back would ask for a pinned allocator; there is nothing to wait for.
        if kwargs:
            kwargs.pop("non_blocking", None)
        args = _without_non_blocking(args)
    elif hollow.is_hollow(self):
        cast = hollow.cast(self, *_target(args, kwargs))
        if cast is not None:
            return cast
    return _raw_to(self, *args, **kwargs)


def _without_non_blocking(args: tuple[Any, ...]) -> tuple[Any, ...]:
    """Drop the positional booleans of `to(device, dtype, non_blocking, copy)` but keep `copy`."""
    for i, a in enumerate(args):
        if a is True:
            return (*args[:i], False, *args[i + 1 :])
        if a is False:
            break
    return args


def _target(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, torch.dtype | None]:
    device, dtype = kwargs.get("device"), kwargs.get("dtype")
    for a in args:
        if isinstance(a, torch.dtype):
            dtype = a
        elif isinstance(a, _device):
            device = a
        elif isinstance(a, str):
            device = _device(a)
        elif isinstance(a, Tensor):
            device, dtype = (backend.VDEVICE if _on_card(a) else _raw_device(a)), a.dtype
    return (_device(device) if isinstance(device, str) else device), dtype


def _cuda(
    self: Tensor, device: Any = None, non_blocking: bool = False, memory_format: Any = torch.preserve_format
) -> Tensor:
    if device is not None:
        to_virtual(device)
    return _raw_to(self, backend.VDEVICE, memory_format=memory_format)


_CASTS = {
    "half": torch.float16, "bfloat16": torch.bfloat16, "float": torch.float32, "double": torch.float64,
}  # fmt: skip


def _cast(original: Callable[..., Tensor], dtype: torch.dtype) -> Callable[..., Tensor]:
    @functools.wraps(original)
    def cast(self: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        result = hollow.cast(self, None, dtype) if hollow.is_hollow(self) else None
        return original(self, *args, **kwargs) if result is None else result

    return cast


_raw_type = TensorBase.type


def _type(self: Tensor, dtype: Any = None, non_blocking: bool = False, **kwargs: Any) -> Any:
    if dtype is None:
        return _raw_type(self).replace(f"torch.{backend.NAME}.", "torch.cuda.")
    name = getattr(dtype, "_tensor_type", dtype)
    if isinstance(name, str) and name.startswith("torch.cuda."):
        return _raw_to(self, backend.VDEVICE, getattr(torch, name.removeprefix("torch.cuda.")).dtype)
    return _raw_type(self, dtype, non_blocking, **kwargs)


_raw_numpy = TensorBase.numpy


def _numpy(self: Tensor, *, force: bool = False) -> Any:
    if not force and _on_card(self):
        raise TypeError(
            "can't convert cuda:0 device type tensor to numpy. "
            "Use Tensor.cpu() to copy the tensor to host memory first."
        )
    return _raw_numpy(self, force=force)


_raw_setitem = TensorBase.__setitem__
_raw_tensor = torch.tensor


def _setitem(self: Tensor, index: Any, value: Any) -> None:
    """A number assigned to part of a cuda tensor is a host scalar that `fill_` takes.

    C++ asks `is_cuda` for that.  Any other device would get the number as a tensor of its own.
    """
    if isinstance(value, (int, float, complex)) and _on_card(self):
        value = _raw_tensor(value, dtype=self.dtype, device="cpu")
    _raw_setitem(self, index, value)


# ---------------------------------------------------------------- pinned host memory


def _install_pinning(patches: Patches) -> None:
    """Pinning needs an allocator no Python device can give: pinned tensors are ordinary ones, remembered."""
    pinned: dict[int, weakref.ref[Any]] = {}

    def mark(t: Tensor) -> Tensor:
        storage = t.untyped_storage()
        cdata = storage._cdata
        pinned[cdata] = weakref.ref(storage, lambda _: pinned.pop(cdata, None))
        return t

    def pin_memory(self: Tensor, device: Any = None) -> Tensor:
        if _on_card(self):
            raise RuntimeError(f"cannot pin '{_type(self)}' only dense CPU tensors can be pinned")
        if self.untyped_storage()._cdata in pinned:
            return self
        if hollow.is_hollow(self):
            return mark(hollow.mark(torch.empty_strided(self.size(), self.stride(), dtype=self.dtype)))
        return mark(self.detach().clone(memory_format=torch.contiguous_format))

    def is_pinned(self: Tensor, device: Any = None) -> bool:
        return self.layout is torch.strided and self.untyped_storage()._cdata in pinned

    def pins(f: Callable[..., Tensor]) -> Callable[..., Tensor]:
        @functools.wraps(f)
        def factory(*args: Any, **kwargs: Any) -> Tensor:
            pin = kwargs.pop("pin_memory", False)
            result = f(*args, **kwargs)
            return mark(result) if pin and result.is_cpu else result

        return factory

    patches.set(Tensor, "pin_memory", pin_memory)
    patches.set(Tensor, "is_pinned", is_pinned)
    for name in (
        "empty",
        "zeros",
        "ones",
        "full",
        "rand",
        "randn",
        "arange",
        "empty_strided",
        "zeros_like",
        "empty_like",
    ):
        patches.set(torch, name, pins(getattr(torch, name)))


# ---------------------------------------------------------------- construction inside C++


def _install_construction(patches: Patches) -> None:
    for name in (
        "tensor", "as_tensor", "asarray",
        "sparse_coo_tensor", "sparse_csr_tensor", "sparse_compressed_tensor",
    ):  # fmt: skip
        patches.set(torch, name, with_virtual_device(getattr(torch, name)))
    raw_wrapper = TensorBase._make_wrapper_subclass

    def _make_wrapper_subclass(*args: Any, **kwargs: Any) -> Any:
        if kwargs.get("device") is not None:
            kwargs["device"] = to_virtual(kwargs["device"])
        return raw_wrapper(*[to_virtual(a) if a.__class__ is _device else a for a in args], **kwargs)

    raw_subclass = TensorBase._make_subclass

    # Parameter names as in PyTorch: torch._dynamo compares signatures when it is imported.
    def _make_subclass(cls: Any, data: Any, requires_grad: bool = False, **kwargs: Any) -> Any:
        if kwargs.get("device_for_backend_keys") is not None:
            kwargs["device_for_backend_keys"] = to_virtual(kwargs["device_for_backend_keys"])
        return raw_subclass(cls, data, requires_grad, **kwargs)

    patches.set(Tensor, "_make_wrapper_subclass", staticmethod(_make_wrapper_subclass))
    patches.set(Tensor, "_make_subclass", staticmethod(_make_subclass))


# ---------------------------------------------------------------- .data


def _install_data(patches: Patches) -> None:
    """`p.data = p.data.cuda()` and `Module.cuda()` keep the parameter's identity.

    PyTorch refuses to exchange the data of a host tensor for PrivateUse1's, and `Module.cuda` would then
    quietly make new parameters, leaving an optimizer with the old ones.  The two tensors' contents are
    swapped instead.
    """
    get_data, set_data = TensorBase.data.__get__, TensorBase.data.__set__  # type: ignore[attr-defined]
    compatible = torch._has_compatible_shallow_copy_type

    def crosses(a: Tensor, b: Tensor) -> bool:
        return (
            (a.is_cpu and _on_card(b)) or (_on_card(a) and b.is_cpu)
        ) and a.layout == b.layout == torch.strided

    def setter(self: Tensor, new: Tensor) -> None:
        if not crosses(self, new):
            set_data(self, new)
            return
        grad, requires_grad = self.grad, self.requires_grad
        post_hooks, hooks = self._post_accumulate_grad_hooks, self._backward_hooks
        with torch.no_grad():
            if grad is not None:
                setter(grad, _raw_to(grad.detach(), backend.VDEVICE if _on_card(new) else _raw_device(new)))
        replacement = new.detach()
        if requires_grad:
            replacement.requires_grad_(True)
        torch._C._swap_tensor_impl(self, replacement)
        if grad is not None:
            self.grad = grad
        if post_hooks:
            self._post_accumulate_grad_hooks = post_hooks
        if hooks:
            self._backward_hooks = hooks

    patches.set(Tensor, "data", property(get_data, setter))
    patches.set(
        torch,
        "_has_compatible_shallow_copy_type",
        lambda input, from_: crosses(input, from_) or compatible(input, from_),
    )
