"""Streams and events.  Nothing is queued, but memory belongs to streams, as PyTorch's allocator keeps it.

A block freed on one stream serves only that stream again, and a tensor that another stream uses
(`record_stream`) keeps its block until the next allocation.  Backward runs on the stream that is current when
it is called, where CUDA takes each operation's forward stream.
"""

from __future__ import annotations

import contextlib
import itertools
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Self

import torch

from .. import state
from .names import CUDA0, gpu_index

if TYPE_CHECKING:
    from ..device import VirtualDevice
    from ..patches import Patches

#: Streams that PyTorch makes for each priority of a device; the next `Stream()` gets the first again.
_PER_PRIORITY = 32
_round = {0: itertools.count(), -1: itertools.count()}


class Stream:
    """`torch.cuda.Stream` without a queue: every operation is finished when the call returns."""

    device_type = 1
    device_index = 0

    def __init__(self, device: Any = None, priority: int = 0, **kwargs: Any) -> None:
        gpu_index(device)
        self.device = CUDA0
        self.priority = max(min(priority, 0), -1)
        given = kwargs.get("stream_id")
        if given is None:
            given = 1 + next(_round[self.priority]) % _PER_PRIORITY - self.priority * _PER_PRIORITY
        self.stream_id: int = given
        self._outer: list[int] = []

    @property
    def cuda_stream(self) -> int:
        return self.stream_id

    def synchronize(self) -> None: ...
    def wait_stream(self, stream: Any) -> None: ...
    def wait_event(self, event: Any) -> None: ...

    def query(self) -> bool:
        return True

    def is_capturing(self) -> bool:
        return False

    def record_event(self, event: Any = None) -> Event:
        event = event or Event()
        event.record(self)
        return event  # type: ignore[no-any-return]

    def __enter__(self) -> Self:
        device = state.current()
        self._outer.append(device.stream)
        device.stream = self.stream_id
        return self

    def __exit__(self, *exc: object) -> None:
        if state.active is not None:
            state.active.stream = self._outer.pop()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Stream) and other.stream_id == self.stream_id

    def __hash__(self) -> int:
        return hash(self.stream_id)

    def __repr__(self) -> str:
        return f"<torch.cuda.Stream device={self.device} cuda_stream={self.stream_id:#x}>"


class Event:
    """`torch.cuda.Event`; `elapsed_time` is the card's *estimated* time between two records."""

    def __init__(
        self, enable_timing: bool = False, blocking: bool = False, interprocess: bool = False
    ) -> None:
        self.device = CUDA0
        self._at: float | None = None

    def record(self, stream: Any = None) -> None:
        self._at = state.current().seconds if state.active is not None else time.perf_counter()

    def wait(self, stream: Any = None) -> None: ...
    def synchronize(self) -> None: ...

    def query(self) -> bool:
        return True

    def elapsed_time(self, end_event: Event) -> float:
        """Milliseconds."""
        if self._at is None or end_event._at is None:
            raise RuntimeError("Both events must be recorded before calculating elapsed time.")
        return (end_event._at - self._at) * 1e3

    def __repr__(self) -> str:
        return "<torch.cuda.Event uninitialized>" if self._at is None else "<torch.cuda.Event recorded>"


class _DeviceEvent(Event):
    """`torch.Event`, the accelerators' common form: the device comes first."""

    def __init__(self, device: Any = None, **options: Any) -> None:
        gpu_index(device)
        super().__init__(**options)


def install(patches: Patches, device: VirtualDevice) -> None:
    from torch.nn.parallel import _functions as parallel

    def current(d: Any = None) -> Stream:
        gpu_index(d)
        return Stream(stream_id=device.stream)

    def default(d: Any = None) -> Stream:
        gpu_index(d)
        return Stream(stream_id=0)

    def set_stream(stream: Any) -> None:
        if stream is not None:
            device.stream = stream.stream_id

    @contextlib.contextmanager
    def within(stream: Any) -> Iterator[Any]:
        if stream is None:
            yield None
        else:
            with stream:
                yield stream

    cuda = torch.cuda
    for name, value in {
        "Stream": Stream,
        "Event": Event,
        "current_stream": current,
        "default_stream": default,
        "set_stream": set_stream,
        "stream": within,
    }.items():
        patches.set(cuda, name, value)
    patches.set(cuda.streams, "Stream", Stream)
    patches.set(cuda.streams, "Event", Event)
    # The C++ type would take our streams for its own and read what is not there.
    patches.set(torch, "Stream", Stream)
    patches.set(torch, "Event", _DeviceEvent)
    patches.set(torch.accelerator, "current_stream", current)
    patches.set(torch.accelerator, "set_stream", set_stream)
    copying = Stream()
    patches.set(parallel, "_get_stream", lambda d: copying if d.type == "cuda" else None)
    patches.set(torch.Tensor, "record_stream", lambda self, stream: device.record_stream(self, stream))
    _collectives(patches)


def _collectives(patches: Patches) -> None:
    """What `torch.nn.DataParallel` asks of C++, from ATen's `torch/csrc/cuda/comm.cpp`."""

    def scatter(
        t: torch.Tensor, devices: Any, chunk_sizes: Any = None, dim: int = 0, streams: Any = None
    ) -> list[torch.Tensor]:
        parts = t.split(list(chunk_sizes), dim) if chunk_sizes else t.chunk(len(devices), dim)
        found = []
        for i, (part, index) in enumerate(zip(parts, devices, strict=False)):
            with streams[i] if streams and streams[i] is not None else contextlib.nullcontext():
                found.append(part.to(f"cuda:{index}"))
        return found

    def gather(tensors: Any, dim: int, destination: Any = None) -> torch.Tensor:
        target = "cpu" if destination == -1 else f"cuda:{destination or 0}"
        return torch.cat([t.to(target) for t in tensors], dim)

    def broadcast(tensor: torch.Tensor, devices: Any) -> list[torch.Tensor]:
        return [tensor.to(f"cuda:{i}") for i in devices]

    patches.set(torch._C, "_scatter", scatter)
    patches.set(torch._C, "_gather", gather)
    patches.set(torch._C, "_broadcast", broadcast)
