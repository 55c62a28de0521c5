"""PyTorch's global switches: what a program turned on a virtual card is put back after the run.

`torch.set_default_device("cuda")` in a notebook cell would otherwise make every later CPU tensor fail, and
seeding or drawing during the rehearsal would change the numbers of the real run that follows.
"""

from __future__ import annotations

from typing import Any

import torch

from .patches import Patches

_AUTOCAST = ("cpu", "cuda")


def install(patches: Patches) -> None:
    """Remember the switches.  Call first: what is registered first is undone last."""
    grad, dtype, context = torch.is_grad_enabled(), torch.get_default_dtype(), _default_device()
    generator = torch.get_rng_state()
    autocast = [(kind, torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind)) for kind in _AUTOCAST]
    caches = torch.is_autocast_cache_enabled()
    set_enabled, set_dtype = torch.set_autocast_enabled, torch.set_autocast_dtype

    def restore() -> None:
        if _default_device() is not context:
            torch.set_default_device(None)
            if context is not None:
                torch.set_default_device(context.device)
        torch.set_default_dtype(dtype)
        torch.set_grad_enabled(grad)
        for kind, enabled, lower in autocast:
            set_enabled(kind, enabled)
            set_dtype(kind, lower)
        torch.set_autocast_cache_enabled(caches)
        torch.set_rng_state(generator)

    patches.on_undo(restore)


def _default_device() -> Any:
    """The context behind `torch.set_default_device`, None when it was not called."""
    return getattr(torch._GLOBAL_DEVICE_CONTEXT, "device_context", None)
