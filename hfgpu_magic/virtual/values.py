"""The few values that a device without data has to know.

Programs branch on small tensors: a finished flag, a mask that is all ones, a gradient scaler's
overflow flag.  Whoever answers those wrongly runs a different program, and a different program
needs different memory.  So small storages keep a copy on the host ("mirror"), and an operation
whose inputs are all mirrored also runs there.  Each mirror is either

* known: computed from real host data, hence right; or
* assumed: some input had no data.  Assumed values (1 for floats, 0 or False for the rest) may
  steer a branch, but never decide a size: where a size depends on them the upper bound is taken.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from . import backend, state
from .threads import one_thread

#: Storages up to this size are mirrored whatever they hold (scalars, RoPE frequencies, scales) ...
SMALL_ANY = 1024
#: ... and integer or boolean ones up to this size (token ids, masks, positions).
SMALL_INTEGER = 1 << 20
#: Floats that follow from known values alone (a mask made of token ids) are kept up to this size.
SMALL_COMPUTED = 16 << 10

_on_card = backend.on_card
_storage_address = backend.storage_address


def _storage_nbytes(t: torch.Tensor) -> int:
    """Bytes of `t`'s storage, without making a Python object for it where its run knows them."""
    device = state.active
    nbytes = device.storage_nbytes(t) if device is not None else None
    return t.untyped_storage().nbytes() if nbytes is None else nbytes


def is_small(t: torch.Tensor) -> bool:
    nbytes = _storage_nbytes(t)
    return nbytes <= SMALL_ANY or (
        nbytes <= SMALL_INTEGER and not (t.dtype.is_floating_point or t.dtype.is_complex)
    )


def keeps(t: torch.Tensor) -> bool:
    """Whether `t` is small enough to hold a value computed from other kept values."""
    return _storage_nbytes(t) <= SMALL_COMPUTED or is_small(t)


class Unmirrored(LookupError):  # noqa: N818 - a finding, not an error
    """An input has no host copy."""


class Mirrors:
    """Host copies of small virtual storages, by storage identity."""

    def __init__(self) -> None:
        self._table: dict[int, tuple[torch.UntypedStorage, bool]] = {}

    def __len__(self) -> int:
        return len(self._table)

    def forget_storage(self, cdata: int) -> None:
        self._table.pop(cdata, None)

    def forget(self, t: torch.Tensor) -> None:
        if self._table:
            self._table.pop(_storage_address(t), None)

    def raw(self, cdata: int) -> torch.UntypedStorage | None:
        """The host copy of a storage, by identity; None when there is none."""
        entry = self._table.get(cdata)
        return None if entry is None else entry[0]

    def adopt(self, storage: torch.UntypedStorage, host: torch.UntypedStorage) -> None:
        """`host` holds the bytes of `storage` from now on; they are known."""
        self._table[storage._cdata] = (host, True)

    def copy_storage(self, source: torch.UntypedStorage, target: torch.UntypedStorage) -> None:
        """`target` is a byte-wise copy of `source`."""
        entry = self._table.get(source._cdata)
        if entry is not None:
            self._table[target._cdata] = (entry[0].clone(), entry[1])

    def _alias(self, t: torch.Tensor, storage: torch.UntypedStorage) -> torch.Tensor:
        with torch.no_grad():
            return torch.empty(0, dtype=t.dtype, device="cpu").set_(
                storage, t.storage_offset(), t.size(), t.stride()
            )

    def read(self, t: torch.Tensor) -> tuple[torch.Tensor, bool]:
        """Host view of `t` and whether its values are known.  Raises `Unmirrored`."""
        if not _on_card(t):
            return t, True
        if not t.numel():
            return torch.empty_strided(t.size(), t.stride(), dtype=t.dtype, device="cpu"), True
        entry = self._table.get(_storage_address(t))
        if entry is None:
            raise Unmirrored
        return self._alias(t, entry[0]), entry[1]

    def write(self, t: torch.Tensor, known: bool) -> torch.Tensor:
        """Host view of `t` to be filled by the caller; created when absent."""
        cdata, nbytes = _storage_address(t), _storage_nbytes(t)
        if not nbytes:  # not tracked by the device, so nothing may be kept under its identity
            return torch.empty_strided(t.size(), t.stride(), dtype=t.dtype, device="cpu")
        entry = self._table.get(cdata)
        if entry is None:
            host = torch.zeros(nbytes, dtype=torch.uint8, device="cpu").untyped_storage()
        else:
            host = entry[0]
            # Writing a known value over part of an assumed storage leaves the rest assumed.
            if known and not entry[1] and t.numel() * t.element_size() < nbytes:
                known = False
        self._table[cdata] = (host, known)
        return self._alias(t, host)

    def assume(self, t: torch.Tensor) -> None:
        """Give `t` its stated stand-in values: 1 for floats, 0 / False otherwise."""
        if not is_small(t) or t.dtype not in _PLAIN:
            self.forget(t)
            return
        view = self.write(t, False)
        view.fill_(1 if t.dtype.is_floating_point else 0)

    def on_host(self, x: Any) -> tuple[Any, bool]:
        """`x` with every tensor replaced by its host copy, and whether all of them are known."""
        if isinstance(x, torch.Tensor):
            return self.read(x)
        if isinstance(x, (list, tuple)):
            known = True
            out = []
            for item in x:
                value, ok = self.on_host(item)
                out.append(value)
                known = known and ok
            return out, known
        if isinstance(x, torch.device):
            return torch.device("cpu"), True
        return x, True


