"""A request the allocator could not serve, and what PyTorch says about it, version by version.

Programs read it (notebooks show it, retry helpers search it, `explain` takes it apart), so the virtual GPU
says it exactly.  Sources: c10/cuda/CUDACachingAllocator.cpp from 1.13 to 2.11, reported errors of 2.10
and 2.12, the strings of the 2.14.1 binary.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from ..errors import VirtualGPUError


class AllocationFailed(VirtualGPUError):  # noqa: N818 -- the name says what happened
    """No memory for a request, after the cache was released and it was tried again.  All bytes.

    `requested` is what the program asked for, `size` that rounded, `segment_size` what was tried to get
    from the device.  `allowed` is the limit of `set_memory_fraction`, None without one.  `allocated` and
    `reserved` are the allocator's at that moment; `private_pools` is held for CUDA graphs.
    `preempted`: refused before trying, as `throw_on_cudamalloc_oom` demands.
    """

    def __init__(
        self,
        *,
        requested: int,
        size: int,
        segment_size: int,
        device_free: int,
        device_total: int,
        process_memory: int,
        allowed: int | None,
        allocated: int,
        reserved: int,
        private_pools: int,
        preempted: bool = False,
    ) -> None:
        self.requested = requested
        self.size = size
        self.segment_size = segment_size
        self.device_free = device_free
        self.device_total = device_total
        self.process_memory = process_memory
        self.allowed = allowed
        self.allocated = allocated
        self.reserved = reserved
        self.private_pools = private_pools
        self.preempted = preempted
        super().__init__(
            f"No room for {requested} bytes on the virtual GPU: a segment of {segment_size} bytes was "
            f"needed, {device_free} of {device_total} bytes were free."
        )

    def message(
        self, torch_version: str, device_index: int = 0, other_processes: Sequence[tuple[int, int]] = ()
    ) -> str:
        """What `torch.OutOfMemoryError` of that version says; `other_processes` are (pid, bytes)."""
        return out_of_memory_message(
            torch_version,
            requested=self.segment_size,
            device_index=device_index,
            total=self.device_total,
            free=self.device_free,
            process_memory=self.process_memory,
            allowed=self.allowed,
            allocated=self.allocated,
            reserved_unallocated=self.reserved - self.allocated,
            private_pools=self.private_pools,
            other_processes=other_processes,
            preempted=self.preempted,
        )


@dataclass(frozen=True)
class _Wording:
    """What a range of versions says; `since` is the first (major, minor) of the range."""

    since: tuple[int, int]
    capacity: str
    allowed: bool  # whether the memory fraction is mentioned
    hint: str
    source: str


_TWO_SPACES = "  See documentation for Memory Management "

_WORDINGS = (
    _Wording(
        (2, 11),
        "capacity",
        True,
        "PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True to avoid fragmentation."
        + _TWO_SPACES
        + " (https://docs.pytorch.org/docs/stable/notes/cuda.html"
        "#optimizing-memory-usage-with-pytorch-cuda-alloc-conf)",
        "pytorch pull request 172327, January 2026; strings of the 2.14.1 binary",
    ),
    _Wording(
        (2, 10),
        "capacity",
        True,
        "PYTORCH_ALLOC_CONF=expandable_segments:True to avoid fragmentation."
        + _TWO_SPACES
        + " (https://pytorch.org/docs/stable/notes/cuda.html#environment-variables)",
        "error quoted in huggingface/trl pull request 5197, February 2026",
    ),
    _Wording(
        (2, 3),
        "capacity",
        True,
        "PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True to avoid fragmentation."
        + _TWO_SPACES
        + " (https://pytorch.org/docs/stable/notes/cuda.html#environment-variables)",
        "CUDACachingAllocator.cpp of 2.4 and mid 2025",
    ),
    _Wording(
        (2, 2),
        "capacity",
        False,
        "PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True to avoid fragmentation."
        + _TWO_SPACES
        + " (https://pytorch.org/docs/stable/notes/cuda.html#environment-variables)",
        "CUDACachingAllocator.cpp between 2.1 and 2.4",
    ),
    _Wording(
        (2, 1),
        "capacty",
        False,
        "max_split_size_mb to avoid fragmentation." + _TWO_SPACES + "and PYTORCH_CUDA_ALLOC_CONF",
        "CUDACachingAllocator.cpp of 2.1",
    ),
)


def format_size(nbytes: int) -> str:
    """Bytes as PyTorch's error messages write them: exactly 1 GiB is "1024.00 MiB"."""
    if nbytes <= 1 << 10:
        return f"{nbytes} bytes"
    for limit, unit, name in ((1 << 20, 1 << 10, "KiB"), (1 << 30, 1 << 20, "MiB")):
        if nbytes <= limit:
            return f"{nbytes / unit:.2f} {name}"
    return f"{nbytes / (1 << 30):.2f} GiB"


