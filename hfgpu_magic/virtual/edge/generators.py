"""`torch.Generator("cuda")`: a host generator that says it is on the card."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

import torch

from .. import backend
from .names import CUDA0

if TYPE_CHECKING:
    from ..device import VirtualDevice
    from ..patches import Patches

_Base = torch.Generator


class _Meta(type(_Base)):  # type: ignore[misc]
    def __instancecheck__(cls, instance: Any) -> bool:
        return instance.__class__ is _Base or type.__instancecheck__(Generator, instance)

    def __subclasscheck__(cls, subclass: Any) -> bool:
        return subclass is _Base or type.__subclasscheck__(cls, subclass)


class Generator(_Base, metaclass=_Meta):
    """Stands in for `torch.Generator` while a virtual GPU runs."""

    _shown: torch.device

    def __new__(cls, device: Any = "cpu") -> Self:
        d = torch.device("cuda", device) if isinstance(device, int) else torch.device(device)
        on_card = d.type in ("cuda", backend.NAME)
        self = _Base.__new__(cls, device="cpu" if on_card else d)  # type: ignore[call-arg]
        self._shown = CUDA0 if on_card else d
        return self

    def __init__(self, device: Any = "cpu") -> None:
        pass

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        return self._shown


def install(patches: Patches, device: VirtualDevice) -> None:
    patches.set(torch, "Generator", Generator)
