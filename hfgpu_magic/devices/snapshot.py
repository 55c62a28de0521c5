"""One reading of the devices, frozen.

These records hold what was true at one moment and nothing that can change afterwards: no handle, no
driver session, no torch object.  Memory is in bytes, power in watts, clocks in MHz, temperature in
degrees Celsius, utilisation in percent.  Whatever a driver does not tell is `NA`, never 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from .na import NA, NotAvailable

Text: TypeAlias = str | NotAvailable
Number: TypeAlias = int | NotAvailable
Flag: TypeAlias = bool | NotAvailable
Version: TypeAlias = tuple[int, int] | NotAvailable

Backend: TypeAlias = Literal[
    "cuda", "rocm", "xpu", "npu", "mlu", "musa", "hpu", "mps", "xla", "neuron", "virtual"
]
DriverState: TypeAlias = Literal[
    "ok", "no_library", "not_loaded", "mismatch", "no_permission", "gpu_lost", "error"
]
DeviceState: TypeAlias = Literal["ok", "lost", "no_permission", "error"]


@dataclass(frozen=True, slots=True)
class ProcessInfo:
    """A process that holds a context on a device.

    `name` is whatever the process calls itself, so it is untrusted text: escape it before showing it
    in html.  `used_memory` is bytes; `NA` under WSL2 and in most containers.
    """

    pid: int
    name: Text = NA
    used_memory: Number = NA
    kind: Literal["compute", "graphics"] = "compute"


@dataclass(frozen=True, slots=True)
class DeviceSnapshot:
    """One device.  The key is `uuid`: `index` (NVML order) and `cuda_index` differ on mixed machines."""

    uuid: Text
    index: int
    """Position in the driver's own (NVML: PCI bus) order; a MIG instance has its parent's."""
    cuda_index: int | None = None
    """Position this process would see (`cuda:N`), None when hidden or unusable."""
    backend: Backend = "cuda"
    state: DeviceState = "ok"
    message: str = ""
    """What the driver said when `state` is not "ok"."""
    name: Text = NA
    capability: Version = NA
    total: Number = NA
    """Bytes the driver shows as total; CUDA programs see a little less."""
    used: Number = NA
    """Bytes used by processes, without `reserved`."""
    free: Number = NA
    reserved: Number = NA
    """Bytes the driver and firmware keep for themselves."""
    unified_memory: Flag = NA
    """True when the device has no memory of its own and shares the host's (Jetson, GB10, Apple)."""
    utilization: Number = NA
    memory_utilization: Number = NA
    temperature: Number = NA
    power: float | NotAvailable = NA
    power_limit: float | NotAvailable = NA
    sm_clock: Number = NA
    memory_clock: Number = NA
    throttle_reasons: tuple[str, ...] | NotAvailable = NA
    """Why the clocks are held back now; empty when nothing holds them."""
    ecc: Flag = NA
    persistence: Flag = NA
    display_active: Flag = NA
    compute_mode: Text = NA
    """"default", "exclusive process" or "prohibited"."""
    mig_enabled: Flag = NA
    mig_parent: str | None = None
    """UUID of the physical GPU this MIG instance is cut from, None for a physical GPU."""
    mig_instance: tuple[int, int] | None = None
    """(GPU instance id, compute instance id) of a MIG instance."""
    pci_bus_id: Text = NA
    sm_count: Number = NA
    """Streaming multiprocessors; NVML tells only for MIG instances."""
    cores: Number = NA
    """CUDA cores; with `max_sm_clock` a guess at which card CUDA calls the fastest."""
    max_sm_clock: Number = NA
    processes: tuple[ProcessInfo, ...] | NotAvailable = NA


@dataclass(frozen=True, slots=True)
class DriverInfo:
    """What NVML said when it was opened.  `state` "no_library" is a machine without NVIDIA driver."""

    state: DriverState
    version: Text = NA
    cuda: Version = NA
    """Newest CUDA the driver's API serves, (major, minor): 12.4 is (12, 4)."""
    message: str = ""
    """The driver's own words when `state` is not "ok"."""
    nvml_package: Text = NA
    """Version of the installed `nvidia-ml-py` distribution."""


@dataclass(frozen=True, slots=True)
class Inventory:
    """Every device found, and what stood in the way of finding more.

    `problems` are one-sentence findings for people: a malformed CUDA_VISIBLE_DEVICES, a clashing
    `pynvml` distribution, a lost GPU, an order that could not be told.
    """

    driver: DriverInfo
    devices: tuple[DeviceSnapshot, ...] = ()
    problems: tuple[str, ...] = ()

    @property
    def visible(self) -> tuple[DeviceSnapshot, ...]:
        """The devices this process can use, in the order it would number them."""
        seen = [d for d in self.devices if d.cuda_index is not None]
        return tuple(sorted(seen, key=lambda d: (d.backend, d.cuda_index or 0)))
