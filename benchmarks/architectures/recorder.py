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
    operands: frozenset[int] = frozenset()
    """Bytes of each of its arguments, laid out without gaps."""
    inner: list[int] = field(default_factory=list)
    """Sizes of storages the virtual device allocated during it that are in no result."""

    @property
    def shown(self) -> str:
        return f"{self.name} -> {[(list(v.shape), str(v.dtype)[6:]) for v in self.results]}"


class Recorder(TorchDispatchMode):
    """Use as a context around the program; `card` is the virtual GPU (none, for a real run)."""

    def __init__(self, card: Card | None = None) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.ops: list[Op] = []
        self.storages: list[Storage] = []
        self.deaths: list[Storage] = []
        #: What was there before the program, tensor by tensor.
        self.given: list[Storage] = []
        self._card = card
        self._alive: dict[int, Storage] = {}
        #: (identity, bytes) of what the virtual device allocated during the operation in progress.
        self.allocated: list[tuple[int, int]] = []
        self._outside: dict[int, int] = {}
        self.ended = False

    @property
    def unseen(self) -> list[int]:
        """Bytes of each storage that the virtual device allocated outside operations and none ever used."""
        return list(self._outside.values())

    # ------------------------------------------------------------ storages

    def known(self, tensors: Any) -> None:
        """These were there before the program: parameters, buffers, the batch."""
        self.given = [self._storage(t, -1) for t in tree_iter(tensors) if isinstance(t, torch.Tensor)]

    def view(self, t: torch.Tensor) -> View:
        """`t` as it is now."""
        return View(
            tuple(t.shape),
            tuple(t.stride()),
            t.dtype,
            int(t.storage_offset()),
            self._storage(t, len(self.ops)),
        )

    def _storage(self, t: torch.Tensor, born: int, created: list[Storage] | None = None) -> Storage:
        card = self._card
        on_card = card is not None and card.has(t)
        key = card.identity(t) if card is not None and on_card else t.untyped_storage()._cdata
        found = self._alive.get(key)
        if found is not None:
            return found
        nbytes = card.nbytes(t) if card is not None and on_card else t.untyped_storage().nbytes()
        self._outside.pop(key, None)
        storage = Storage(len(self.storages), nbytes, on_card, born)
        self.storages.append(storage)
        if nbytes:  # an empty one has no life to follow
            self._alive[key] = storage
            if not on_card:
                weakref.finalize(t.untyped_storage(), self.died, key).atexit = False
        if created is not None:
            created.append(storage)
        return storage

    def finish(self) -> None:
        """The program is over: what is released later is no longer its doing."""
        self._settle()
        self.ended = True

    def died(self, key: int) -> None:
        """The storage of that identity has been released."""
        storage = self._alive.pop(key, None)
        if storage is not None and not self.ended:
            storage.died = len(self.ops)
            self.deaths.append(storage)

    # ------------------------------------------------------------ operations

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        op = Op(str(func).removeprefix("aten."))
        self._settle()
        position = len(self.ops)
        self.ops.append(op)
        self._outside.update(self.allocated)
        self.allocated.clear()
        inputs = [t for t in tree_iter((args, kwargs)) if isinstance(t, torch.Tensor)]
        op.read = [self._storage(t, position, op.created) for t in inputs]
        op.operands = frozenset(t.numel() * t.element_size() for t in inputs)
        inputs_on_card = [s.on_card for s in op.read]
        out = func(*args, **kwargs)
        results = [t for t in tree_iter(out) if isinstance(t, torch.Tensor)]
        op.results = [
            View(
                tuple(t.shape),
                tuple(t.stride()),
                t.dtype,
                int(t.storage_offset()),
                self._storage(t, position, op.created),
            )
            for t in results
        ]
        results_on_card = [v.storage.on_card for v in op.results]
        op.from_host = any(results_on_card) and bool(op.read) and not any(inputs_on_card)
        op.to_host = any(inputs_on_card) and bool(op.results) and not any(results_on_card)
        if self.allocated:
            assert self._card is not None
            mine = {self._card.identity(t) for t in (*results, *inputs) if self._card.has(t)}
            op.inner = [nbytes for key, nbytes in self.allocated if key not in mine]
            self.allocated.clear()
        self._settle()
        return out

    def _settle(self) -> None:
        if self._card is not None:
            self._card.settle()


class Card:
    """What the recorder asks of the virtual GPU, and what it is told of by it."""

    def __init__(self, device: Any) -> None:
        from hfgpu_magic.virtual import backend, lifetimes

        self._device = device
        self.has: Callable[[torch.Tensor], bool] = backend.on_card
        self.identity: Callable[[torch.Tensor], int] = backend.storage_address
        self.settle: Callable[[], None] = lifetimes.drain

    def nbytes(self, t: torch.Tensor) -> int:
        return self._device.storage_nbytes(t) or 0

    @contextmanager
    def watched(self, recorder: Recorder) -> Iterator[None]:
        """Tell `recorder` of every storage that the device allocates and releases."""
        device = self._device
        tensor, storage_died = device.tensor, device.storage_died

        def watched_tensor(*args: Any) -> torch.Tensor:
            made: torch.Tensor = tensor(*args)
            nbytes = self.nbytes(made)
            if nbytes:
                recorder.allocated.append((self.identity(made), nbytes))
            return made

        def watched_died(lease: Any) -> None:
            recorder.died(lease.cdata)
            storage_died(lease)

        device.tensor, device.storage_died = watched_tensor, watched_died
        try:
            yield
        finally:
            del device.tensor, device.storage_died
