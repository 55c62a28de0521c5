"""GPUs the package knows, read from gpus.toml, and the forgiving lookup of their names."""

from __future__ import annotations

import difflib
import functools
import re
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hfgpu_magic.errors import UnknownGPUError, UsageError
from hfgpu_magic.units import MiB

from . import context_size
from .na import NA, NotAvailable


@dataclass(frozen=True)
class GPU:
    """One card.  Memory in bytes, bandwidth in bytes/s, rates in dense FLOP/s."""

    name: str
    driver_name: str
    """What `torch.cuda.get_device_name()` says."""
    vendor: str
    architecture: str
    capability: tuple[int, int]
    sm_count: int
    memory_total: int
    """Bytes that torch reports as `total_memory` (Linux)."""
    memory_low: int
    memory_high: int
    """Extremes reported for this card: driver versions, ECC and virtual machines differ."""
    memory_source: str
    memory_nvml: int | NotAvailable
    """Bytes that nvidia-smi prints as the total; `NA` where the card shares the host's memory."""
    bandwidth: float
    rates: dict[str, float]
    """Dense FLOP/s by "fp64", "fp32", "tf32", "fp16", "bf16", "int8", "fp8", "fp4"; absent = no hardware."""
    l2: int
    context: int
    """Bytes a CUDA context of a current torch takes, estimated; `context_low`, `context_high`: the spread."""
    context_low: int
    context_high: int
    context_source: str
    kind: str
    """"laptop", "desktop", "workstation", "datacenter" or "jetson"."""
    lenders: tuple[str, ...]
    aliases: tuple[str, ...]
    source: str

    @property
    def unified(self) -> bool:
        """True where the GPU shares the host's memory."""
        return not self.memory_nvml

    @property
    def threads_per_sm(self) -> int:
        return context_size.THREADS_PER_SM[self.capability]

    @property
    def native_bf16(self) -> bool:
        return "bf16" in self.rates


def gpus() -> tuple[GPU, ...]:
    """All cards of the catalog, oldest architecture first."""
    return _load()


def find_gpu(name: str) -> GPU:
    """The card that `name` means: "t4", "a100 40gb", "RTX 4090", "4090", "NVIDIA GeForce RTX 4090".

    Where several cards fit ("A100"), the one with the smallest memory is meant.
    Raises `UnknownGPUError`, which carries the nearest names.
    """
    found = _lookup(name)
    if found is None:
        raise UnknownGPUError(name, _nearest(name))
    return found


def parse_gpus(spec: str) -> tuple[GPU, int]:
    """A card and how many of it: "T4" -> (T4, 1), "T4x2", "h100x8", "8xH100", "2 x RTX 3090" likewise."""
    # The whole first: "GTX 1060" is not 1060 pieces of a "GT".
    whole = _lookup(spec)
    if whole is not None:
        return whole, 1
    for pattern in (r"(?P<name>.+?)\s*[x×*:]\s*(?P<n>\d+)", r"(?P<n>\d+)\s*[x×*]\s*(?P<name>.+)"):
        match = re.fullmatch(pattern, spec.strip(), re.IGNORECASE)
        if match is None:
            continue
        found = _lookup(match["name"])
        if found is None:
            continue
        count = int(match["n"])
        if count < 1:
            raise UsageError(f"{spec!r} asks for {count} GPUs. Ask for one at least.")
        return found, count
    raise UnknownGPUError(spec, _nearest(spec))


def context_under(gpu: GPU, torch_version: tuple[int, int]) -> int:
    """Bytes of `gpu`'s CUDA context under a (major, minor) of PyTorch.

    Until 1.12 a context held every kernel of PyTorch, which cost some 600 MiB (CUDA 10) to 1.3 GiB
    (CUDA 11) more than today's estimate.  That much is the median over the reports of
    eager_contexts.csv of what exceeds the estimate of the same card; the toolkit is the one its
    wheels came with, CUDA 10 for cards it knows (up to Turing) and 11 for newer ones.
    """
    if torch_version >= context_size.LAZY_LOADING:
        return gpu.context
    cuda = 10 if gpu.capability < (8, 0) else 11
    kernels = [
        seen.context - find_gpu(seen.card).context
        for seen in context_size.eager_observations()
        if seen.cuda == cuda
    ]
    return gpu.context + round(context_size.median(kernels))


# ---------------------------------------------------------------------------------------------- loading


@functools.cache
def _load() -> tuple[GPU, ...]:
    path = Path(__file__).with_name("gpus.toml")
    table = tomllib.loads(path.read_text(encoding="utf-8"))
    rows: list[dict[str, Any]] = table["gpu"]
    for row in rows:
        row["chip_name"] = row["chip"]
        row["chip"] = table["chips"][row["chip_name"]]
    kept = _kept_by_driver(rows)
    law = _context_law(rows)
    return tuple(_card(row, kept, law) for row in rows)


def _context_law(rows: list[dict[str, Any]]) -> context_size.ContextLaw:
    threads = {row["name"]: context_size.resident_threads(_capability(row), row["sm_count"]) for row in rows}
    return context_size.fit([(threads[seen.card], seen.context) for seen in context_size.observations()])


def _capability(row: dict[str, Any]) -> tuple[int, int]:
    major, minor = row["chip"]["capability"]
    return major, minor


