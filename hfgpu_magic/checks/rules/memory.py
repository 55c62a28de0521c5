"""Device memory against the task: is there enough, and who has it now?"""

from __future__ import annotations

import os

from ...devices.na import NotAvailable
from ...devices.snapshot import DeviceSnapshot
from ...units import GiB, format_bytes
from ..facts import Facts
from ..rule import Check, Status, Topic
from ..tables import table

#: A card sold as "8 GB" shows a few percent less: firmware, ECC and page tables come off first
#: (a 16 GB T4 offers 15.8e9 bytes to CUDA).
_NOMINAL = 0.95
#: Share of a card that others may hold before it is worth a warning.
_TAKEN = 0.25


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
        title = f"Memory of {device.name}"
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
                    else "4-bit weights (QLoRA), a smaller model, or try a larger card: "
                    "hfgpu run --gpu T4 your_script.py"
                ),
            )
        )
    return checks


def free(facts: Facts) -> list[Check]:
    checks = []
    for device in facts.usable:
        if (
            isinstance(device.total, NotAvailable)
            or isinstance(device.free, NotAvailable)
            or device.total <= 0
        ):
            continue
        taken = device.total - device.free
        if not isinstance(device.reserved, NotAvailable):
            taken -= device.reserved
        holders = _holders(device)
        status: Status = "warn" if taken > _TAKEN * device.total else "pass"
        found = f"{format_bytes(device.free)} of {format_bytes(device.total)} free"
        if taken > 0.05 * GiB:
            found += f"; held by {holders}" if holders else "; the driver does not tell by whom"
        checks.append(
            Topic(
                f"memory.free.{device.cuda_index or 0}",
                f"Free memory of {device.name}",
                f"at least {1 - _TAKEN:.0%} free",
                "NVML device memory and running processes",
            ).verdict(
                status,
                found,
                "what other processes hold (another notebook's kernel, most often) is missing here",
                None
                if status == "pass"
                else "shut down the other kernel, or: nvidia-smi, then end the process you own",
            )
        )
    return checks


def _holders(device: DeviceSnapshot) -> str:
    if isinstance(device.processes, NotAvailable):
        return ""
    named = []
    for process in device.processes:
        size = (
            "" if isinstance(process.used_memory, NotAvailable) else f" {format_bytes(process.used_memory)}"
        )
        me = " (this process)" if process.pid == os.getpid() else ""
        named.append(f"{process.name} [{process.pid}]{size}{me}")
    return ", ".join(named[:4]) + (f" and {len(named) - 4} more" if len(named) > 4 else "")


RULES = (total, free)
