"""Which virtual GPU is running, if any, and the way every kernel reaches it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..errors import VirtualGPUError

if TYPE_CHECKING:
    import torch

    from .device import VirtualDevice

#: The running virtual device; None between runs.
active: VirtualDevice | None = None

#: Storages that outlived the run they were made in, by identity.
_outlived: set[int] = set()


def outlives(cdata: int) -> None:
    """Remember a storage whose run has ended while something still holds it."""
    _outlived.add(cdata)


def gone(cdata: int) -> None:
    """Such a storage has died."""
    _outlived.discard(cdata)


def refuse_outlived(args: Any) -> None:
    """Raise when a tensor among `args` belongs to a run that has ended.  Free when there is none."""
    if not _outlived:
        return
    import torch

    for a in args:
        if isinstance(a, torch.Tensor):
            if a.is_cpu or a.is_meta:
                continue
            cdata = torch._C._storage_address(a)  # type: ignore[attr-defined]
            if cdata in _outlived and not _has_died(cdata):
                raise VirtualGPUError(_ENDED)
        elif isinstance(a, (list, tuple)):
            refuse_outlived(a)


def _has_died(cdata: int) -> bool:
    """Whether what had this address is gone and the address another's by now."""
    from . import lifetimes

    lifetimes.drain()
    return cdata not in _outlived


_ENDED = (
    "This tensor lived on a virtual GPU whose run has ended, so it has neither data nor a device. "
    "Create it again, or do this inside the `with VirtualGPU(...)` block or %%gpurun cell that made it."
)


def current() -> VirtualDevice:
    """The running device.  Raises `VirtualGPUError` when a tensor outlived its run."""
    if active is None:
        raise VirtualGPUError(_ENDED)
    return active


def allocate(nbytes: int) -> torch.UntypedStorage:
    """A storage of `nbytes` on the running device, through its caching allocator."""
    return current().allocate(nbytes)
