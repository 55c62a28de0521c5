"""Translation of device names between what programs say and what C++ knows."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from typing import Any

import torch

from .. import backend

_device = torch.device
CUDA0 = _device("cuda", 0)
CUDA = _device("cuda")


def check_index(index: int | None) -> None:
    """Raises what CUDA raises for a card that is not there."""
    if index is not None and index >= 1:
        raise torch.AcceleratorError(
            "CUDA error: invalid device ordinal\n"
            "GPU device may be out of range, do you have enough GPUs?\n"
            "CUDA kernel errors might be asynchronously reported at some other API call, "
            "so the stacktrace below might be incorrect.\n"
            "For debugging consider passing CUDA_LAUNCH_BLOCKING=1\n"
            "Compile with `TORCH_USE_CUDA_DSA` to enable device-side assertions.\n"
        )


def to_virtual(d: Any) -> Any:
    """A device as the program gives it (`torch.device`, string, index) -> what C++ gets."""
    kind = d.__class__
    if kind is _device:
        if d.type != "cuda":
            return d
        check_index(d.index)
        return backend.VDEVICE
    if kind is str:
        return to_virtual(_device(d)) if d[:4] == "cuda" else d
    if kind is int:
        check_index(d)
        return backend.VDEVICE
    return d


def to_cuda(d: Any) -> Any:
    """A device as C++ gives it -> what the program sees."""
    if d.__class__ is _device and d.type == backend.NAME:
        return CUDA0
    return d


def say_cuda(error: BaseException | None) -> None:
    """PyTorch's own messages call the device by its internal name: put the program's word there.

    Changes the texts of `error` and of the errors it came from in place; type and traceback stay.
    """
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        if any(isinstance(a, str) and backend.NAME in a for a in error.args):
            error.args = tuple([_INTERNAL.sub("cuda", a) if isinstance(a, str) else a for a in error.args])
        error = error.__cause__ or error.__context__


_INTERNAL = re.compile(rf"\b{backend.NAME}\b")


def with_virtual_device(f: Callable[..., Any]) -> Callable[..., Any]:
    """`f` with its `device=` translated."""

    @functools.wraps(f)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        d = kwargs.get("device")
        if d is not None:
            kwargs["device"] = to_virtual(d)
        return f(*args, **kwargs)

    return wrapped


def gpu_index(d: Any = None) -> int:
    """The index torch.cuda functions mean by `d`; raises like CUDA for one that is not there."""
    if d is None:
        return 0
    index = max(d, 0) if isinstance(d, int) else _device(d).index or 0
    check_index(index)
    return index
