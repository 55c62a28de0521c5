"""Device memory against the task: is there enough, and who has it now?"""

from __future__ import annotations

import os

from ...devices.na import NotAvailable
from ...devices.snapshot import DeviceSnapshot
from ...units import MiB, format_bytes
from ..facts import Facts
from ..rule import Check, Topic
from ..tables import table
from .devices import name

#: A card sold as "8 GB" shows a few percent less: firmware, ECC and page tables come off first
#: (a 16 GB T4 offers 15.8e9 bytes to CUDA).
_NOMINAL = 0.95
#: Share of a card that others may hold before it is worth a warning.
_TAKEN = 0.25
#: Cards and processes spelled out before "and N more".
_SHOWN = 4
#: Below this the driver's own bookkeeping is all there is.
_WORTH_NAMING = 512 * MiB


def _billions(parameters: float) -> str:
    billions = parameters / 1e9
    return f"{billions:.0f} B" if billions >= 20 else f"{billions:.1f} B"


def _reach(total: int, methods: list[str]) -> str:
    """How many parameters fill the card, by method."""
    rows = {row["key"]: row for row in table("tasks")["method"]}
    return "; ".join(
        f"{rows[k]['label']} {_billions(total / rows[k]['bytes_per_parameter'])}" for k in methods
    )


def _per_kind(devices: tuple[DeviceSnapshot, ...]) -> list[tuple[DeviceSnapshot, int]]:
    kinds: dict[tuple[object, object], list[DeviceSnapshot]] = {}
    for device in devices:
        kinds.setdefault((device.name, device.total), []).append(device)
    return [(same[0], len(same)) for same in kinds.values()]


def total(facts: Facts) -> list[Check]:
    profile = table("profiles")[facts.profile]
    floor: int = profile["memory_floor"]
    checks = []
    for device, count in _per_kind(facts.usable):
        many = f" each ({count} cards)" if count > 1 else ""
        ident = "memory.total" if device.cuda_index in (0, None) else f"memory.total.{device.cuda_index}"
        title = f"Memory of {name(device)}"
        if isinstance(device.total, NotAvailable):
            checks.append(
                Topic(ident, title, format_bytes(floor), profile["memory_source"]).skip(
                    "the driver does not tell", "cannot be judged"
                )
            )
            continue
        enough = device.total >= floor * _NOMINAL
        shared = ", shared with the host" if device.unified_memory is True else ""
        checks.append(
            Topic(
                ident,
                title,
                f"{floor / 1e9:.0f} GB for {profile['title']}",
                profile["memory_source"] + "; bytes per parameter in tasks.toml",
            ).verdict(
                "pass" if enough else "warn",
                f"{format_bytes(device.total)}{many}{shared}",
                (
                    "largest models whose weights, gradients and optimizer alone fill it: "
                    f"{_reach(device.total, profile['methods'])}. "
                    "Activations, KV cache and the CUDA context come on top"
                ),
                (
                    None
                    if enough
                    else "# 4-bit weights (QLoRA) or a smaller model; or try a larger card:\n"
                    "hfgpu run --gpu T4 your_script.py"
                ),
            )
        )
    return checks


def free(facts: Facts) -> list[Check]:
    """One check for all cards: the ones that others hold, or how much is free."""
    told = [(d, *sizes) for d in facts.usable if (sizes := _taken(d)) is not None]
    if not told:
        return []
    topic = Topic(
        "memory.free",
        "Free memory",
        f"at least {1 - _TAKEN:.0%} of the card",
        "NVML device memory and running processes",
    )
    why = "what other processes hold (another notebook's kernel, most often) is missing here"
    held = [(d, taken) for d, taken, total in told if taken > _TAKEN * total]
    lines = [_free_line(d, taken) for d, taken in held or [(d, taken) for d, taken, _ in told]]
    found = "; ".join(lines[:_SHOWN]) + (f"; and {len(lines) - _SHOWN} more" if len(lines) > _SHOWN else "")
    if not held:
        return [topic.ok(found, why)]
    fix = "nvidia-smi\n# then shut down that notebook's kernel, or end the process if it is yours"
    return [topic.warn(found, why, fix)]


def _taken(device: DeviceSnapshot) -> tuple[int, int] | None:
    """Bytes in use by processes, and in total; None where the driver does not tell."""
    total, free, reserved = device.total, device.free, device.reserved
    if isinstance(total, NotAvailable) or isinstance(free, NotAvailable) or total <= 0:
        return None
    return total - free - (0 if isinstance(reserved, NotAvailable) else reserved), total


def _free_line(device: DeviceSnapshot, taken: int) -> str:
    where = f"cuda:{device.cuda_index} " if device.cuda_index is not None else ""
    line = f"{where}{format_bytes(device.free)} of {format_bytes(device.total)} free"
    if taken < _WORTH_NAMING:
        return line
    holders = _holders(device)
    return f"{line}, held by {holders}" if holders else f"{line}, the driver does not tell who holds it"


def _holders(device: DeviceSnapshot) -> str:
    if isinstance(device.processes, NotAvailable):
        return ""
    named = []
    for process in device.processes:
        size = (
            "" if isinstance(process.used_memory, NotAvailable) else f" {format_bytes(process.used_memory)}"
        )
        me = " (this process)" if process.pid == os.getpid() else ""
        name = "a process" if isinstance(process.name, NotAvailable) else process.name
        named.append(f"{name} [{process.pid}]{size}{me}")
    return ", ".join(named[:_SHOWN]) + (f" and {len(named) - _SHOWN} more" if len(named) > _SHOWN else "")


RULES = (total, free)
