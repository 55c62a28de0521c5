"""Autograd's thread for the virtual device.

PyTorch's autograd engine counts the devices once, at the first backward of the process, and starts one
thread for each.  A notebook that has trained anything on the CPU before its first virtual run has an
engine without device threads, and every backward on the card would fail.  The count is then taken again,
by the engine's own function.
"""

from __future__ import annotations

import ctypes
import functools
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from ..errors import VirtualGPUError
from . import backend, state

if TYPE_CHECKING:
    from .device import VirtualDevice

#: torch::autograd::Engine::get_default_engine() and start_device_threads(), as GCC and Clang name them.
_ENGINE, _START = (
    "_ZN5torch8autograd6Engine18get_default_engineEv",
    "_ZN5torch8autograd6Engine20start_device_threadsEv",
)
_LIBRARIES = ("libtorch_cpu.so", "libtorch_cpu.dylib")

_ready = False


def ensure_device_thread(spare: VirtualDevice) -> None:
    """Make backward work on the virtual device.  Tried out once per process, on a `spare` device of its own.

    Raises `VirtualGPUError` where the engine cannot be told.
    """
    global _ready
    if _ready:
        return
    before, state.active = state.active, spare
    try:
        if not _backward_works():
            _start_device_threads()
            if not _backward_works():
                raise VirtualGPUError(_TOO_LATE)
    finally:
        state.active = before
        spare.close()
    _ready = True


_TOO_LATE = (
    "This process ran a backward pass before its first virtual GPU, and this build of PyTorch cannot add "
    "a device afterwards. Restart the kernel and start the virtual GPU first, or use `hfgpu run`."
)


def _backward_works() -> bool:
    with torch.enable_grad(), torch.inference_mode(False):
        leaf = backend.make_tensor((1,), (1,), torch.float32).requires_grad_()
        try:
            # Without a gradient given: checking one makes PyTorch import sympy.
            torch.autograd.grad(leaf.view(1), leaf)
        except RuntimeError as error:
            if "device_ready_queues_" in str(error):
                return False
            raise
    return True


def _start_device_threads() -> None:
    library = _library()
    try:
        default_engine, start = getattr(library, _ENGINE), getattr(library, _START)
    except AttributeError:
        raise VirtualGPUError(_TOO_LATE) from None
    default_engine.restype = ctypes.c_void_p
    start.argtypes, start.restype = [ctypes.c_void_p], None
    # Safe to call again: without devices the first call started no thread and made no queue.
    start(default_engine())


@functools.cache
def _library() -> ctypes.CDLL:
    """The library PyTorch has already loaded."""
    folder = Path(torch.__file__).parent / "lib"
    for name in _LIBRARIES:
        if (folder / name).is_file():
            return ctypes.CDLL(str(folder / name))
    raise VirtualGPUError(_TOO_LATE)
