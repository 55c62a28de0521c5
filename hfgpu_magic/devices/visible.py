"""Which devices CUDA_VISIBLE_DEVICES leaves to this process, and in what order.

CUDA's rules (CUDA programming guide, "CUDA environment variables", and torch.cuda's own re-reading of
them): entries are ordinals in CUDA's order, or GPU UUIDs that may be cut short, or MIG ids; the first
invalid entry ends the list; a device named twice leaves no device at all; one process gets a single MIG
instance and then no whole GPU beside it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .na import NotAvailable

if TYPE_CHECKING:
    from .snapshot import DeviceSnapshot, Text

_ORDINAL = re.compile(r"\s*([+-]?\d+)(.*)", re.DOTALL)
_LEGACY_MIG = re.compile(r"MIG-(GPU-[^/]+)/(\d+)/(\d+)")


@dataclass(frozen=True, slots=True)
class Visible:
    """The devices this process would see as cuda:0, cuda:1, ..."""

    devices: tuple[DeviceSnapshot, ...]
    problem: str | None = None
    """What is wrong with the variable, naming the entry; None when CUDA takes it as it stands."""
    uncertain: bool = False
    """True when unlike cards under FASTEST_FIRST make the order a guess."""
    notes: tuple[str, ...] = ()
    """What follows from the rules and surprises people, without being a mistake."""

    @property
    def order(self) -> tuple[Text, ...]:
        """UUIDs in CUDA's order."""
        return tuple(d.uuid for d in self.devices)


def _speed(card: DeviceSnapshot) -> tuple[float, tuple[int, int], int]:
    cores = 0 if isinstance(card.cores, NotAvailable) else card.cores
    clock = 0 if isinstance(card.max_sm_clock, NotAvailable) else card.max_sm_clock
    capability = (0, 0) if isinstance(card.capability, NotAvailable) else card.capability
    total = 0 if isinstance(card.total, NotAvailable) else card.total
    return cores * clock, capability, total


def cuda_order(
    devices: Sequence[DeviceSnapshot], order: str | None = None, *, backend: str = "cuda"
) -> tuple[tuple[DeviceSnapshot, ...], bool]:
    """Whole, working GPUs in the order CUDA numbers them, and whether that order is a guess.

    `order` is CUDA_DEVICE_ORDER: PCI_BUS_ID is NVML's order; anything else means FASTEST_FIRST, for
    which NVIDIA publishes no formula.  Cards of one kind keep the bus order; unlike cards are ranked by
    cores x clock, and the answer is then marked as a guess.
    """
    cards = [d for d in devices if d.backend == backend and d.mig_parent is None and d.state == "ok"]
    cards.sort(key=lambda d: d.index)
    if order == "PCI_BUS_ID" or backend != "cuda":
        return tuple(cards), False
    kinds = {(str(d.name), d.capability, d.total) for d in cards}
    return tuple(sorted(cards, key=_speed, reverse=True)), len(kinds) > 1


def parse_visible(
    value: str | None,
    devices: Sequence[DeviceSnapshot],
    *,
    order: str | None = None,
    variable: str = "CUDA_VISIBLE_DEVICES",
    backend: str = "cuda",
) -> Visible:
    """What CUDA makes of `value` on a machine with these devices.

    `value` None is "not set": all devices.  "" and "-1" hide all of them on purpose.  `order` is the
    value of CUDA_DEVICE_ORDER.  AMD's variables follow the same rules with `backend` "rocm", whose
    devices always keep the driver's order.
    """
    cards, guess = cuda_order(devices, order, backend=backend)
    reader = _Reader(value or "", cards, devices, variable)
    if value is None:
        chosen = list(cards)
    else:
        chosen = reader.read()
        guess = guess and reader.used_ordinals
    shown, notes = _single_mig_instance(chosen, devices)
    return Visible(shown, reader.problem, guess, notes)


