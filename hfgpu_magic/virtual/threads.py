"""One thread for small host tensors: sharing them out costs more than the work, above all on a busy machine.

A container that may use two cores of a machine with sixty-four gives PyTorch sixty-four threads.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator

import torch


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """PyTorch's operations on the host use only this thread; 0.2 microseconds."""
    if not _can_change():
        yield
        return
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@functools.cache
def _can_change() -> bool:
    """PyTorch's own thread pool cannot be changed once it runs; OpenMP's can."""
    return "ATen parallel backend: OpenMP" in torch.__config__.parallel_info()
