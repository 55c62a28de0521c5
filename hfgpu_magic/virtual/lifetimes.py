"""Tensors at given addresses, and word of their end.

A tensor is made through the DLPack protocol, whose `deleter` PyTorch calls when the last tensor of a
storage dies.  A weak reference to Python's storage object would tell the same, but the object itself
counts as a user of the storage: autograd then no longer adds gradients in place ("we hold the last
reference"), and every branch of a graph costs an allocation that CUDA does not make.
"""

from __future__ import annotations

import atexit
import ctypes
import struct
from collections import deque
from collections.abc import Sequence
from typing import Any, Protocol

import torch

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

_capsule: Any = ctypes.pythonapi.PyCapsule_New
_capsule.restype, _capsule.argtypes = ctypes.py_object, [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]
_calloc = ctypes.pythonapi.PyMem_RawCalloc
_calloc.restype, _calloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t, ctypes.c_size_t]
_from_dlpack = torch._C._from_dlpack


@ctypes.CFUNCTYPE(None, ctypes.c_void_p)
def _deleter(slot: int) -> None:
    # From any thread, whenever C++ lets go of the storage.
    listener = _listeners.pop(slot)
    _spare.append((slot, _views[slot]))
    listener.died()


_DELETER: int = ctypes.cast(_deleter, ctypes.c_void_p).value or 0


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
    try:
        slot, view = _spare.pop()
    except IndexError:
        _more_slots()
        slot, view = _spare.pop()
    numbers = slot + _HEAD.size
    _HEAD.pack_into(
        view, 0, address, _DEVICE, 0, n, code[0], code[1], 1, numbers, numbers + 8 * n, 0, 0, _DELETER
    )
    _NUMBERS[n].pack_into(view, _HEAD.size, *size, *stride)
    _listeners[slot] = listener
    made: torch.Tensor = _from_dlpack(_capsule(slot, b"dltensor", None))
    return made


def _viewed(
    raw: torch.Tensor, size: Sequence[int], stride: Sequence[int], dtype: torch.dtype
) -> torch.Tensor:
    from . import backend

    aten, keys = torch.ops.aten, backend.CPU_KEYS
    typed = raw if dtype is torch.uint8 else aten.view.dtype.redispatch(keys, raw, dtype)
    made: torch.Tensor = aten.as_strided.default.redispatch(keys, typed, size, stride, 0)
    return made


@atexit.register
def _silence() -> None:
    """Storages that die after Python has gone find nobody to call."""
    for slot in list(_listeners):
        _HEAD.pack_into(_views[slot], 0, *_HEAD.unpack_from(_views[slot])[:-1], 0)
