"""Programs say and see `cuda`; inside PyTorch the tensors are on `vgpu`.  This package is that border.

Each module exposes `install(patches, device)`; everything goes through `Patches`, so one call undoes it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..device import VirtualDevice
    from ..patches import Patches


def install(patches: Patches, device: VirtualDevice) -> None:
    """Map `cuda` onto `device`, completely."""
    from . import (
        autocast,
        cuda_c,
        cuda_python,
        factories,
        fake,
        generators,
        graphs,
        misc,
        storages,
        streams,
        tensors,
    )

    for part in (
        cuda_c,
        cuda_python,
        streams,
        graphs,
        tensors,
        storages,
        generators,
        factories,
        autocast,
        misc,
        fake,
    ):
        part.install(patches, device)
