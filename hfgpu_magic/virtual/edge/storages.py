"""`torch.UntypedStorage`: names, construction, moving; what torch.save, torch.load and deepcopy use."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch

from .. import backend, hollow, state, values
from .names import to_cuda, to_virtual

if TYPE_CHECKING:
    from ..device import VirtualDevice
    from ..patches import Patches

_raw_storage_device = torch._C.StorageBase.device.__get__  # type: ignore[attr-defined]


def _on_card(storage: Any) -> bool:
    return bool(_raw_storage_device(storage).type == backend.NAME)


def install(patches: Patches, device: VirtualDevice) -> None:
    storage_type = torch.UntypedStorage
    patches.set(storage_type, "device", property(lambda s: to_cuda(_raw_storage_device(s))))
    patches.set(storage_type, "is_cuda", property(_on_card))
    raw_new = storage_type.__new__

    def new(cls: Any, *args: Any, **kwargs: Any) -> Any:
        d = kwargs.get("device")
        target = to_virtual(d) if d is not None else None
        if isinstance(target, torch.device) and target.type == backend.NAME:
            # C++ has no allocator for this device and would follow a null pointer.
            n = args[0] if args and isinstance(args[0], int) else len(args[0]) if args else 0
            return state.allocate(n)
        return raw_new(cls, *args, **kwargs)

    patches.set(storage_type, "__new__", staticmethod(new))

    from torch import _utils

    raw_to: Callable[..., Any] = _utils._to

    def to(self: Any, device: Any, non_blocking: bool = False) -> Any:
        device = to_virtual(torch.device(device) if isinstance(device, str) else device)
        if device.type == backend.NAME:
            return self if _on_card(self) else _to_card(self)
        if _on_card(self) and device.type == "cpu":
            return _read_back(self)
        return raw_to(self, device, non_blocking)

    patches.set(_utils, "_to", to)
    patches.set(torch.storage, "_to", to)
    patches.set(
        storage_type, "to", lambda self, *, device, non_blocking=False: to(self, device, non_blocking)
    )
    base = torch.storage._StorageBase
    patches.set(base, "cuda", lambda self, device=None, non_blocking=False: to(self, backend.VDEVICE))
    patches.set(base, "cpu", lambda self: to(self, torch.device("cpu")))

    def clone(self: Any) -> Any:
        if _on_card(self):
            copy = state.allocate(self.nbytes())
            state.current().mirrors.copy_storage(self, copy)
            return copy
        return type(self)(self.nbytes(), device=self.device).copy_(self)

    patches.set(base, "clone", clone)


def _to_card(storage: Any) -> Any:
    """The bytes on the card; remembered when they are few, as values may decide something."""
    moved = state.allocate(storage.nbytes())
    if 0 < storage.nbytes() <= values.SMALL_INTEGER and not hollow.holds(storage):
        state.current().mirrors.adopt(moved, storage.clone())
    return moved


def _read_back(storage: Any) -> Any:
    """The bytes on the host: those that are known, zeros (and untouched pages) for the rest."""
    host = torch.empty(storage.nbytes(), dtype=torch.uint8, device="cpu")
    if storage.nbytes() <= values.SMALL_INTEGER:
        host.zero_()
    mirror = state.current().mirrors.raw(storage._cdata)
    if mirror is not None:
        host.untyped_storage().copy_(mirror)
    return host.untyped_storage()
