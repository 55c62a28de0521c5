"""How much of a card the CUDA context takes, worked out from out-of-memory messages.

PyTorch's message says how much the process holds on the device, how much of that the allocator has
handed out and how much it keeps in reserve.  The remainder is memory the allocator never saw: the
context itself, the code of the kernels loaded so far, and what libraries took on their own.
`contexts.csv` holds such messages, one a row; `torch` there is what the wording tells of the version.

The remainder turns out to be a straight line in the number of threads the card can hold at once
(multiprocessors x threads each): the driver reserves stack and state for every one of them, whatever
the program does.  The line is found here, from the rows, by medians (Theil and Sen), so that a
message from a process with another library's memory in it cannot bend it.
"""

from __future__ import annotations

import csv
import functools
import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hfgpu_magic.units import GiB, KiB, MiB

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
class ContextLaw:
    """context = base + per_thread x resident threads, in bytes; `low` and `high` scale it to the spread."""

    base: float
    per_thread: float
    low: float
    high: float
    reports: int

    def size(self, capability: tuple[int, int], sm_count: int) -> int:
        return round(self.base + self.per_thread * resident_threads(capability, sm_count))


def parse_size(text: str) -> int:
    """`"264.21 MiB"` -> bytes."""
    match = re.fullmatch(r"\s*([\d.]+)\s*(GiB|MiB|KiB|bytes)\s*", text)
    if match is None:
        raise ValueError(f"not a size as PyTorch prints it: {text!r}")
    return round(float(match[1]) * _UNITS[match[2]])


@functools.cache
def observations() -> tuple[ContextObservation, ...]:
    """The rows of contexts.csv."""
    path = Path(__file__).with_name("contexts.csv")
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


LAZY_LOADING = (1, 13)
"""The first PyTorch that loads kernels when they are first used (pull request 86509); before, all at once."""


@dataclass(frozen=True)
class EagerObservation:
    """A process that held next to nothing, under a PyTorch that loaded every kernel at the start; bytes."""

    card: str
    cuda: int
    """Major version of the CUDA toolkit that PyTorch was built with."""
    torch: str
    in_use: int
    reserved: int
    source: str

    @property
    def context(self) -> int:
        return self.in_use - self.reserved


@functools.cache
def eager_observations() -> tuple[EagerObservation, ...]:
    """The rows of eager_contexts.csv."""
    path = Path(__file__).with_name("eager_contexts.csv")
    return tuple(
        EagerObservation(
            row["card"],
            int(row["cuda"]),
            row["torch"],
            parse_size(row["in_use"]),
            parse_size(row["reserved"]),
            row["source"],
        )
        for row in csv.DictReader(path.read_text(encoding="utf-8").splitlines())
    )


def resident_threads(capability: tuple[int, int], sm_count: int) -> int:
    """Threads the card can hold at once."""
    return sm_count * THREADS_PER_SM[capability]


def fit(points: Sequence[tuple[int, int]]) -> ContextLaw:
    """The law behind `points` of (resident threads, bytes of context)."""
    slopes = [(y2 - y1) / (x2 - x1) for (x1, y1), (x2, y2) in itertools.combinations(points, 2) if x1 != x2]
    per_thread = median(slopes)
    base = median([y - per_thread * x for x, y in points])
    ratios = [y / (base + per_thread * x) for x, y in points]
    return ContextLaw(base, per_thread, quantile(ratios, 0.1), quantile(ratios, 0.9), len(points))


# Not from `statistics`: importing it costs more than reading the whole catalog.
def median(values: Sequence[float]) -> float:
    return quantile(values, 0.5)


def quantile(values: Sequence[float], q: float) -> float:
    """The `q`-quantile, straight lines between the sorted values."""
    ordered = sorted(values)
    position = q * (len(ordered) - 1)
    below = int(position)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (position - below)
