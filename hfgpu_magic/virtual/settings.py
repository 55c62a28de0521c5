"""PyTorch's allocator settings: `PYTORCH_CUDA_ALLOC_CONF` and `PYTORCH_ALLOC_CONF`.

The grammar, the limits and the wording of the errors are those of torch 2.13, whose generic parser
(`AcceleratorAllocatorConfig`) can be called without a GPU; the tests compare the two.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from ..errors import UsageError

MiB = 1 << 20
MIN_BLOCK = 512
#: Read as "no limit", PyTorch's numeric_limits<size_t>::max().
UNLIMITED = (1 << 64) - 1

#: `roundup_power2_divisions` has one entry per interval [1, 2), [2, 4), ... MiB up to 64 GiB.
ROUNDUP_INTERVALS = 16

#: The variables in the order the CUDA allocator looks for them; the first one set wins.
VARIABLES = ("PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_ALLOC_CONF")


class AllocatorSettingsError(UsageError, ValueError):
    """A setting PyTorch would refuse, in PyTorch's words.  Also a ValueError, as there."""


@dataclass(frozen=True)
class AllocatorSettings:
    """What the allocator does differently from its defaults.  Sizes in bytes."""

    expandable_segments: bool = False
    max_split_size: int = UNLIMITED
    max_non_split_rounding: int = 20 * MiB
    large_segment_size: int = 20 * MiB
    garbage_collection_threshold: float = 0.0
    roundup_power2_divisions: tuple[int, ...] = (0,) * ROUNDUP_INTERVALS
    per_process_memory_fraction: float = 1.0
    throw_on_cudamalloc_oom: bool = False
    backend: str = "native"
    #: The text the settings were read from, "" for the defaults.
    text: str = ""
    #: What the model cannot follow, in sentences for the user.
    notes: tuple[str, ...] = ()
    #: Settings that concern pinned host memory or locking, kept as text: they move no device byte.
    ignored: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def from_environ(cls, environ: Mapping[str, str]) -> AllocatorSettings:
        """The settings a CUDA build of PyTorch would take from these environment variables."""
        for name in VARIABLES:
            if name in environ:
                return cls.parse(environ[name])
        return cls()

    @classmethod
    def parse(cls, text: str, base: AllocatorSettings | None = None) -> AllocatorSettings:
        """`text` as `torch.cuda.memory._set_allocator_settings` takes it.

        As there, settings not named keep the values of `base`, except that max_split_size,
        max_non_split_rounding, garbage_collection_threshold and the roundup table start afresh.
        """
        return _Parser(text, base or cls()).settings

    def divisions_for(self, nbytes: int) -> int:
        """The entry of `roundup_power2_divisions` for a request of `nbytes`."""
        log = nbytes.bit_length() - 1
        index = min(max(log - 20, 0), ROUNDUP_INTERVALS - 1)  # 20: the table starts at 1 MiB
        return self.roundup_power2_divisions[index]

    def round_size(self, nbytes: int) -> int:
        """Bytes a request of `nbytes` (> 0) takes out of a block."""
        if nbytes < MIN_BLOCK:
            return MIN_BLOCK
        divisions = self.divisions_for(nbytes)
        if divisions > 1 and nbytes > MIN_BLOCK * divisions:
            if nbytes & (nbytes - 1) == 0:
                return nbytes
            floor = 1 << (nbytes.bit_length() - 1)
            step = floor >> (divisions.bit_length() - 1)
            if step == 0:
                return floor << 1
            return -(-nbytes // step) * step
        return -(-nbytes // MIN_BLOCK) * MIN_BLOCK


class _Parser:
    """One reading of a settings text.

    As in PyTorch two parsers go over it, the one of all accelerators and then CUDA's, each skipping what
    belongs to the other; separators are stepped over, not checked.
    """

    def __init__(self, text: str, base: AllocatorSettings) -> None:
        self.tokens: list[str] = re.findall(r"[,:\[\]]|[^,:\[\]]+", "".join(text.split()))
        self.at = 0
        self.base = base
        self.values: dict[str, Any] = {}
        self.ignored = dict(base.ignored)
        generic: dict[str, Callable[[], None]] = {
            "large_segment_size_mb": self._large_segment,
            "max_split_size_mb": lambda: self._megabytes("max_split_size"),
            "max_non_split_rounding_mb": lambda: self._megabytes("max_non_split_rounding"),
            "garbage_collection_threshold": self._garbage_collection,
            "roundup_power2_divisions": self._roundup,
            "expandable_segments": lambda: self._set("expandable_segments", self._bool()),
            "pinned_use_background_threads": lambda: self._ignore(self._bool()),
            "pinned_max_round_threshold_mb": lambda: self._ignore(self._size()),
            "pinned_max_cached_size_mb": lambda: self._ignore(self._size()),
        }
        of_cuda: dict[str, Callable[[], None]] = {
            "backend": self._backend,
            "per_process_memory_fraction": self._fraction,
            "throw_on_cudamalloc_oom": lambda: self._set("throw_on_cudamalloc_oom", self._bool()),
            "release_lock_on_cudamalloc": lambda: self._ignore(self._bool()),
            "release_lock_on_hipmalloc": lambda: self._ignore(self._bool()),
            "pinned_use_cuda_host_register": lambda: self._ignore(self._bool()),
            "pinned_use_hip_host_register": lambda: self._ignore(self._bool()),
            "pinned_num_register_threads": self._register_threads,
            "pinned_reserve_segment_size_mb": self._reserve_segment,
            "pinned_free_catch_all": lambda: self._ignore(self._bool()),
            "graph_capture_record_stream_reuse": lambda: self._ignore(self._bool()),
        }
        self._set("max_split_size", UNLIMITED)
        self._set("garbage_collection_threshold", 0.0)
        self._set("roundup_power2_divisions", (0,) * ROUNDUP_INTERVALS)
        self._pass(generic, set())
        self.values.setdefault(
            "max_non_split_rounding", self.values.get("large_segment_size", base.large_segment_size)
        )
        self._pass(of_cuda, set(generic))
        notes = list(base.notes)
        if self.values.get("backend") == "cudaMallocAsync":
            notes.append(
                "backend:cudaMallocAsync is not modelled: reserved memory and fragmentation are those of "
                "PyTorch's own allocator."
            )
        self.settings = replace(base, text=text, ignored=self.ignored, notes=tuple(notes), **self.values)

    def _pass(self, readers: Mapping[str, Callable[[], None]], others: set[str]) -> None:
        self.at = 0
        while self.at < len(self.tokens):
            self.key = self.tokens[self.at]
            if self.key in readers:
                self.at += 2  # the key and the colon
                readers[self.key]()
            elif others and self.key not in others:
                raise AllocatorSettingsError(f"Unrecognized key '{self.key}' in CUDA allocator config.")
            else:
                self.at += 2
                if self._token() == "[":
                    while self._token() != "]":
                        self.at += 1
            self.at += 2  # the value and the comma

    def _token(self) -> str:
        if self.at >= len(self.tokens):
            raise AllocatorSettingsError(
                f"Index out of bounds in ConfigTokenizer: the setting {self.tokens[-1]!r} has no end."
            )
        return self.tokens[self.at]

    def _set(self, name: str, value: object) -> None:
        self.values[name] = value

    def _ignore(self, value: object) -> None:
        self.ignored[self.key] = str(value)

    def _bool(self) -> bool:
        word = self._token()
        if word not in ("True", "False"):
            raise AllocatorSettingsError(
                f"Expected 'True' or 'False' at index {self.at} in ConfigTokenizer but got '{word}'"
            )
        return word == "True"

    def _size(self) -> int:
        """An unsigned number as C's stoull reads it: leading digits count, a minus sign wraps."""
        found = re.match(r"[+-]?\d+", self._token())
        if found is None or abs(int(found[0])) > UNLIMITED:
            raise AllocatorSettingsError("stoull")
        return int(found[0]) & UNLIMITED

    def _float(self) -> float:
        found = re.match(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", self._token())
        if found is None:
            raise AllocatorSettingsError("stod")
        return float(found[0])

    def _large_segment(self) -> None:
        value = self._size()
        if value <= 10:
            raise AllocatorSettingsError("CachingAllocator option large_segment_size_mb must be > 10 MB")
        self._set("large_segment_size", min(value, UNLIMITED // MiB) * MiB)

    def _megabytes(self, name: str) -> None:
        value = self._size()
        least = self.values.get("large_segment_size", self.base.large_segment_size) // MiB
        if value < least:
            raise AllocatorSettingsError(f"CachingAllocator option {self.key} too small, must be >= {least}")
        self._set(name, min(value, UNLIMITED // MiB) * MiB)

    def _garbage_collection(self) -> None:
        value = self._float()
        if not 0 < value < 1:
            raise AllocatorSettingsError("garbage_collect_threshold is invalid, set it in (0.0, 1.0)")
        self._set("garbage_collection_threshold", value)

    def _fraction(self) -> None:
        value = self._float()
        if not 0 <= value <= 1:
            raise AllocatorSettingsError("per_process_memory_fraction is invalid, set it in [0.0, 1.0]")
        self._set("per_process_memory_fraction", value)

    def _backend(self) -> None:
        token = self._token()
        if token not in ("native", "cudaMallocAsync"):
            raise AllocatorSettingsError("Unknown allocator backend, options are native and cudaMallocAsync")
        self._set("backend", token)

    def _register_threads(self) -> None:
        value = self._size()
        if not _power_of_two(value):
            raise AllocatorSettingsError(f"Number of register threads has to be power of 2, got {value}")
        if value > 128:
            raise AllocatorSettingsError(
                f"Number of register threads should be less than or equal to 128, got {value}"
            )
        self._ignore(value)

    def _reserve_segment(self) -> None:
        if self._size() == 0:
            raise AllocatorSettingsError("Pinned reserve segment size has to be greater than 0")
        self._ignore(self._size())

    def _roundup(self) -> None:
        if self._token() != "[":  # one value for every size, the older form
            value = self._size()
            if not _power_of_two(value):
                raise AllocatorSettingsError("For roundups, the divisions has to be power of 2 ")
            self._set("roundup_power2_divisions", (value,) * ROUNDUP_INTERVALS)
            return
        table = list(self.values["roundup_power2_divisions"])
        first, last = True, 0
        self.at += 1
        while self._token() != "]":
            start = self._token()
            self.at += 2
            divisions = self._size()
            if divisions and not _power_of_two(divisions):
                raise AllocatorSettingsError(
                    "For roundups, the divisions has to be power of 2 or 0 to disable roundup "
                )
            if start == ">":  # every interval above the last one named
                table[last + 1 :] = [divisions] * (ROUNDUP_INTERVALS - last - 1)
            else:
                value_at, self.at = self.at, self.at - 2
                interval = self._size()
                self.at = value_at
                if not _power_of_two(interval):
                    raise AllocatorSettingsError("For roundups, the intervals have to be power of 2 ")
                index = min(interval.bit_length() - 1, ROUNDUP_INTERVALS - 1)
                if first:
                    table[:index] = [divisions] * index
                    first = False
                table[index] = divisions
                last = index
            self.at += 1
            if self._token() != "]":
                self.at += 1  # the comma
        self._set("roundup_power2_divisions", tuple(table))


def _power_of_two(value: int) -> bool:
    return value > 0 and value & (value - 1) == 0
