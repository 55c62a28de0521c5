"""`torch.zeros(..., device="cuda")` and its kin, wherever they are called from.

Factories reach C++ with a cuda device.  A few kernels on the *CUDA* dispatch key hand back virtual
tensors, so that also factories called inside C++ or from autograd's threads work.
"""

from __future__ import annotations

import functools
import warnings
from typing import TYPE_CHECKING, Any

import torch

from .. import backend
from ..kernels import core
from .names import check_index

if TYPE_CHECKING:
    from ..device import VirtualDevice
    from ..patches import Patches


def install(patches: Patches, device: VirtualDevice) -> None:
    library = torch.library.Library("aten", "IMPL")
    patches.on_undo(library._destroy)

    def checked(f: Any) -> Any:
        def factory(*args: Any, device: Any = None, **kwargs: Any) -> Any:
            if device is not None:
                check_index(device.index)
            return f(*args, **kwargs)

        return factory

    def efficient_zeros(size: Any, *, dtype: Any = None, **kwargs: Any) -> torch.Tensor:
        zeros: torch.Tensor = core.empty(size, dtype=dtype)
        return zeros

    def triangle(
        original: Any, row: int, col: int, offset: int = 0, *, dtype: Any = torch.int64, **kwargs: Any
    ) -> Any:
        return backend.raw_to(original(row, col, offset, dtype=dtype, device="cpu"), backend.VDEVICE)

    kernels = {
        "empty.memory_format": checked(core.empty),
        "empty_strided": checked(core.empty_strided),
        "_efficientzerotensor": checked(efficient_zeros),
        "tril_indices": checked(functools.partial(triangle, torch.tril_indices)),
        "triu_indices": checked(functools.partial(triangle, torch.triu_indices)),
    }
    with warnings.catch_warnings():
        # A CUDA build has kernels here; replacing them for the time of the run is the purpose.
        warnings.simplefilter("ignore")
        for name, kernel in kernels.items():
            library.impl(name, kernel, "CUDA", allow_override=True)
