"""The C entry points behind `torch.cuda`: with these answered, PyTorch's own Python code runs unchanged.

A CPU build has none of the names, a CUDA build has them but no driver; both get the same answers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from .names import check_index

if TYPE_CHECKING:
    from ..device import VirtualDevice
    from ..patches import Patches

#: CUDA runtime that the virtual driver claims where the build itself has none (a CPU wheel): that of
#: PyPI's CUDA wheels of the same release, 13.0 (torch 2.11 to 2.14).
_RUNTIME = 13000


def _nested(flat: dict[str, Any]) -> dict[str, Any]:
    """`memory_stats()`'s flat keys back into the nested dictionary that C++ returns."""
    nested: dict[str, Any] = {}
    for key, value in flat.items():
        *path, last = key.split(".")
        level = nested
        for part in path:
            level = level.setdefault(part, {})
        level[last] = value
    return nested


def install(patches: Patches, device: VirtualDevice) -> None:
    capability = "".join(map(str, device.gpu.capability))

    def exchange(index: int) -> int:
        check_index(index)
        return 0

    def set_fraction(fraction: float, index: int) -> None:
        device.allocator.set_memory_fraction(fraction)

    def snapshot(mempool_id: Any = None, include_traces: bool = True) -> dict[str, Any]:
        found = device.history.snapshot()
        return found if include_traces else {**found, "device_traces": [[]]}

    answers: dict[str, Any] = {
        "getDeviceCount": lambda: 1,
        "getDevice": lambda: 0,
        "setDevice": check_index,
        "exchangeDevice": exchange,
        "maybeExchangeDevice": lambda index: 0,
        "init": lambda: None,
        "isInBadFork": lambda: False,
        "synchronize": lambda: None,
        "hasPrimaryContext": lambda index: True,
        "getCompiledVersion": lambda: _RUNTIME,
        "getArchFlags": lambda: f"sm_{capability}",
        "getAllocatorBackend": lambda: "native",
        "canDeviceAccessPeer": lambda a, b: a != b,
        "memoryStats": lambda index: _nested(device.allocator.memory_stats()),
        "resetPeakMemoryStats": lambda index: device.reset_peak_stats(),
        "resetAccumulatedMemoryStats": lambda index: device.allocator.reset_accumulated_stats(),
        "emptyCache": lambda *mempool: device.empty_cache(),
        "setMemoryFraction": set_fraction,
        "getMemoryFraction": lambda index: device.allocator.memory_fraction,
        "memorySnapshot": snapshot,
        "clearCublasWorkspaces": lambda: device.libraries.clear(device),
        "ipc_collect": lambda: None,
        "hostAllocatorEmptyCache": lambda: None,
        "hostMemoryStats": dict,
        "isCurrentStreamCapturing": lambda: False,
        "getCurrentStream": lambda index: (0, index, 1),
        "getDefaultStream": lambda index: (0, index, 1),
        "getCurrentRawStream": lambda index: 0,
        "setStream": lambda *args, **kwargs: None,
        "get_sync_debug_mode": lambda: 0,
        "set_sync_debug_mode": lambda mode: None,
        "sleep": lambda cycles: None,
        "getCurrentBlasHandle": lambda: 0,
        "cudaCachingAllocator_is_enabled": lambda: True,
    }
    for name, answer in answers.items():
        patches.set(torch._C, f"_cuda_{name}", answer)
    # The accelerator API (torch.accelerator) has one family of names for all devices.
    accelerator: dict[str, Any] = {
        "getDeviceIndex": lambda: 0,
        "setDeviceIndex": check_index,
        "exchangeDevice": exchange,
        "maybeExchangeDevice": lambda index: 0,
        "synchronizeDevice": lambda index: None,
        "emptyCache": lambda *args: device.empty_cache(),
        "getDeviceStats": lambda index: _nested(device.allocator.memory_stats()),
        "resetPeakStats": lambda index: device.reset_peak_stats(),
        "resetAccumulatedStats": lambda index: device.allocator.reset_accumulated_stats(),
        "getMemoryInfo": lambda index: (device.memory.free, device.memory.total),
        "isAllocatorInitialized": lambda: True,
    }
    for name, answer in accelerator.items():
        if hasattr(torch._C, f"_accelerator_{name}"):
            patches.set(torch._C, f"_accelerator_{name}", answer)
    from .names import CUDA

    patches.set(torch._C, "_accelerator_getAccelerator", lambda: CUDA)
    patches.set(torch._C, "_get_accelerator", lambda *check: CUDA)