def version_of(text: str) -> tuple[int, int]:
    """`"2.13.0+cu130"` -> `(2, 13)`."""
    found = re.match(r"(\d+)\.(\d+)", text)
    if found is None:
        raise ValueError(f"{text!r} is not a PyTorch version")
    return int(found[1]), int(found[2])


def out_of_memory_message(
    torch_version: str,
    *,
    requested: int,
    device_index: int,
    total: int,
    free: int,
    process_memory: int | None,
    allowed: int | None = None,
    allocated: int,
    reserved_unallocated: int,
    private_pools: int = 0,
    other_processes: Sequence[tuple[int, int]] = (),
    preempted: bool = False,
) -> str:
    """The message of `torch.OutOfMemoryError`.  All sizes in bytes.

    `requested` is the segment that was tried for, not the tensor.  `process_memory` is what NVML shows for
    this process (None where NVML is missing, and the sentence with it); `other_processes` are (pid, bytes).
    `allowed` is the limit of the memory fraction, `private_pools` what is free in pools of CUDA graphs.
    `reserved_unallocated` counts those pools; the message takes them out, as PyTorch does.
    """
    if preempted:
        return (
            "CUDA out of memory. Allocation was preemptively rejected because it would exceed "
            f"per_process_memory_fraction limit. Requested size: {format_size(requested)}. "
            "Set throw_on_cudamalloc_oom:false to disable."
        )
    version = version_of(torch_version)
    if version < (2, 1):
        limit = f"{format_size(allowed)} allowed; " if allowed is not None else ""
        return (
            f"CUDA out of memory. Tried to allocate {format_size(requested)} (GPU {device_index}; "
            f"{format_size(total)} total capacity; {format_size(allocated)} already allocated; "
            f"{format_size(free)} free; {limit}{format_size(allocated + reserved_unallocated)} reserved in "
            "total by PyTorch) If reserved memory is >> allocated memory try setting max_split_size_mb to "
            f"avoid fragmentation.{_TWO_SPACES}and PYTORCH_CUDA_ALLOC_CONF"
        )
    wording = next(w for w in _WORDINGS if version >= w.since)
    processes = [f"Process {pid} has {format_size(used)} memory in use. " for pid, used in other_processes]
    if process_memory is not None:
        processes.append(
            f"Including non-PyTorch memory, this process has {format_size(process_memory)} memory in use. "
        )
    limit = f"{format_size(allowed)} allowed; " if wording.allowed and allowed is not None else ""
    pools = ""
    if private_pools and wording.allowed:
        pools = f"with {format_size(private_pools)} allocated in private pools (e.g., CUDA Graphs), "
        allocated += private_pools
        reserved_unallocated -= private_pools
    return (
        f"CUDA out of memory. Tried to allocate {format_size(requested)}. GPU {device_index} has a total "
        f"{wording.capacity} of {format_size(total)} of which {format_size(free)} is free. "
        f"{''.join(processes)}{limit}Of the allocated memory {format_size(allocated)} is allocated by "
        f"PyTorch, {pools}and {format_size(reserved_unallocated)} is reserved by PyTorch but unallocated. "
        f"If reserved but unallocated memory is large try setting {wording.hint}"
    )