class _Reader:
    """One pass over the variable's entries; stops where CUDA stops and remembers why."""

    def __init__(
        self, value: str, cards: Sequence[DeviceSnapshot], devices: Sequence[DeviceSnapshot], variable: str
    ) -> None:
        self.value = value
        self.cards = cards
        self.instances = [d for d in devices if d.mig_parent is not None and d.state == "ok"]
        self.variable = variable
        self.problem: str | None = None
        self.used_ordinals = False

    def read(self) -> list[DeviceSnapshot]:
        chosen: list[DeviceSnapshot] = []
        entries = self.value.split(",")
        # The first entry decides: a list that begins with UUIDs is a list of UUIDs.
        kind = next((k for k in ("GPU-", "MIG-") if self.value.strip().startswith(k)), "")
        for place, raw in enumerate(entries, 1):
            entry = raw.strip()
            rest = any(e.strip() for e in entries[place:])
            where = f"entry {place}, {entry!r}," if len(entries) > 1 else f"{entry!r}"
            tail = "; CUDA ignores it and everything after it" if rest else "; CUDA ignores it"
            if not entry or (entry == "-1" and not rest):
                if rest:
                    self._complain(f"entry {place} is empty{tail}")
                break
            device = self._find(entry, kind, where, tail)
            if device is None:
                if not self.cards:
                    self._misspelt(entries[place:], place + 1)
                break
            if device in chosen:
                self._complain(f"{where} names {_short(device)} a second time; CUDA then shows no device")
                return []
            chosen.append(device)
        return chosen

    def _misspelt(self, entries: Sequence[str], first: int) -> None:
        """With no card to find, what can never name one is still worth a word."""
        for place, raw in enumerate(entries, first):
            entry = raw.strip()
            if entry and not entry.startswith(("GPU-", "MIG-")) and not entry.lstrip("+-").isdigit():
                self._complain(f"entry {place}, {entry!r}, is neither a number nor a GPU-... or MIG-... id")

    def _complain(self, what: str) -> None:
        if self.problem is None:
            self.problem = f"{self.variable}={self.value!r}: {what}."

    def _find(self, entry: str, kind: str, where: str, tail: str) -> DeviceSnapshot | None:
        if kind and not entry.startswith(kind):
            self._complain(f"{where} is not a {kind}... id like the entries before it{tail}")
            return None
        if kind == "GPU-":
            return self._by_uuid(entry, where, tail)
        if kind == "MIG-":
            return self._by_mig_id(entry, where, tail)
        return self._by_ordinal(entry, where, tail)

    def _by_ordinal(self, entry: str, where: str, tail: str) -> DeviceSnapshot | None:
        found = _ORDINAL.match(entry)
        if found is None:
            hint = " (the quotes are part of the value)" if entry[0] in "'\"" else ""
            self._complain(f"{where} is neither a number nor a GPU-... or MIG-... id{hint}{tail}")
            return None
        ordinal = int(found[1])
        if ordinal < 0:
            self._complain(f"{where} ends the list{tail}")
            return None
        if ordinal >= len(self.cards):
            # With no GPU at all the missing GPU is the finding, not the number.
            if self.cards:
                last = len(self.cards) - 1
                there = f"GPUs 0 to {last}" if last else "only GPU 0"
                self._complain(f"{where} is out of range, this machine has {there}{tail}")
            return None
        if found[2].strip():
            self._complain(f"{where} is read by CUDA as {ordinal}, {found[2].strip()!r} is dropped")
        self.used_ordinals = True
        return self.cards[ordinal]

    def _by_uuid(self, entry: str, where: str, tail: str) -> DeviceSnapshot | None:
        fits = [d for d in self.cards if str(d.uuid).startswith(entry)]
        if len(fits) == 1:
            return fits[0]
        if fits:
            self._complain(f"{where} fits {len(fits)} GPUs, give more of the UUID{tail}")
        elif self.cards:
            self._complain(f"{where} is the UUID of no GPU here{tail}")
        return None

    def _by_mig_id(self, entry: str, where: str, tail: str) -> DeviceSnapshot | None:
        legacy = _LEGACY_MIG.fullmatch(entry)
        for device in self.instances:
            if device.uuid == entry:
                return device
            place = (int(legacy[2]), int(legacy[3])) if legacy else None
            if legacy and device.mig_parent == legacy[1] and device.mig_instance == place:
                return device
        if self.instances:
            self._complain(f"{where} is the id of no MIG instance here (MIG ids cannot be cut short){tail}")
        elif self.cards:
            self._complain(f"{where} names a MIG instance, and no GPU here has one{tail}")
        return None


def _single_mig_instance(
    chosen: Sequence[DeviceSnapshot], devices: Sequence[DeviceSnapshot]
) -> tuple[tuple[DeviceSnapshot, ...], tuple[str, ...]]:
    """Replaces GPUs in MIG mode by their instances, then applies "one instance, nothing beside it"."""
    expanded: list[DeviceSnapshot] = []
    notes: list[str] = []
    for device in chosen:
        if device.mig_enabled:
            parts = [d for d in devices if d.mig_parent == device.uuid and d.state == "ok"]
            expanded.extend(parts)
            if not parts:
                notes.append(f"{_short(device)} is in MIG mode and has no instance, so CUDA cannot use it.")
        else:
            expanded.append(device)
    instances = [d for d in expanded if d.mig_parent is not None]
    if instances and len(expanded) > 1:
        whole = len(expanded) - len(instances)
        hidden = [f"{len(instances) - 1} other MIG instance(s)" if len(instances) > 1 else ""]
        hidden.append(f"{whole} whole GPU(s)" if whole else "")
        notes.append(
            f"CUDA gives one process a single MIG instance, here {instances[0].uuid}; it hides "
            f"{' and '.join(h for h in hidden if h)}. Choose with CUDA_VISIBLE_DEVICES."
        )
    return tuple(instances[:1] or expanded), tuple(notes)


def _short(device: DeviceSnapshot) -> str:
    return f"GPU {device.index} ({device.name})"


def match_uuids(uuids: Sequence[str], devices: Sequence[DeviceSnapshot]) -> tuple[DeviceSnapshot, ...] | None:
    """The devices behind UUIDs that CUDA itself listed, in that order; None if one is not among them.

    CUDA's bindings print a UUID with or without its "GPU-" or "MIG-", so only the digits are compared.
    """
    known: Mapping[str, DeviceSnapshot] = {_digits(str(d.uuid)): d for d in devices if d.uuid}
    found = [known.get(_digits(u)) for u in uuids]
    return None if None in found else tuple(d for d in found if d is not None)


def _digits(uuid: str) -> str:
    return uuid.removeprefix("GPU-").removeprefix("MIG-").replace("-", "").lower()
