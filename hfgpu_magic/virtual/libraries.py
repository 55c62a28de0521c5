"""Memory that CUDA's libraries take through PyTorch's allocator: cuBLAS and cuBLASLt workspaces."""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..units import KiB

if TYPE_CHECKING:
    from .blocks import Block
    from .device import VirtualDevice

_PAIR = re.compile(r":(\d+):(\d+)")


def cublas_workspace_size(capability: tuple[int, int], environ: Mapping[str, str]) -> int:
    """Bytes of the workspace PyTorch gives each cuBLAS handle.

    32 MiB on Hopper (9.0) and Blackwell (10.x, 12.x), 8,519,680 B (":4096:2:16:8") before; the
    variable CUBLAS_WORKSPACE_CONFIG (":KiB:count", repeated) overrides.  Source: ATen
    `getChosenWorkspaceSize` in CublasHandlePool.cpp; recorded traces show both sizes.
    """
    configured = environ.get("CUBLAS_WORKSPACE_CONFIG", "")
    pairs = _PAIR.findall(configured)
    if pairs:
        return sum(int(size) * KiB * int(count) for size, count in pairs)
    return 4096 * KiB * 8 if capability[0] >= 9 else (4096 * 2 + 16 * 8) * KiB


def cublaslt_workspace_size(environ: Mapping[str, str]) -> int:
    """Bytes a cuBLASLt call may use: 1 MiB, or CUBLASLT_WORKSPACE_SIZE KiB.  Source: ATen CUDABlas.cpp."""
    try:
        return int(environ.get("CUBLASLT_WORKSPACE_SIZE", "1024")) * KiB
    except ValueError:
        return 1024 * KiB


@dataclass(frozen=True)
class LibraryRules:
    """What a version of PyTorch keeps in its allocator for the libraries."""

    cublas: bool
    """cuBLAS works in a block of PyTorch's allocator (1.13 on, pull request 85447); before it had its own."""
    lt_kept: bool
    """cuBLASLt's workspace stays (2.7 on); before, every call took it and gave it back."""
    lt_shared: bool
    """cuBLASLt uses cuBLAS's workspace: only with TORCH_CUBLASLT_UNIFIED_WORKSPACE=1 (2.7 on)."""

    @classmethod
    def of(cls, torch_version: str, environ: Mapping[str, str]) -> LibraryRules:
        major, minor = (int(part) for part in re.findall(r"\d+", torch_version)[:2])
        version = (major, minor)
        kept = version >= (2, 7)
        shared = kept and environ.get("TORCH_CUBLASLT_UNIFIED_WORKSPACE") == "1"
        return cls(cublas=version >= (1, 13), lt_kept=kept, lt_shared=shared)


class Libraries:
    """Workspaces of one device.  One per thread: autograd's device thread has its own handle."""

    def __init__(
        self,
        capability: tuple[int, int],
        torch_version: str | None = None,
        environ: Mapping[str, str] | None = None,
    ) -> None:
        environ = os.environ if environ is None else environ
        self._rules = LibraryRules.of(torch_version or _installed(), environ)
        self._cublas_size = cublas_workspace_size(capability, environ) if self._rules.cublas else 0
        self._lt_size = cublaslt_workspace_size(environ)
        self._cublas: dict[int, Block] = {}
        self._lt: dict[int, Block] = {}
        self.convolution_bound = 0
        """Bytes that no tiled algorithm of a convolution so far exceeds; not allocated."""

    def cublas(self, device: VirtualDevice) -> None:
        """To be called by every GEMM, after its result is allocated: the first of a thread pays."""
        handle = _handle(device)
        if handle not in self._cublas and self._cublas_size:
            self._cublas[handle] = device.hold(self._cublas_size, "workspace", "cuBLAS workspace")

    def cublaslt(self, device: VirtualDevice) -> None:
        """To be called by every GEMM that cuBLASLt runs, after its result is allocated.

        The order is ATen's: a call's own workspace comes before the handle (which brings cuBLAS's), a
        kept one after it.
        """
        if self._rules.lt_shared or not self._lt_size:
            self.cublas(device)
        elif self._rules.lt_kept:
            self.cublas(device)
            handle = _handle(device)
            if handle not in self._lt:
                self._lt[handle] = device.hold(self._lt_size, "workspace", "cuBLASLt workspace")
        else:
            block = device.hold(self._lt_size, "workspace", "cuBLASLt workspace")
            self.cublas(device)
            device.release(block)

    def convolution(self, nbytes: int) -> None:
        """To be called by every dense convolution with the bytes of its input and its result.

        Which algorithm cuDNN's heuristics take is not known here, so its workspace is bounded, not
        allocated.  The hungriest of the usual ones works on transformed tiles: F(4x4, 3x3) of Winograd's
        method makes 6 x 6 values of every 4 x 4, of input and result alike (Lavin and Gray, arXiv
        1509.09308); FFT on tiles of 32 x 32 makes fewer.  FFT of whole images, which can need more, is
        rarely chosen.  Depthwise and 1 x 1 convolutions need next to nothing.
        """
        self.convolution_bound = max(self.convolution_bound, nbytes * 36 // 16)

    def clear(self, device: VirtualDevice) -> None:
        """`torch._C._cuda_clearCublasWorkspaces`: give them back; the next GEMM allocates again."""
        for block in (*self._cublas.values(), *self._lt.values()):
            device.release(block)
        self._cublas.clear()
        self._lt.clear()


def _installed() -> str:
    import torch

    return torch.__version__


def _handle(device: VirtualDevice) -> int:
    """The main thread and autograd's device thread use different cuBLAS handles; a workspace is a stream's.

    Handles are pooled: a finished thread's handle goes to the next, so all other threads share one.
    """
    return 2 * device.stream + (threading.current_thread() is not threading.main_thread())
