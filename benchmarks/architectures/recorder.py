"""What a program allocates, operation by operation, seen from below autograd.

The same recorder watches a run on real host tensors and a run on the virtual GPU.  It is a
`TorchDispatchMode`: every aten operation passes it, in the forward pass and in autograd's threads.  A
storage is *created* by the operation in whose results (or, for `torch.tensor` and its kin, which make
theirs unseen, in whose arguments) it first appears, and *dies* when C++ releases it, which a weak
reference tells.  Bytes throughout.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter


@dataclass(eq=False)
class Storage:
    """One storage and its life, in operations."""

    number: int
    nbytes: int
    on_card: bool
    born: int
    """The operation that created it; -1 for what was there before."""
    died: int | None = None
    """Operations begun when it was released; None while something holds it."""


@dataclass(frozen=True)
class View:
    """What an operation returned: a tensor's metadata and the storage it lies in."""

    shape: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: torch.dtype
    offset: int
    storage: Storage

    @property
    def layout(self) -> tuple[Any, ...]:
        return (self.shape, self.stride, self.dtype, self.offset)


@dataclass(eq=False)
class Op:
    """One operation: what it returned, what it created, and what else was allocated meanwhile."""

    name: str
    results: list[View] = field(default_factory=list)
    created: list[Storage] = field(default_factory=list)
    from_host: bool = False
    """Reads a host tensor and gives one on the card."""
    to_host: bool = False
    read: list[Storage] = field(default_factory=list)
    """What its arguments lie in."""
    inner: list[int] = field(default_factory=list)
    """Sizes of storages the virtual device allocated during it that are in no result."""

    @property
    def shown(self) -> str:
        return f"{self.name} -> {[(list(v.shape), str(v.dtype)[6:]) for v in self.results]}"


class Recorder(TorchDispatchMode):
    """Use as a context around the program; `card` tells the tensors of the virtual GPU (none, for a real run)."""

    def __init__(self, card: Callable[[torch.Tensor], bool] = lambda _: False) -> None:
        super().__init__()
        self.ops: list[Op] = []
        self.storages: list[Storage] = []
        self.deaths: list[Storage] = []
        self._card = card
        self._alive: dict[int, tuple[weakref.ref[Any], Storage]] = {}
        #: (identity, bytes) of what the virtual device allocated during the operation in progress.
        self.allocated: list[tuple[int, int]] = []
        self._outside: dict[int, int] = {}
        #: Set when the program is over: what is released later is no longer its doing.
        self.ended = False

    @property
    def unseen(self) -> list[int]:
        """Sizes of storages that the virtual device allocated outside any operation and that none ever used."""
        return list(self._outside.values())

    # ------------------------------------------------------------ storages

    def known(self, tensors: Any) -> None:
        """These were there before the program: parameters, buffers, the batch."""
        for t in tree_iter(tensors):
            if isinstance(t, torch.Tensor):
                self._storage(t, -1)

    def view(self, t: torch.Tensor) -> View:
        """`t` as it is now."""
        return View(tuple(t.shape), tuple(t.stride()), t.dtype, t.storage_offset(), self._storage(t, len(self.ops)))

    def _storage(self, t: torch.Tensor, born: int, created: list[Storage] | None = None) -> Storage:
        raw = t.untyped_storage()
        key = raw._cdata
        entry = self._alive.get(key)
        if entry is not None and entry[0]() is not None:
            return entry[1]
        self._outside.pop(key, None)
        storage = Storage(len(self.storages), raw.nbytes(), self._card(t), born)
        self.storages.append(storage)

        def died(reference: Any) -> None:
            current = self._alive.get(key)
            if current is not None and current[0] is reference:
                del self._alive[key]
            if not self.ended:
                storage.died = len(self.ops)
                self.deaths.append(storage)

        self._alive[key] = (weakref.ref(raw, died), storage)
        if created is not None:
            created.append(storage)
        return storage

    # ------------------------------------------------------------ operations

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        op = Op(str(func).removeprefix("aten."))
        position = len(self.ops)
        self.ops.append(op)
        self._outside.update(self.allocated)
        self.allocated.clear()
        inputs = [t for t in tree_iter((args, kwargs)) if isinstance(t, torch.Tensor)]
        op.read = [self._storage(t, position, op.created) for t in inputs]
        host_input = any(not self._card(t) for t in inputs)
        card_input = any(self._card(t) for t in inputs)
        out = func(*args, **kwargs)
        results = [t for t in tree_iter(out) if isinstance(t, torch.Tensor)]
        op.results = [
            View(
                tuple(t.shape), tuple(t.stride()), t.dtype, t.storage_offset(), self._storage(t, position, op.created)
            )
            for t in results
        ]
        card_result = any(self._card(t) for t in results)
        op.from_host = card_result and host_input and not card_input
        op.to_host = card_input and bool(results) and not card_result
        if self.allocated:
            mine = {t.untyped_storage()._cdata for t in (*results, *inputs)}
            op.inner = [nbytes for key, nbytes in self.allocated if key not in mine]
            self.allocated.clear()
        return out


@contextmanager
def watched_allocations(recorder: Recorder, device: Any) -> Iterator[None]:
    """Tell `recorder` of every storage that the virtual `device` allocates."""
    allocate = device.allocate

    def watched_allocate(nbytes: int) -> torch.UntypedStorage:
        storage: torch.UntypedStorage = allocate(nbytes)
        recorder.allocated.append((storage._cdata, nbytes))
        return storage

    device.allocate = watched_allocate
    try:
        yield
    finally:
        device.allocate = allocate
