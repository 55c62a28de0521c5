"""Which virtual GPU is running, if any, and the way every kernel reaches it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..errors import VirtualGPUError

if TYPE_CHECKING:
    import torch

    from .device import VirtualDevice

#: The running virtual device; None between runs.
active: VirtualDevice | None = None


def current() -> VirtualDevice:
    """The running device.  Raises `VirtualGPUError` when a tensor outlived its run."""
    if active is None:
        raise VirtualGPUError(
            "This tensor lived on a virtual GPU whose run has ended, so it has neither data nor a device. "
            "Create it again, or do this inside the `with VirtualGPU(...)` block or %%gpurun cell."
        )
    return active


def allocate(nbytes: int) -> torch.UntypedStorage:
    """A storage of `nbytes` on the running device, through its caching allocator."""
    return current().allocate(nbytes)
