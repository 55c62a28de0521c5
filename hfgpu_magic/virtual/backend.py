"""The one-time part: PyTorch's spare device type, taught that tensors may have no data.

PyTorch keeps one device type free for outsiders, PrivateUse1.  `ensure_registered` names it,
gives it the guard and hooks that C++ insists on, and builds the "seed" tensors from which every
virtual tensor is made.  Nothing here changes what existing programs see: the registration cannot
be taken back, so it is kept inert (the backend says "not available") whenever no virtual GPU runs.

Inside PyTorch the device is called `vgpu`; `edge` makes programs see `cuda`.
"""

from __future__ import annotations

import functools
from typing import Any, cast

import torch
from torch._C import DispatchKey, DispatchKeySet, TensorBase

from . import state

NAME = "vgpu"
KEY = "PrivateUse1"
CPU_KEYS = DispatchKeySet(DispatchKey.CPU)

#: The device a tensor is on as C++ knows it, whatever `Tensor.device` is made to say.
raw_device = TensorBase.device.__get__
#: `Tensor.to` without the mapping of `edge`.
raw_to = TensorBase.to

_aten = torch.ops.aten
_as_strided = _aten.as_strided.default._handle.redispatch_boxed
_set_storage = _aten.set_.source_Storage_storage_offset._handle.redispatch_boxed
_make_storage: Any = torch._C._construct_storage_from_data_pointer
#: The identity of a tensor's storage (`untyped_storage()._cdata`), without making a Python object for it.
storage_address = torch._C._storage_address  # type: ignore[attr-defined]

_seed: torch.Tensor | None = None
_seeds: dict[torch.dtype, torch.Tensor] = {}
VDEVICE: torch.device


class _Module:
    """What `torch.vgpu` is: the little that PyTorch's own Python code asks of a device module."""

    def is_available(self) -> bool:
        return state.active is not None

    def is_initialized(self) -> bool:
        return True

    def current_device(self) -> int:
        return 0

    def device_count(self) -> int:
        return 1 if state.active is not None else 0

    def _is_in_bad_fork(self) -> bool:
        return False

    def manual_seed_all(self, seed: int) -> None:
        pass

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.float16, torch.bfloat16]

    def get_rng_state(self, device: Any = None) -> torch.Tensor:
        return torch.zeros(16, dtype=torch.uint8, device="cpu")

    def set_rng_state(self, new_state: torch.Tensor, device: Any = None) -> None:
        pass


@functools.cache
def ensure_registered() -> None:
    """Register the device type.  Happens once per process; later calls return at once."""
    global VDEVICE
    hooks_base, guard_base = torch._C._acc.PrivateUse1Hooks, torch._C._acc.DeviceGuard

    class Hooks(hooks_base):  # type: ignore[misc, valid-type]
        def is_available(self) -> bool:
            return state.active is not None

        def has_primary_context(self, device_index: int) -> bool:
            return state.active is not None

        def is_built(self) -> bool:
            return True

    class Guard(guard_base):  # type: ignore[misc, valid-type]
        def type_(self) -> Any:
            return torch._C._autograd.DeviceType.PrivateUse1

    # What `torch.accelerator` answers must not change for good because of the registration.
    accelerator = cast("torch.device | None", torch._C._accelerator_getAccelerator())
    named = torch._C._get_accelerator

    from torch.utils import backend_registration

    backend_registration._setup_privateuseone_for_python_backend(
        rename=NAME, backend_module=_Module(), hook=Hooks(), device_guard=Guard()
    )
    _KEEP.extend((Hooks, Guard))
    torch._C._accelerator_getAccelerator = lambda: accelerator  # type: ignore[assignment, return-value]

    def get_accelerator(check: bool | None = None) -> torch.device:
        found = named() if check is None else named(check)
        return torch.device("cpu") if found.type == NAME and accelerator is None else accelerator or found

    torch._C._get_accelerator = get_accelerator
    VDEVICE = torch.device(NAME, 0)
    from . import kernels

    kernels.register()


_KEEP: list[Any] = []


def empty_storage(address: int, nbytes: int) -> torch.UntypedStorage:
    """A storage of `nbytes` at `address` on the virtual device.  Nobody is told about it."""
    storage: torch.UntypedStorage = _make_storage(address, VDEVICE, nbytes)
    return storage


def _seed_of(dtype: torch.dtype) -> torch.Tensor:
    seed = _seeds.get(dtype)
    if seed is None:
        global _seed
        if _seed is None:
            _seed = torch._C._acc.create_empty_tensor((0,), torch.float32)
        base = _as_strided(CPU_KEYS, _seed, (0,), (1,), 0)
        _set_storage(CPU_KEYS, base, empty_storage(64, 64), 0, (4,), (1,))
        seed = _seeds[dtype] = _aten.view.dtype.redispatch(CPU_KEYS, base, dtype)
    return seed


def contiguous_strides(size: Any) -> list[int]:
    strides = [1] * len(size)
    step = 1
    for i in range(len(size) - 1, -1, -1):
        strides[i] = step
        if size[i] > 1:
            step *= size[i]
    return strides


def span(size: Any, stride: Any) -> int:
    """Elements from the first to the last one that `size` and `stride` reach; 0 for an empty tensor."""
    n = 1
    for length, step in zip(size, stride, strict=True):
        if length == 0:
            return 0
        n += (length - 1) * step
    return n


def make_tensor(size: Any, stride: Any, dtype: torch.dtype) -> torch.Tensor:
    """A new tensor on the virtual GPU.  Raises `torch.OutOfMemoryError` when the card is full."""
    return state.current().tensor(size, stride, dtype)


def empty_tensor(address: int, size: Any, stride: Any, dtype: torch.dtype) -> torch.Tensor:
    """A tensor without elements; its storage has no bytes and nobody hears of its end."""
    return on_storage(empty_storage(address, 0), size, stride, dtype)


def on_storage(storage: torch.UntypedStorage, size: Any, stride: Any, dtype: torch.dtype) -> torch.Tensor:
    """A new tensor at the start of `storage`."""
    fresh = _as_strided(CPU_KEYS, _seed_of(dtype), (0,), (1,), 0)
    result: torch.Tensor = _set_storage(CPU_KEYS, fresh, storage, 0, size, stride)
    return result


def set_storage(
    tensor: torch.Tensor, storage: torch.UntypedStorage, offset: int, size: Any, stride: Any
) -> torch.Tensor:
    """Point `tensor` at `storage`, without the checks that need a device allocator."""
    result: torch.Tensor = _set_storage(CPU_KEYS, tensor, storage, offset, size, stride)
    return result


def on_card(t: torch.Tensor) -> bool:
    """Whether `t` is on the virtual GPU.

    A tensor subclass with a `__torch_function__` (bitsandbytes' Params4bit) answers even the raw getter
    with the mapped name, so both names count; a real cuda tensor cannot exist beside a virtual GPU.
    """
    return raw_device(t).type in _CARD_NAMES


_CARD_NAMES = (NAME, "cuda")


def is_virtual(x: Any) -> bool:
    return isinstance(x, torch.Tensor) and on_card(x)
