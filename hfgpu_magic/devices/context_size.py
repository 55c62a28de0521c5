"""How much of a card the CUDA context takes, worked out from out-of-memory messages.

PyTorch's message says how much the process holds on the device, how much of that the allocator has
handed out and how much it keeps in reserve.  The remainder is memory the allocator never saw: the
context itself, the code of the kernels loaded so far, and what libraries took on their own.
`contexts.csv` holds such messages, one a row.

What a context is made of, mostly, is the stack ("local memory") that the driver reserves for every
thread that can be resident: 1 KiB by default for each of sm_count x threads-per-SM threads.  So a card
is estimated as that product plus the remainder that the observed cards show: no number per card.
"""

from __future__ import annotations

import csv
import functools
import importlib.resources
import re
import statistics
from dataclasses import dataclass

from hfgpu_magic.units import GiB, KiB, MiB

STACK_PER_THREAD = KiB
"""Bytes of local memory reserved for each resident thread: the default of `cudaLimitStackSize`."""

THREADS_PER_SM: dict[tuple[int, int], int] = {
    (6, 0): 2048, (6, 1): 2048, (7, 0): 2048, (7, 5): 1024, (8, 0): 2048, (8, 6): 1536, (8, 7): 1536,
    (8, 9): 1536, (9, 0): 2048, (10, 0): 2048, (10, 3): 2048, (11, 0): 1536, (12, 0): 1536, (12, 1): 1536,
}  # fmt: skip
"""Resident threads per multiprocessor (CUDA C++ Programming Guide, technical specifications)."""

_UNITS = {"GiB": GiB, "MiB": MiB, "KiB": KiB, "bytes": 1}


@dataclass(frozen=True)
class ContextObservation:
    """One out-of-memory message, in bytes (as far as its rounding tells)."""

    card: str
    torch: str
    in_use: int
    allocated: int
    reserved_unallocated: int
    source: str

    @property
    def context(self) -> int:
        return self.in_use - self.allocated - self.reserved_unallocated


@dataclass(frozen=True)
class ContextEstimate:
    """Bytes; `low` and `high` are the extremes seen, `source` says from what."""

    size: int
    low: int
    high: int
    source: str


def parse_size(text: str) -> int:
    """`"264.21 MiB"` -> bytes."""
    match = re.fullmatch(r"\s*([\d.]+)\s*(GiB|MiB|KiB|bytes)\s*", text)
    if match is None:
        raise ValueError(f"not a size as PyTorch prints it: {text!r}")
    return round(float(match[1]) * _UNITS[match[2]])


@functools.cache
def observations() -> tuple[ContextObservation, ...]:
    """The rows of contexts.csv."""
    path = importlib.resources.files(__package__) / "contexts.csv"
    rows = csv.DictReader(path.read_text(encoding="utf-8").splitlines())
    return tuple(
        ContextObservation(
            row["card"],
            row["torch"],
            parse_size(row["in_use"]),
            parse_size(row["allocated"]),
            parse_size(row["reserved_unallocated"]),
            row["source"],
        )
        for row in rows
    )


def stack_reservation(capability: tuple[int, int], sm_count: int) -> int:
    """Bytes of stack for all threads the card can hold at once."""
    return sm_count * THREADS_PER_SM[capability] * STACK_PER_THREAD


def estimate(capability: tuple[int, int], sm_count: int, seen: list[tuple[int, int, str]]) -> ContextEstimate:
    """Context of a card, from `seen` rows of (context, stack reservation, architecture)."""
    stack = stack_reservation(capability, sm_count)
    rest = [context - own_stack for context, own_stack, _ in seen]
    return ContextEstimate(
        stack + round(statistics.median(rest)),
        stack + min(rest),
        stack + max(rest),
        f"stack of all resident threads + median remainder of {len(rest)} reports",
    )
