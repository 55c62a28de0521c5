"""PyTorch's backends besides CUDA, asked without initialising any of them.

A backend that this process has already initialised answers in full.  One that is idle is asked only how
many devices it has, by the counter that its row in backends.toml names as harmless; names and memory then
come from the operating system or stay NA.  `torch` is always a parameter: this module never imports it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from .na import NA, NotAvailable
from .platform import host_memory
from .readings import number, text
from .snapshot import DeviceSnapshot
from .system import UNASKED, backend_rows

if TYPE_CHECKING:
    from .snapshot import Backend, Text, Version


def torch_devices(torch: Any) -> tuple[tuple[DeviceSnapshot, ...], tuple[str, ...]]:
    """The devices that `torch` itself can tell of now, and one sentence for each backend that failed."""
    found: list[DeviceSnapshot] = []
    problems: list[str] = []

    def add(backend: str, title: str, ask: Callable[..., list[DeviceSnapshot]], *args: Any) -> None:
        try:
            found.extend(ask(*args))
        except Exception as error:  # noqa: BLE001 - a vendor's plugin may raise anything; the others still count
            said = str(error).strip().splitlines()
            detail = said[0] if said else type(error).__name__
            problems.append(f"torch.{backend} could not list its devices ({title}): {detail}")

    if getattr(getattr(torch, "version", None), "hip", None):
        add("rocm", "AMD GPU", _initialised, torch.cuda, "rocm")
    add("mps", "Apple GPU", _mps, torch)
    for row in backend_rows():
        module = getattr(torch, row.module, None) if row.module else None
        if module is not None:
            add(row.backend, row.title, _ask, module, row.backend, row.counter)
    return tuple(found), tuple(problems)


def _ask(module: Any, backend: Backend, counter: str) -> list[DeviceSnapshot]:
    if _is_initialised(module):
        return _initialised(module, backend)
    count = getattr(module, counter, None)
    devices = number(count() if callable(count) else NA, high=4096)  # a negative count is "cannot tell"
    if isinstance(devices, NotAvailable):
        return []
    return [DeviceSnapshot(NA, i, i, backend) for i in range(devices)]


def _is_initialised(module: Any) -> bool:
    asked = getattr(module, "is_initialized", None)
    return bool(asked()) if callable(asked) else False


def _initialised(module: Any, backend: Backend) -> list[DeviceSnapshot]:
    """Full answers, from a backend the user's own code has started; nothing otherwise."""
    if not _is_initialised(module):
        return []
    found = []
    for i in range(module.device_count()):
        properties = module.get_device_properties(i)
        total = number(getattr(properties, "total_memory", NA), low=1)
        free = number(module.mem_get_info(i)[0]) if hasattr(module, "mem_get_info") else NA
        used: int | NotAvailable = NA
        if not isinstance(total, NotAvailable) and not isinstance(free, NotAvailable):
            used = total - free
        found.append(
            DeviceSnapshot(
                uuid=_uuid(properties),
                index=i,
                cuda_index=i,
                backend=backend,
                name=text(getattr(properties, "name", NA)),
                capability=_capability(properties),
                total=total,
                free=free,
                used=used,
                sm_count=number(getattr(properties, "multi_processor_count", NA), low=1),
            )
        )
    return found


def _uuid(properties: Any) -> Text:
    uuid = getattr(properties, "uuid", None)
    return NA if uuid is None else text(f"GPU-{str(uuid).removeprefix('GPU-')}")


def _capability(properties: Any) -> Version:
    major, minor = getattr(properties, "major", NA), getattr(properties, "minor", NA)
    return (major, minor) if isinstance(major, int) and isinstance(minor, int) else NA


def _mps(torch: Any) -> list[DeviceSnapshot]:
    mps = getattr(getattr(torch, "backends", None), "mps", None)
    if mps is None or not mps.is_available():
        return []
    return [
        DeviceSnapshot(NA, 0, 0, backend="mps", name="Apple GPU", total=host_memory(), unified_memory=True)
    ]


def merge(
    told: Sequence[DeviceSnapshot],
    seen: Sequence[DeviceSnapshot],
    *,
    torch_asked: bool,
    installed: Callable[[str], Text],
) -> tuple[DeviceSnapshot, ...]:
    """One list out of what torch told and what the operating system shows.

    Devices are matched by backend and position.  One that only the system shows keeps a message saying
    what is missing: the vendor's package, or a PyTorch build that serves it.
    """
    packages = {row.backend: row.package for row in backend_rows()}
    merged: list[DeviceSnapshot] = []
    left = {(d.backend, d.index): d for d in seen}
    for device in told:
        hardware = left.pop((device.backend, device.index), None)
        merged.append(device if hardware is None else _fill(device, hardware))
    counted = {d.backend for d in told}
    for device in left.values():
        if device.backend in counted:
            # Hidden from this process by the vendor's own variable (ZE_AFFINITY_MASK, ...).
            merged.append(replace(device, message="not visible to this process's PyTorch"))
            continue
        package = packages.get(device.backend, "")
        if package and not installed(package):
            message = f"PyTorch needs the package {package} for it, which is not installed"
        elif torch_asked:
            message = "the PyTorch in this process does not offer it"
        else:
            message = UNASKED
        merged.append(replace(device, message=message))
    return tuple(merged)


def _fill(device: DeviceSnapshot, hardware: DeviceSnapshot) -> DeviceSnapshot:
    """`device` with the system's reading wherever torch gave none."""
    known = {
        name: getattr(hardware, name)
        for name in DeviceSnapshot.__slots__
        if isinstance(getattr(device, name), NotAvailable)
    }
    return replace(device, **known)
