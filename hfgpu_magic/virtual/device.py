"""One running virtual card: storages through the allocator, counters, and the out-of-memory error."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import torch

from . import address, backend, lifetimes, state
from .allocator import AllocationFailed, CachingAllocator
from .history import History
from .libraries import Libraries
from .memory import DeviceMemory
from .modules import Attribution
from .progress import EVERY, Display, Watch
from .report import OutOfMemory
from .settings import AllocatorSettings
from .timeline import Record, Timeline
from .user_code import line_of_caller
from .values import Mirrors

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from ..devices.catalog import GPU
    from .blocks import Block

storage_address = backend.storage_address


class _Lease:
    """A storage's block, from the tensor's birth to the end of its storage."""

    __slots__ = ("block", "cdata", "device", "record")
    block: Block
    cdata: int
    device: VirtualDevice | None
    record: Record

    def died(self) -> None:
        if self.device is None:
            state.gone(self.cdata)
        else:
            self.device.storage_died(self)


def version_pair(version: str) -> tuple[int, int]:
    """(2, 13) of "2.13.0+cu130"."""
    major, minor = version.split("+", maxsplit=1)[0].split(".")[:2]
    return int(major), int(minor)


class VirtualDevice:
    """The card's state during a run."""

    def __init__(
        self,
        gpu: GPU,
        *,
        context: int | None = None,
        memory: int | None = None,
        settings: AllocatorSettings | None = None,
        torch_version: str | None = None,
    ) -> None:
        self.gpu = gpu
        #: (major, minor) of the PyTorch whose choices are followed.
        self.torch_version = version_pair(torch_version or torch.__version__)
        total = gpu.memory_total if memory is None else memory
        self._memory = DeviceMemory(total, gpu.context if context is None else context)
        space = address.shared_range(total)
        self._allocator = CachingAllocator(
            self._memory,
            settings if settings is not None else AllocatorSettings.from_environ(os.environ),
            address_top=space.top,
            address_size=space.size - (1 << 21),
        )
        self.libraries = Libraries(gpu.capability, torch_version)
        self.mirrors = Mirrors()
        self.timeline = Timeline()
        self.history = History(self)
        self.attribution = Attribution(self)
        self.operations = 0
        self.seconds = 0.0
        self.notes: list[str] = []
        self.out_of_memory: OutOfMemory | None = None
        self._live: dict[int, _Lease] = {}
        self._held: dict[int, Record] = {}
        self._null = space.base
        self._peaks = (0, 0)
        self.closed = False
        #: The current stream; 0 is the default one.
        self.stream = 0
        #: Whether a CUDA graph is being captured.
        self.capturing = False
        #: Called as f(device, allocation, total, free) before an out-of-memory error.  Bytes.
        self.oom_observers: list[Callable[[int, int, int, int], object]] = []
        self._watch: Watch | None = None
        self._until_look = 0

    @property
    def allocator(self) -> CachingAllocator:
        """The caching allocator, having heard of every storage that has died."""
        lifetimes.drain()
        return self._allocator

    @property
    def memory(self) -> DeviceMemory:
        """The card's memory, likewise."""
        lifetimes.drain()
        return self._memory

    # ------------------------------------------------------------ notes

    def note(self, text: str) -> None:
        """A sentence for the report; said once."""
        if text not in self.notes:
            self.notes.append(text)

    def show_on(self, display: Display) -> None:
        """Tell `display` from now on how the card fills up."""
        self._watch, self._until_look = Watch(self, display), EVERY

    # ------------------------------------------------------------ storages

    def tensor(self, size: Any, stride: Any, dtype: torch.dtype, nbytes: int | None = None) -> torch.Tensor:
        """A new tensor; raises `torch.OutOfMemoryError` as PyTorch would.

        `nbytes`, what `size` and `stride` span, is for callers that have it at hand.
        """
        if nbytes is None:
            nbytes = backend.span(size, stride) * dtype.itemsize
        if nbytes == 0:
            return backend.empty_tensor(self._null, size, stride, dtype)
        block = self._malloc(nbytes)
        lease = _Lease()
        lease.block = block
        lease.device = self
        lease.record = record = Record(block.size, self._category(), self.attribution.current_module)
        fresh = lifetimes.tensor(block.address, nbytes, size, stride, dtype, lease)
        lease.cdata = cdata = storage_address(fresh)
        if cdata in self._live:  # its last owner has died since, unheard
            lifetimes.drain()
        self._live[cdata] = lease
        self._log(record)
        return fresh

    def allocate(self, nbytes: int) -> torch.UntypedStorage:
        """A storage of `nbytes`; raises `torch.OutOfMemoryError` as PyTorch would."""
        return self.tensor((nbytes,), (1,), torch.uint8).untyped_storage()

    def hold(self, nbytes: int, category: str, name: str) -> Block:
        """`nbytes` without a tensor (a library's workspace), kept until `release`."""
        block = self._malloc(nbytes)
        record = self._held[id(block)] = Record(block.size, category, "", name)
        self._log(record)
        return block

    def release(self, block: Block) -> None:
        record = self._held.pop(id(block))
        self.allocator.free(block)
        self.timeline.freed(record)

    def scratch(self, sizes: Iterable[int], work: Callable[[], None] | None = None) -> None:
        """What a kernel takes besides its results and gives back at its end, last first.  Bytes each.

        `work` is what happens meanwhile.
        """
        blocks: list[Block] = []
        try:
            for n in sizes:
                if n:
                    # One by one: when the card is full, the earlier ones have to be given back.
                    blocks.append(self.hold(n, "workspace", "temporary"))  # noqa: PERF401
            if work is not None:
                work()
        finally:
            for block in reversed(blocks):
                self.release(block)

    def _log(self, record: Record) -> None:
        allocator = self._allocator  # `_malloc` has just heard of the dead
        timeline, allocated = self.timeline, allocator.allocated
        timeline.allocated(record, allocated)
        timeline.until_tick -= 1
        if not timeline.until_tick:
            timeline.tick(self.operations, allocated, allocator.reserved)
        self._until_look -= 1
        if not self._until_look and self._watch is not None:
            self._until_look = EVERY
            self._watch.look()

    def _category(self) -> str:
        """A first guess; hooks refine it once the storage is known to be a parameter, a gradient, ..."""
        attribution = self.attribution
        if attribution.in_building:
            return "parameters"
        if attribution.in_optimizer:
            return "other"
        if attribution.in_module or torch._C._current_graph_task_id() != -1:
            return "activations"
        return "other"

    def host_copy(self, t: torch.Tensor) -> None:
        """A tensor came from the host: outside any module that is a batch, or a model being moved."""
        record = self.record_of(t)
        if record is not None and record.category == "other" and not self.attribution.in_module:
            record.category = "inputs"

    def storage_nbytes(self, t: torch.Tensor) -> int | None:
        """Bytes of a tensor's storage; None when it is not one of this run's."""
        lease = self._live.get(storage_address(t))
        return None if lease is None else lease.block.requested

    def record_stream(self, t: torch.Tensor, stream: Any) -> None:
        """`Tensor.record_stream`: the block of `t` is in use on `stream` too."""
        lease = self._live.get(storage_address(t))
        if lease is not None:
            self.allocator.record_stream(lease.block, stream.stream_id)

    def record_of(self, t: torch.Tensor) -> Record | None:
        if not backend.on_card(t):
            return None
        lease = self._live.get(storage_address(t))
        return lease.record if lease is not None else None

    def _malloc(self, nbytes: int) -> Block:
        lifetimes.drain()
        try:
            return self._allocator.malloc(nbytes, self.stream)
        except AllocationFailed as caught:
            failure = caught.with_traceback(None)
        # Not kept in a variable: error, traceback and this frame would hold each other, and with them every
        # tensor of the attempt that failed, until the next collection of cycles.
        raise self._out_of_memory(failure, nbytes)

    def storage_died(self, lease: _Lease) -> None:
        if self._live.get(lease.cdata) is lease:
            del self._live[lease.cdata]
            self.mirrors.forget_storage(lease.cdata)
        self._allocator.free(lease.block)
        self.timeline.freed(lease.record)

    # ------------------------------------------------------------ peaks of the whole run

    @property
    def max_allocated(self) -> int:
        """Highest allocated bytes since the start, whatever the program has reset."""
        return max(self._peaks[0], self.allocator.max_allocated)

    @property
    def max_reserved(self) -> int:
        """Highest reserved bytes since the start."""
        return max(self._peaks[1], self.allocator.max_reserved)

    def reset_peak_stats(self) -> None:
        """`torch.cuda.reset_peak_memory_stats`: for the program; the report keeps what was."""
        self._peaks = (self.max_allocated, self.max_reserved)
        self.allocator.reset_peak_stats()

    def empty_cache(self) -> None:
        self.allocator.empty_cache()

    def close(self) -> None:
        """The run is over: storages that outlive it no longer report here."""
        self.closed = True
        for lease in list(self._live.values()):
            lease.device = None
            state.outlives(lease.cdata)
        self._live.clear()
        self._held.clear()

    # ------------------------------------------------------------ out of memory

    def _out_of_memory(self, failure: AllocationFailed, nbytes: int) -> Exception:
        message = failure.message(torch.__version__)
        for observer in self.oom_observers:
            observer(0, failure.segment_size, self.memory.total, self.memory.free)
        if self.out_of_memory is None:
            file, line, code = line_of_caller()
            self.out_of_memory = OutOfMemory(message, file, line, nbytes, code)
        return torch.OutOfMemoryError(message)