def _card(row: dict[str, Any], kept: dict[str, int], law: context_size.ContextLaw) -> GPU:
    chip = row["chip"]
    capability = _capability(row)
    nvml: int | NotAvailable = row["nvml_mib"] * MiB if "nvml_mib" in row else NA
    if "memory_total" in row:
        total = _size(row["memory_total"])
        memory_source = row["memory_source"]
    else:
        assert not isinstance(nvml, NotAvailable)
        family = next(f for f in (row["chip_name"], chip["architecture"], "any") if f in kept)
        total = nvml - kept[family]
        reserve = f"{kept[family] // MiB} MiB, the driver's median share on {family} cards"
        memory_source = f"derived: nvidia-smi's total less {reserve}"
    others = [total, *(_size(s) for s in row.get("memory_seen", ()))]
    clock = row["boost_mhz"] * 1e6
    tensor_clock = row.get("tensor_mhz", row["boost_mhz"]) * 1e6
    rates = {
        dtype: row["sm_count"] * flops * (clock if dtype in ("fp32", "fp64") else tensor_clock)
        for dtype, flops in chip["flops"].items()
    }
    context = law.size(capability, row["sm_count"])
    return GPU(
        name=row["name"],
        driver_name=row["driver_name"],
        vendor="NVIDIA",
        architecture=chip["architecture"],
        capability=capability,
        sm_count=row["sm_count"],
        memory_total=total,
        memory_low=min(others),
        memory_high=max(others),
        memory_source=memory_source,
        memory_nvml=nvml,
        bandwidth=row["bandwidth_gbs"] * 1e9,
        rates=rates,
        l2=round(row["l2_mib"] * MiB),
        context=context,
        context_low=round(context * law.low),
        context_high=round(context * law.high),
        context_source=f"line through {law.reports} out-of-memory messages, their 10th to 90th percentile",
        kind=row["kind"],
        lenders=tuple(row.get("lenders", ())),
        aliases=tuple(row.get("aliases", ())),
        source=row["source"],
    )


def _size(value: int | str) -> int:
    return value if isinstance(value, int) else context_size.parse_size(value)


def _kept_by_driver(rows: list[dict[str, Any]]) -> dict[str, int]:
    """Bytes of nvidia-smi's total that torch does not see: median by chip, by architecture, and of "any"."""
    kept: dict[str, list[int]] = {}
    for row in rows:
        if "nvml_mib" in row and "memory_total" in row:
            difference = row["nvml_mib"] * MiB - _size(row["memory_total"])
            for family in (row["chip_name"], row["chip"]["architecture"], "any"):
                kept.setdefault(family, []).append(difference)
    # To whole MiB, the grain of both figures.
    return {family: round(context_size.median(values) / MiB) * MiB for family, values in kept.items()}


# ---------------------------------------------------------------------------------------------- names

_MAKERS = re.compile("nvidia|geforce|tesla|quadro|graphics")
_FILLERS = {"gpu", "card", "generation", "edition"}
_SERIES = {"rtx", "gtx"}


def _words(name: str) -> list[str]:
    """`"NVIDIA GeForce RTX4090"` -> `["rtx", "4090"]`: makers dropped, series split off its number."""
    text = _MAKERS.sub(" ", name.lower())
    text = re.sub(r"\b(rtx|gtx|titan)(?=[a-z]?\d)", r"\1 ", text)
    text = re.sub(r"(\d)\s+(gb|gib)\b", r"\1gb", text)
    return [w for w in re.findall(r"[a-z0-9]+", text) if w not in _FILLERS]


def _squash(words: list[str]) -> str:
    return "".join(words)


@functools.cache
def _index() -> tuple[dict[str, GPU], list[tuple[frozenset[str], GPU]]]:
    exact: dict[str, GPU] = {}
    cards = gpus()
    # Own names outrank aliases, aliases driver names (two cards can share one); bare numbers come last.
    for names in (
        lambda g: (g.name,),
        lambda g: g.aliases,
        lambda g: (g.driver_name,),
    ):
        for card in cards:
            for name in names(card):
                exact.setdefault(_squash(_words(name)), card)
    for card in cards:
        for name in (card.name, *card.aliases):
            bare = _squash([w for w in _words(name) if w not in _SERIES])
            exact.setdefault(bare, card)
    words = [
        (frozenset(w for name in (c.name, c.driver_name, *c.aliases) for w in _words(name)), c)
        for c in sorted(cards, key=lambda c: c.memory_total)
    ]
    return exact, words


def _lookup(name: str) -> GPU | None:
    exact, by_words = _index()
    words = _words(name)
    if not words:
        return None
    for key in (_squash(words), _squash([w for w in words if w not in _SERIES])):
        if key in exact:
            return exact[key]
    asked = set(words)
    for known, card in by_words:
        if asked <= known:
            return card
    return None


def _nearest(name: str, n: int = 4) -> tuple[str, ...]:
    exact, _ = _index()
    squashed = _squash(_words(name))
    keys = [k for k in exact if squashed and squashed in k]
    keys += difflib.get_close_matches(squashed, exact, n=4 * n, cutoff=0.5)
    return tuple(dict.fromkeys(exact[k].name for k in keys))[:n]
