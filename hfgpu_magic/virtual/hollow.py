"""Host tensors nobody will read: as large as they like, as costly as nothing.

A model built on the host is initialised with random numbers and moved to the card.  The virtual
card keeps no data, so filling gigabytes with random numbers (and the memory they would touch) is
pure waste.  While a virtual GPU runs, initialising a large host tensor leaves its pages untouched:
the tensor is real, holds what `torch.empty` left in it, and is remembered as *hollow*.  Casting or
copying a hollow tensor gives another hollow tensor.
"""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable
from typing import Any

import torch

from . import backend
from .patches import Patches
from .threads import one_thread

#: Host tensors smaller than this are filled as usual (they cost microseconds, and their values may matter).
THRESHOLD = 1 << 20

_hollow: dict[int, weakref.ref[Any]] = {}


def worth_it(t: torch.Tensor) -> bool:
    """Large, dense, on the host."""
    return (
        t.is_cpu
        and t.layout is torch.strided
        and t.numel() * t.element_size() >= THRESHOLD
        and not isinstance(t, _fake_types())
    )


@functools.cache
def _fake_types() -> tuple[type, ...]:
    from torch._subclasses.fake_tensor import FakeTensor

    return (FakeTensor,)


def mark(t: torch.Tensor) -> torch.Tensor:
    storage = t.untyped_storage()
    cdata = storage._cdata
    if cdata not in _hollow:
        _hollow[cdata] = weakref.ref(storage, lambda _: _hollow.pop(cdata, None))
    return t


def is_hollow(t: torch.Tensor) -> bool:
    return bool(_hollow) and t.is_cpu and t.layout is torch.strided and t.untyped_storage()._cdata in _hollow


def holds(storage: torch.UntypedStorage) -> bool:
    """Whether a host storage is hollow."""
    return storage._cdata in _hollow


def empty(size: Any, dtype: torch.dtype) -> torch.Tensor:
    """A hollow host tensor."""
    return mark(torch.empty(size, dtype=dtype, device="cpu"))


def _skip_fill(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def fill(tensor: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        if type(tensor) in _PLAIN_TYPES and worth_it(tensor):
            return mark(tensor)
        result: torch.Tensor = original(tensor, *args, **kwargs)
        return result

    return fill


def _skip_device(original: Callable[..., Any]) -> Callable[..., Any]:
    """For initialisers that loop until values are in range: a device tensor has none."""

    @functools.wraps(original)
    def fill(tensor: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        if backend.is_virtual(tensor) or (type(tensor) in _PLAIN_TYPES and worth_it(tensor)):
            return tensor.normal_() if backend.is_virtual(tensor) else mark(tensor)
        result: torch.Tensor = original(tensor, *args, **kwargs)
        return result

    return fill


def _alone(original: Callable[..., Any]) -> Callable[..., Any]:
    """Small fills by one thread: a LoRA model has hundreds."""

    @functools.wraps(original)
    def fill(tensor: torch.Tensor, *args: Any) -> torch.Tensor:
        if not tensor.is_cpu or tensor.numel() * tensor.element_size() >= THRESHOLD:
            return original(tensor, *args)  # type: ignore[no-any-return]
        with one_thread():
            return original(tensor, *args)  # type: ignore[no-any-return]

    return fill


_PLAIN_TYPES = (torch.Tensor, torch.nn.Parameter)
_RANDOM_FILLS = ("normal_", "uniform_", "exponential_", "bernoulli_", "random_", "log_normal_", "cauchy_")
_INITIALISERS = (
    "uniform_", "normal_", "xavier_uniform_", "xavier_normal_", "kaiming_uniform_", "kaiming_normal_",
    "orthogonal_", "sparse_",
)  # fmt: skip


def install(patches: Patches) -> None:
    """Make initialisation of large host tensors free for as long as `patches` stand."""
    for name in _RANDOM_FILLS:
        patches.set(torch.Tensor, name, _skip_fill(getattr(torch.Tensor, name)))
    init = torch.nn.init
    for name in _INITIALISERS:
        patches.set(init, name, _skip_fill(getattr(init, name)))
    patches.set(init, "_no_grad_trunc_normal_", _skip_device(init._no_grad_trunc_normal_))
    patches.set(init, "trunc_normal_", _skip_device(init.trunc_normal_))
    for name in ("_no_grad_zero_", "_no_grad_fill_"):  # what zeros_, ones_ and constant_ call
        patches.set(init, name, _alone(getattr(init, name)))


def cast(t: torch.Tensor, device: Any, dtype: torch.dtype | None) -> torch.Tensor | None:
    """`t.to(...)` on the host for a hollow `t`: hollow again.  None when it is not such a case."""
    if not is_hollow(t) or (device is not None and device.type != "cpu"):
        return None
    if dtype is None or dtype is t.dtype:
        return None
    if t.requires_grad and torch.is_grad_enabled():
        return None  # autograd has to see it
    return mark(torch.empty_strided(t.size(), t.stride(), dtype=dtype, device="cpu"))
