"""Tensors at given addresses, and word of their end.

A tensor is made through the DLPack protocol, whose `deleter` PyTorch calls when the last tensor of a
storage dies.  A weak reference to Python's storage object would tell the same, but the object itself
counts as a user of the storage: autograd then no longer adds gradients in place ("we hold the last
reference"), and every branch of a graph costs an allocation that CUDA does not make.

The deleter is called from any thread, with or without Python's lock, and in the middle of an error on
its way up; a Python function there would lose that error.  So it is a few machine instructions
(`deathnote`) that note the slot in a list, and `drain` reads the list before the allocator is used or
asked.  Nothing is lost by the delay: blocks freed between two allocations leave the same free blocks in
whatever order they are freed.
"""

from __future__ import annotations

import ctypes
import struct
import threading
import weakref
from collections import deque
from collections.abc import Sequence
from typing import Any, Protocol

import torch

from . import deathnote

#: DLPack's kDLExtDev, PyTorch's PrivateUse1.
_DEVICE = 12
#: DLDataTypeCode and bits (dlpack.h); other types are viewed from bytes.
_CODES = {
    torch.uint8: (1, 8), torch.int8: (0, 8), torch.int16: (0, 16), torch.int32: (0, 32), torch.int64: (0, 64),
    torch.float16: (2, 16), torch.bfloat16: (4, 16), torch.float32: (2, 32), torch.float64: (2, 64),
    torch.complex64: (5, 64), torch.complex128: (5, 128), torch.bool: (6, 8),
}  # fmt: skip

# struct DLManagedTensor: data, device type and id, ndim, code, bits, lanes, shape, strides, byte_offset,
# manager_ctx, deleter; behind it here the numbers that shape and strides point to.
_HEAD = struct.Struct("=QiiiBBHQQQQQ")
_MAX_DIMS = 16
_NUMBERS = tuple(struct.Struct(f"={2 * n}q") for n in range(_MAX_DIMS + 1))
_SLOT = _HEAD.size + 16 * _MAX_DIMS
_SLOTS_PER_ARENA = 512


class Ends(Protocol):
    """Whoever wants to hear of a storage's end."""

    def died(self) -> None: ...


_listeners: dict[int, Ends] = {}
_spare: deque[tuple[int, memoryview]] = deque()
_views: dict[int, memoryview] = {}
_draining = threading.RLock()
_inside = False

_capsule: Any = ctypes.pythonapi.PyCapsule_New
_capsule.restype, _capsule.argtypes = ctypes.py_object, [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]
_calloc = ctypes.pythonapi.PyMem_RawCalloc
_calloc.restype, _calloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t, ctypes.c_size_t]
_from_dlpack = torch._C._from_dlpack


def drain() -> None:
    """Tell the listeners of all storages that have died since the last call."""
    global _inside
    if not deathnote.pending() or (_inside and _draining._is_owned()):  # type: ignore[attr-defined]
        return
    with _draining:
        _inside = True
        try:
            for slot in deathnote.take():
                listener = _listeners.pop(slot, None)
                if listener is not None:
                    _spare.append((slot, _views[slot]))
                    listener.died()
        finally:
            _inside = False


def _more_slots() -> None:
    # Never freed: a tensor may outlive the interpreter's modules.
    arena = _calloc(_SLOTS_PER_ARENA, _SLOT)
    if not arena:
        raise MemoryError
    view = memoryview((ctypes.c_char * (_SLOTS_PER_ARENA * _SLOT)).from_address(arena)).cast("B")
    for i in range(_SLOTS_PER_ARENA):
        part = view[i * _SLOT : (i + 1) * _SLOT]
        _views[arena + i * _SLOT] = part
        _spare.append((arena + i * _SLOT, part))


def tensor(
    address: int, nbytes: int, size: Sequence[int], stride: Sequence[int], dtype: torch.dtype, listener: Ends
) -> torch.Tensor:
    """A tensor on the virtual device, in `nbytes` (more than 0) at `address`.

    `listener` hears of their end.
    """
    code = _CODES.get(dtype)
    n = len(size)
    if code is None or n > _MAX_DIMS:
        return _viewed(tensor(address, nbytes, (nbytes,), (1,), torch.uint8, listener), size, stride, dtype)
    if not deathnote.supported():
        return _watched(address, nbytes, size, stride, dtype, listener)
    try:
        slot, view = _spare.pop()
    except IndexError:
        _more_slots()
        slot, view = _spare.pop()
    numbers = slot + _HEAD.size
    end = deathnote.address()
    _HEAD.pack_into(view, 0, address, _DEVICE, 0, n, code[0], code[1], 1, numbers, numbers + 8 * n, 0, 0, end)
    _NUMBERS[n].pack_into(view, _HEAD.size, *size, *stride)
    _listeners[slot] = listener
    made: torch.Tensor = _from_dlpack(_capsule(slot, b"dltensor", None))
    return made


class _Watch(weakref.ref[Any]):
    __slots__ = ("listener",)
    listener: Ends


_watches: set[_Watch] = set()


def _watched(
    address: int, nbytes: int, size: Sequence[int], stride: Sequence[int], dtype: torch.dtype, listener: Ends
) -> torch.Tensor:
    """The same where there is no `deathnote`: by a weak reference to the storage, at that price."""
    from . import backend

    storage = backend.empty_storage(address, nbytes)
    watch = _Watch(storage, _watched_died)
    watch.listener = listener
    _watches.add(watch)
    return backend.on_storage(storage, size, stride, dtype)


def _watched_died(watch: Any) -> None:
    _watches.discard(watch)
    watch.listener.died()


def _viewed(
    raw: torch.Tensor, size: Sequence[int], stride: Sequence[int], dtype: torch.dtype
) -> torch.Tensor:
    from . import backend

    aten, keys = torch.ops.aten, backend.CPU_KEYS
    typed = raw if dtype is torch.uint8 else aten.view.dtype.redispatch(keys, raw, dtype)
    made: torch.Tensor = aten.as_strided.default.redispatch(keys, typed, size, stride, 0)
    return made