_PLAIN = frozenset(
    {
        torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64,
        torch.float16, torch.bfloat16, torch.float32, torch.float64,
    }
)  # fmt: skip

# Operations whose result is not a function of their inputs' values.
_RANDOM = (
    "normal", "uniform", "random", "bernoulli", "multinomial", "dropout", "rand", "exponential",
    "geometric", "cauchy", "empty", "log_normal", "poisson",
)  # fmt: skip


def is_random(op_name: str) -> bool:
    return any(part in op_name for part in _RANDOM)


@one_thread()
def compute(
    mirrors: Mirrors,
    op: Callable[..., Any],
    writes: list[tuple[int, str]],
    in_place: bool,
    random: bool,
    overwrites: bool,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    results: list[torch.Tensor],
) -> None:
    """Run `op` on the host copies of its arguments and store what it gives for `results`.

    `writes` lists (position, name) of the arguments that `op` writes; `overwrites` says that it
    does not read them first (fill_, zero_, out=).
    """
    if not random:
        try:
            names = {name for _, name in writes}
            positions = {i for i, name in writes if name not in kwargs}
            known = True
            host_args = []
            for i, a in enumerate(args):
                if overwrites and i in positions and isinstance(a, torch.Tensor):
                    host_args.append(a)  # replaced below, once everything else is known to be readable
                    continue
                value, ok = mirrors.on_host(a)
                host_args.append(value)
                known = known and ok
            host_kwargs = {}
            for name, a in kwargs.items():
                if overwrites and name in names and isinstance(a, torch.Tensor):
                    continue
                value, ok = mirrors.on_host(a)
                host_kwargs[name] = value
                known = known and ok
            if in_place:
                if not all(keeps(t) for t in results):
                    raise Unmirrored
                if overwrites:
                    for i in positions:
                        if isinstance(args[i], torch.Tensor):
                            host_args[i] = mirrors.write(args[i], known)
                    for name in names & kwargs.keys():
                        if isinstance(kwargs[name], torch.Tensor):
                            host_kwargs[name] = mirrors.write(kwargs[name], known)
                else:
                    for t in results:
                        mirrors.write(t, known)
                with torch.no_grad():
                    op(*host_args, **host_kwargs)
                return
            with torch.no_grad():
                out = op(*host_args, **host_kwargs)
            produced = [
                o for o in (out if isinstance(out, (tuple, list)) else (out,)) if isinstance(o, torch.Tensor)
            ]
            for t, value in zip(results, produced, strict=False):
                if t.shape == value.shape and keeps(t):
                    mirrors.write(t, known).copy_(value)
                else:
                    mirrors.assume(t)
            return
        except Unmirrored:
            pass
        except Exception:  # noqa: BLE001 - an op the host cannot compute leaves its result unknown, no more
            pass
    for t in results:
        mirrors.assume(t)
