"""CUDA graphs, memory pools, and the tools around them: nvtx, profilers, raw allocations, observers.

A graph's capture runs its code as usual, with the allocations where a capture has them, in a pool of its own;
replaying costs the estimate's time and no memory.
"""

from __future__ import annotations

import itertools
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import torch

from .. import state

if TYPE_CHECKING:
    from ..blocks import Block
    from ..device import VirtualDevice
    from ..patches import Patches

_PoolId = tuple[int, int]
_numbers = itertools.count(1)


def _new_pool() -> _PoolId:
    return (0, next(_numbers))


class CUDAGraph:
    """`torch.cuda.CUDAGraph`: captured eagerly, replayed for its time."""

    def __init__(self, keep_graph: bool = False) -> None:
        self._device: VirtualDevice | None = None
        self._pool: _PoolId | None = None
        self._before = (0, 0.0)
        self._cost = (0, 0.0)

    def capture_begin(self, pool: Any = None, capture_error_mode: str = "global", **options: Any) -> None:
        device = self._device = state.current()
        self._pool = tuple(pool) if pool is not None else _new_pool()
        stream = device.stream
        device.allocator.begin_allocate_to_pool(self._pool, lambda s: s == stream)
        device.capturing = True
        self._before = (device.operations, device.seconds)

    def capture_end(self) -> None:
        device, pool = self._running()
        device.capturing = False
        device.allocator.end_allocate_to_pool(pool)
        self._cost = (device.operations - self._before[0], device.seconds - self._before[1])

    def instantiate(self) -> None: ...
    def enable_debug_mode(self) -> None: ...
    def debug_dump(self, debug_path: str) -> None: ...

    def replay(self) -> None:
        device, _ = self._running()
        device.operations += self._cost[0]
        device.seconds += self._cost[1]

    def reset(self) -> None:
        """Let go of the pool: its memory can be released once its tensors are gone."""
        device, pool = self._device, self._pool
        self._device = self._pool = None
        if device is not None and pool is not None and not device.closed:
            device.allocator.release_pool(pool)

    def pool(self) -> _PoolId:
        return self._running()[1]

    def _running(self) -> tuple[VirtualDevice, _PoolId]:
        if self._device is None or self._pool is None:
            raise RuntimeError("Called CUDAGraph::replay without a preceding successful capture.")
        return self._device, self._pool

    def __del__(self) -> None:
        self.reset()


class MemPool:
    """`torch.cuda.MemPool`: segments that only `use_mem_pool` serves from."""

    def __init__(self, allocator: Any = None, use_on_oom: bool = False, no_split: bool = False) -> None:
        self._device: VirtualDevice | None = None
        self.id = _new_pool()

    def use_count(self) -> int:
        pool = state.current().allocator.private_pools.get(self.id)
        return pool.uses if pool is not None else 1

    def snapshot(self, include_traces: bool = True) -> Any:
        return torch.cuda.memory_snapshot(self.id)


def install(patches: Patches, device: VirtualDevice) -> None:
    cuda = torch.cuda
    graphs, memory = cuda.graphs, cuda.memory

    def capturing() -> bool:
        return device.capturing

    for owner in (cuda, graphs):
        patches.set(owner, "CUDAGraph", CUDAGraph)
        patches.set(owner, "is_current_stream_capturing", capturing)
        patches.set(owner, "graph_pool_handle", _new_pool)
    patches.set(graphs, "_graph_pool_handle", _new_pool)
    patches.set(graphs, "_cuda_isCurrentStreamCapturing", capturing)
    # Made once and kept by the class: the one of this run must not reach the next.
    patches.set(graphs.graph, "default_capture_stream", None)
    if not hasattr(torch._C, "_host_emptyCache"):  # what a capture does to the pinned memory first
        patches.set(torch._C, "_host_emptyCache", lambda: None)
    _pools(patches, device)
    for owner in (cuda, memory):
        if hasattr(owner, "MemPool"):
            patches.set(owner, "MemPool", MemPool)
    _raw_allocations(patches, device)
    _tools(patches, device)


def _pools(patches: Patches, device: VirtualDevice) -> None:
    allocator = device.allocator

    def begin(index: int, pool: _PoolId) -> None:
        allocator.begin_allocate_to_pool(pool, graph=False)

    def end(index: int, pool: _PoolId) -> None:
        allocator.end_allocate_to_pool(pool)

    def release(index: int, pool: _PoolId) -> None:
        allocator.release_pool(pool)

    for name, function in (
        ("_cuda_beginAllocateCurrentThreadToPool", begin),
        ("_cuda_beginAllocateToPool", begin),
        ("_cuda_endAllocateToPool", end),
        ("_cuda_releasePool", release),
    ):
        patches.set(torch._C, name, function)
        patches.set(torch.cuda.memory, name, function)


def _raw_allocations(patches: Patches, device: VirtualDevice) -> None:
    """`torch.cuda.caching_allocator_alloc` and `..._delete`, which other array libraries use."""
    held: dict[int, Block] = {}

    def allocate(size: int, stream: int) -> int:
        block = device.hold(size, "other", "caching_allocator_alloc")
        held[block.address] = block
        return block.address

    patches.set(torch._C, "_cuda_cudaCachingAllocator_raw_alloc", allocate)
    patches.set(torch._C, "_cuda_cudaCachingAllocator_raw_delete", lambda p: device.release(held.pop(p)))
    patches.set(torch._C, "_cuda_attach_out_of_memory_observer", device.oom_observers.append)


_UNTIMED = "torch.profiler: the host's side only; a virtual card runs no kernels whose times it could record."


def _tools(patches: Patches, device: VirtualDevice) -> None:
    depth = itertools.count()
    nvtx = SimpleNamespace(
        rangePushA=lambda message: next(depth),
        rangePop=lambda: 0,
        rangeStartA=lambda message: next(depth),
        rangeEnd=lambda range_id: None,
        markA=lambda message: None,
        deviceRangeStart=lambda message, stream: next(depth),
        deviceRangeEnd=lambda handle, stream: None,
    )
    patches.set(torch.cuda.nvtx, "_nvtx", nvtx)
    from torch.autograd import profiler

    patches.set(profiler.emit_nvtx, "__enter__", lambda self: self)
    patches.set(profiler.emit_nvtx, "__exit__", lambda self, *exc: False)
    begin = profiler.profile.__init__

    def without_card(self: Any, *args: Any, **kwargs: Any) -> None:
        # Without the driver's tracing library the profiler falls back to CUDA events, which are not there.
        if kwargs.get("use_device") == "cuda" or kwargs.get("use_cuda"):
            kwargs |= {"use_device": None, "use_cuda": False}
            device.note(_UNTIMED)
        begin(self, *args, **kwargs)

    patches.set(profiler.profile, "__init__", without_card)

    def processes(d: Any = None) -> str:
        import os

        return (
            f"GPU:0\nprocess {os.getpid():>10d} uses {device.memory.process / (1 << 20):>12.3f} MB GPU memory"
        )

    for owner in (torch.cuda, torch.cuda.memory):
        patches.set(owner, "list_gpu_processes", processes)
    patches.set(torch.cuda, "memory_usage", lambda d=None: 0)
