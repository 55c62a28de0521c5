"""The device's kernels and their registration (once per process)."""

from __future__ import annotations

from typing import Any

import torch

from .. import backend
from . import attention, convolution, core, effects, generic, normalization, recurrent, rules

_libraries: list[Any] = []


def register() -> None:
    """Give PrivateUse1 its kernels.  Called once, by `backend.ensure_registered`."""
    key = backend.KEY
    aten = torch.library.Library("aten", "IMPL")
    everything = torch.library.Library("_", "IMPL")
    _libraries.extend((aten, everything))
    effects.install()
    normalization.install()
    convolution.install()
    recurrent.install()
    written_out = core.KERNELS | convolution.KERNELS | recurrent.KERNELS | normalization.WRITTEN_OUT
    for name, function in written_out.items():
        aten.impl(name, function, key)
    done = set(written_out)
    choices = attention.KERNELS | normalization.KERNELS | recurrent.CHOICES
    for name, function in choices.items():
        # These choose between fused kernels, and the choice decides what autograd saves.
        aten.impl(name, function, "Autograd" + key)
        aten.impl(name, function, key)
        done.add(name)
    for name in rules.operators_with_own_cuda_kernel():
        op = rules.overload(name)
        if op is None or name in done:
            continue
        aten.impl(name, generic.kernel_for(op), key)
    everything.fallback(generic.fallback, key)
