"""Accelerators as the operating system shows them, without PyTorch and without any vendor's library.

Reads files under /sys and /dev only, so it can neither initialise nor occupy a device.  What it finds is
hardware with a driver; whether PyTorch can use it is another question, which `message` keeps open.
"""

from __future__ import annotations

import platform
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from .na import NA, NotAvailable
from .platform import host_memory
from .readings import number, percent, text
from .snapshot import DeviceSnapshot

if TYPE_CHECKING:
    from .snapshot import Backend, Number

UNASKED = "seen by the operating system; PyTorch has not been asked"


@dataclass(frozen=True, slots=True)
class BackendRow:
    """One row of backends.toml."""

    backend: Backend
    title: str
    module: str
    counter: str
    package: str
    files: tuple[str, ...]
    pci_vendor: str
    pci_devices: tuple[str, ...]
    source: str


@cache
def backend_rows() -> tuple[BackendRow, ...]:
    with (Path(__file__).parent / "backends.toml").open("rb") as file:
        rows = tomllib.load(file)["backend"]
    return tuple(
        BackendRow(
            backend=row["backend"],
            title=row["title"],
            module=row["module"],
            counter=row["counter"],
            package=row["package"],
            files=tuple(row["files"]),
            pci_vendor=row["pci_vendor"],
            pci_devices=tuple(row["pci_devices"]),
            source=row["source"],
        )
        for row in rows
    )


def system_devices(
    root: Path = Path("/"), *, system: str | None = None, machine: str | None = None
) -> tuple[DeviceSnapshot, ...]:
    """Every non-NVIDIA accelerator that files under `root` (and the kind of machine) betray."""
    found = [*_amd(root), *_intel(root), *_apple(system or platform.system(), machine or platform.machine())]
    for row in backend_rows():
        files = [path for pattern in row.files for path in sorted(root.glob(pattern))]
        count = len(files) or len(_pci(root, row))
        found.extend(
            DeviceSnapshot(NA, i, backend=row.backend, name=row.title, message=UNASKED) for i in range(count)
        )
    return tuple(found)


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return ""


def _integer(path: Path) -> int | NotAvailable:
    content = _read(path)
    return int(content) if content.isdigit() else NA


def _pci(root: Path, row: BackendRow) -> list[Path]:
    if not row.pci_vendor:
        return []
    return [
        device
        for device in sorted(root.glob("sys/bus/pci/devices/*"))
        if _read(device / "vendor") == row.pci_vendor
        and (not row.pci_devices or _read(device / "device") in row.pci_devices)
    ]


def _amd(root: Path) -> Iterator[DeviceSnapshot]:
    """GPUs of the kernel's compute driver (amdkfd), whose node order is the order ROCm numbers them in."""
    nodes = sorted(root.glob("sys/class/kfd/kfd/topology/nodes/[0-9]*"), key=lambda p: int(p.name))
    index = 0
    for node in nodes:
        lines = (line.split() for line in _read(node / "properties").splitlines())
        facts = {pair[0]: int(pair[1]) for pair in lines if len(pair) == 2 and pair[1].isdigit()}
        if not facts.get("simd_count"):  # a processor, not a GPU
            continue
        card = root / f"sys/class/drm/renderD{facts.get('drm_render_minor', -1)}/device"
        target = facts.get("gfx_target_version", 0)  # 90010 is gfx90a: 9.0, stepping 0xa
        major, minor, step = target // 10000, target // 100 % 100, target % 100
        product = text(_read(card / "product_name"))
        arch = f"gfx{major}{minor:x}{step:x}" if target else ""
        total = number(_integer(card / "mem_info_vram_total"), low=1)
        used = number(_integer(card / "mem_info_vram_used"))
        unique = facts.get("unique_id")
        yield DeviceSnapshot(
            uuid=f"GPU-{unique:016x}" if unique else NA,
            index=index,
            backend="rocm",
            name=f"{product or 'AMD GPU'} ({arch})" if arch else product or "AMD GPU",
            capability=(major, minor) if target else NA,
            total=total,
            used=used,
            free=_difference(total, used),
            utilization=percent(_integer(card / "gpu_busy_percent")),
            pci_bus_id=card.resolve().name if card.exists() else NA,
            message=UNASKED,
        )
        index += 1


def _difference(total: Number, used: Number) -> Number:
    if isinstance(total, NotAvailable) or isinstance(used, NotAvailable):
        return NA
    return number(total - used)


def _intel(root: Path) -> Iterator[DeviceSnapshot]:
    """Cards of the xe driver, and those of i915 that have memory of their own.

    Every Intel desktop has an i915 display chip that PyTorch's XPU backend does not serve.
    """
    index = 0
    for card in sorted(root.glob("sys/class/drm/card[0-9]*")):
        device = card / "device"
        if "-" in card.name or _read(device / "vendor") != "0x8086":  # card0-HDMI-A-1 is a connector
            continue
        driver = (device / "driver").resolve().name
        memory = number(_integer(card / "lmem_total_bytes"), low=1)
        if driver != "xe" and not memory:
            continue
        yield DeviceSnapshot(
            NA,
            index,
            backend="xpu",
            name="Intel GPU",
            total=memory,
            pci_bus_id=device.resolve().name,
            message=UNASKED,
        )
        index += 1


def _apple(system: str, machine: str) -> Iterator[DeviceSnapshot]:
    if system == "Darwin" and machine == "arm64":
        yield DeviceSnapshot(
            NA, 0, backend="mps", name="Apple GPU", total=host_memory(), unified_memory=True, message=UNASKED
        )
