"""Memory that CUDA's libraries take through PyTorch's allocator: cuBLAS and cuBLASLt workspaces."""

from __future__ import annotations

import os
import re
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .blocks import Block
    from .device import VirtualDevice

_PAIR = re.compile(r":(\d+):(\d+)")


def cublas_workspace_size(capability: tuple[int, int], environ: dict[str, str] | os._Environ[str]) -> int:
    """Bytes of the workspace PyTorch gives each cuBLAS handle.

    32 MiB on Hopper (9.0) and Blackwell (10.x, 12.x), 8,519,680 B (":4096:2:16:8") before; the
    variable CUBLAS_WORKSPACE_CONFIG (":KiB:count", repeated) overrides.  Source: ATen
    `getChosenWorkspaceSize` in CublasHandlePool.cpp; recorded traces show both sizes.
    """
    configured = environ.get("CUBLAS_WORKSPACE_CONFIG", "")
    pairs = _PAIR.findall(configured)
    if pairs:
        return sum(int(size) * 1024 * int(count) for size, count in pairs)
    return 4096 * 1024 * 8 if capability[0] >= 9 else (4096 * 2 + 16 * 8) * 1024


class Libraries:
    """Workspaces of one device.  One per thread: autograd's device thread has its own handle."""

    def __init__(self, capability: tuple[int, int]) -> None:
        self._capability = capability
        self._cublas: dict[int, Block] = {}

    def cublas(self, device: VirtualDevice) -> None:
        """To be called by every GEMM, after its result is allocated: the first of a thread pays."""
        thread = _handle()
        if thread not in self._cublas:
            nbytes = cublas_workspace_size(self._capability, os.environ)
            if nbytes:
                self._cublas[thread] = device.hold(nbytes, "workspace", "cuBLAS workspace")

    def clear(self, device: VirtualDevice) -> None:
        """`torch._C._cuda_clearCublasWorkspaces`: give them back; the next GEMM allocates again."""
        for block in self._cublas.values():
            device.release(block)
        self._cublas.clear()


def _handle() -> int:
    """The main thread and autograd's device thread use different cuBLAS handles.

    Handles are pooled: a finished thread's handle goes to the next, so all other threads share one.
    """
    return 0 if threading.current_thread() is threading.main_thread() else 1
