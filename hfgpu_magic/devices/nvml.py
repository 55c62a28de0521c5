"""NVIDIA's management library, read through `nvidia-ml-py` (module `pynvml`).

NVML never creates a CUDA context, so it can be asked in any process at any time.  A `Session` opens it,
`Session.query` is the one place where what a driver refuses becomes `NA`, and leaving the session closes
it: nothing lingers between two readings.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import replace
from types import ModuleType, TracebackType
from typing import Any, Literal, Self

from .binding import clashing_packages, nvml_package_version
from .na import NA, NotAvailable
from .platform import host_memory, kernel_module_version
from .readings import Readings, flag, megahertz, number, percent, text, watts
from .snapshot import DeviceSnapshot, DeviceState, DriverInfo, DriverState, ProcessInfo, Version

# nvmlReturn_t, from nvml.h.  Numbers, because an old binding lacks the newer exception classes.
_INIT_STATES: dict[int, DriverState] = {
    12: "no_library",  # LIBRARY_NOT_FOUND
    9: "not_loaded",  # DRIVER_NOT_LOADED
    18: "mismatch",  # LIB_RM_VERSION_MISMATCH
    4: "no_permission",
    15: "gpu_lost",  # GPU_IS_LOST
}
_DEVICE_STATES: dict[int, DeviceState] = {15: "lost", 16: "error", 4: "no_permission"}

_MEMORY_V2 = 0x02000028  # NVML_STRUCT_VERSION(Memory, 2): size 40, version 2
_COMPUTE_MODES = {0: "default", 1: "exclusive thread", 2: "prohibited", 3: "exclusive process"}

# nvmlClocksEventReason*, from nvml.h.  Idle (0x1) is left out: it explains a low clock, it is no fault.
_CLOCK_REASONS = {
    0x2: "application clocks setting",
    0x4: "power cap",
    0x8: "hardware slowdown",
    0x10: "sync boost",
    0x20: "software thermal slowdown",
    0x40: "hardware thermal slowdown",
    0x80: "power brake",
    0x100: "display clock setting",
}

# Capabilities that only exist as a system-on-chip whose GPU shares the host's memory: Jetson TX1, TX2,
# Xavier, Orin, Thor (renumbered from 10.1 to 11.0 by CUDA 13), and GB10.
# Source: developer.nvidia.com/cuda/gpus and the legacy list beside it.
_INTEGRATED = {(5, 3), (6, 2), (7, 2), (8, 7), (10, 1), (11, 0), (12, 1)}


class Session:
    """An open NVML, as a context manager; `driver` says how opening went.

    With a driver state other than "ok" the session is empty: `devices()` returns ().
    """

    def __init__(self) -> None:
        self.driver = DriverInfo("no_library")
        self.problems: list[str] = []
        self._module: ModuleType | None = None
        self._error: type[BaseException] = RuntimeError
        self._failures: list[tuple[int, str]] = []

    def __enter__(self) -> Self:
        self.driver = self._open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._module is not None:
            self.query("nvmlShutdown")
            self._module = None

    # ---- the one place where errors are swallowed ------------------------------------------------

    def query(self, function: str, *args: Any, default: Any = NA, **kwargs: Any) -> Any:
        """What `pynvml.<function>(*args)` returns, or `default` when driver or binding refuses.

        Text comes back undecoded (bytes): the binding's own decoding is strict, and a process name is
        whatever bytes its owner chose.
        """
        try:
            call: Callable[..., Any] = getattr(self._module, function)
            return getattr(call, "__wrapped__", call)(*args, **kwargs)
        except self._error as error:
            self._failures.append((_code(error), str(error)))
        except (AttributeError, TypeError, ValueError, OSError) as error:
            # An old or foreign binding: no such function, other arguments, other struct.
            self._failures.append((0, str(error)))
        return default

    def _first(self, *calls: tuple[Any, ...]) -> Any:
        """The answer of the first call that gives one: newest name first, then what old drivers know."""
        for function, *args in calls:
            answer = self.query(function, *args)
            if answer is not NA:
                return answer
        return NA

    # ---- opening ------------------------------------------------------------------------------------

    def _open(self) -> DriverInfo:
        package = nvml_package_version()
        try:
            module = importlib.import_module("pynvml")
        except Exception as error:  # noqa: BLE001 - a clashing Python 2 file of that name is a SyntaxError
            state = "cannot be imported" if package else "is missing"
            self.problems.append(
                f"The Python package nvidia-ml-py {state}, so NVIDIA GPUs cannot be listed: "
                "pip install --force-reinstall nvidia-ml-py"
            )
            return DriverInfo("error", message=f"cannot import pynvml: {error}", nvml_package=package)
        self._module = module
        self._error = getattr(module, "NVMLError", RuntimeError)
        self.problems.extend(clashing_packages(module))

        opened = self.query("nvmlInit", default=self)  # nvmlInit itself returns None
        if opened is self:
            code, said = self._failures[-1]
            verdict = _INIT_STATES.get(code, "error")
            message = self._mismatch(said) if verdict == "mismatch" else said
            self._module = None
            return DriverInfo(verdict, message=message, nvml_package=package)
        return DriverInfo(
            "ok",
            version=text(self.query("nvmlSystemGetDriverVersion")),
            cuda=_cuda_version(
                self._first(("nvmlSystemGetCudaDriverVersion_v2",), ("nvmlSystemGetCudaDriverVersion",))
            ),
            nvml_package=package,
        )

    def _mismatch(self, said: str) -> str:
        library = text(self.query("nvmlSystemGetNVMLVersion"))  # answers without nvmlInit
        # "12.570.133.07": the CUDA major, then the driver that the library belongs to.
        library = library.split(".", 1)[-1] if isinstance(library, str) else NA
        kernel = kernel_module_version()
        known = [f"library {library}" if library else "", f"kernel module {kernel}" if kernel else ""]
        detail = ", ".join(k for k in known if k)
        return f"{said} ({detail})" if detail else said

    # ---- devices --------------------------------------------------------------------------------------

    def devices(self) -> tuple[DeviceSnapshot, ...]:
        """Every GPU in NVML's order, each MIG instance right after the GPU it is cut from."""
        if self._module is None:
            return ()
        found: list[DeviceSnapshot] = []
        count = number(self.query("nvmlDeviceGetCount"), high=1024)
        if isinstance(count, NotAvailable):
            self.problems.append(f"The driver does not say how many GPUs there are: {self._failures[-1][1]}.")
            return ()
        for index in range(count):
            self._failures.clear()
            handle = self.query("nvmlDeviceGetHandleByIndex", index)
            if handle is NA:
                code, said = self._failures[-1]
                found.append(DeviceSnapshot(NA, index, state=_DEVICE_STATES.get(code, "error"), message=said))
                continue
            card = self._read(handle, index)
            found.append(card)
            if card.mig_enabled:
                found.extend(self._instances(handle, card))
        lost = sum(d.state == "lost" for d in found)
        if lost:
            self.driver = replace(self.driver, state="gpu_lost", message=f"{lost} of {count} GPUs lost")
        return tuple(found)

    def _read(self, handle: Any, index: int, parent: DeviceSnapshot | None = None) -> DeviceSnapshot:
        q = self.query
        readings = Readings(
            self._first(("nvmlDeviceGetMemoryInfo", handle, _MEMORY_V2), ("nvmlDeviceGetMemoryInfo", handle))
        )
        capability = _capability(q("nvmlDeviceGetCudaComputeCapability", handle))
        if parent is not None and capability is NA:
            capability = parent.capability
        unified = capability in _INTEGRATED if capability else NA
        total = readings.total
        if unified and not total:
            total = host_memory()  # NVML does not report memory that is the host's
        utilization = q("nvmlDeviceGetUtilizationRates", handle)
        mig = q("nvmlDeviceGetMigMode", handle, default=(NA,))
        compute_mode = q("nvmlDeviceGetComputeMode", handle)
        snapshot = DeviceSnapshot(
            uuid=text(q("nvmlDeviceGetUUID", handle)),
            index=index,
            name=text(q("nvmlDeviceGetName", handle)),
            capability=capability,
            total=total,
            used=readings.used,
            free=readings.free,
            reserved=readings.reserved,
            unified_memory=unified,
            utilization=percent(getattr(utilization, "gpu", NA)),
            memory_utilization=percent(getattr(utilization, "memory", NA)),
            temperature=number(
                self._first(
                    ("nvmlDeviceGetTemperatureV", handle, 0), ("nvmlDeviceGetTemperature", handle, 0)
                ),
                high=200,
            ),
            power=watts(q("nvmlDeviceGetPowerUsage", handle)),
            power_limit=watts(q("nvmlDeviceGetEnforcedPowerLimit", handle)),
            sm_clock=megahertz(q("nvmlDeviceGetClockInfo", handle, 1)),
            memory_clock=megahertz(q("nvmlDeviceGetClockInfo", handle, 2)),
            max_sm_clock=megahertz(q("nvmlDeviceGetMaxClockInfo", handle, 1)),
            throttle_reasons=_reasons(
                self._first(
                    ("nvmlDeviceGetCurrentClocksEventReasons", handle),
                    ("nvmlDeviceGetCurrentClocksThrottleReasons", handle),
                )
            ),
            ecc=flag(q("nvmlDeviceGetEccMode", handle, default=(NA,))[0]),
            persistence=flag(q("nvmlDeviceGetPersistenceMode", handle)),
            display_active=flag(q("nvmlDeviceGetDisplayActive", handle)),
            compute_mode=_COMPUTE_MODES.get(compute_mode, NA),
            mig_enabled=flag(mig[0]) if parent is None else NA,
            mig_parent=None if parent is None else str(parent.uuid),
            mig_instance=None if parent is None else self._mig_instance(handle),
            pci_bus_id=parent.pci_bus_id if parent else text(self._bus_id(handle)),
            sm_count=number(self._sm_count(handle) if parent else NA, low=1, high=4096),
            cores=number(q("nvmlDeviceGetNumGpuCores", handle), low=1, high=10**7),
            processes=self._processes(handle),
        )
        return self._with_verdict(snapshot)

    def _with_verdict(self, snapshot: DeviceSnapshot) -> DeviceSnapshot:
        """Marks a card whose calls failed because the card is gone, not because it lacks a feature."""
        for code, said in self._failures:
            if code in (15, 16):
                return replace(snapshot, state=_DEVICE_STATES[code], message=said)
        return snapshot

    def _bus_id(self, handle: Any) -> Any:
        info = self.query("nvmlDeviceGetPciInfo", handle)
        # The binding's structs decode their text on access, strictly; the bytes are behind that.
        try:
            return object.__getattribute__(info, "busId")
        except AttributeError:
            return NA

    def _processes(self, handle: Any) -> tuple[ProcessInfo, ...] | NotAvailable:
        compute: Any = self._first(
            ("nvmlDeviceGetComputeRunningProcesses_v3", handle),
            ("nvmlDeviceGetComputeRunningProcesses_v2", handle),
            ("nvmlDeviceGetComputeRunningProcesses", handle),
        )
        graphics = self._first(
            ("nvmlDeviceGetGraphicsRunningProcesses_v3", handle),
            ("nvmlDeviceGetGraphicsRunningProcesses_v2", handle),
            ("nvmlDeviceGetGraphicsRunningProcesses", handle),
        )
        if isinstance(compute, NotAvailable) and isinstance(graphics, NotAvailable):
            return NA
        return (
            *(self._process(entry, "compute") for entry in compute or ()),
            *(self._process(entry, "graphics") for entry in graphics or ()),
        )

    def _process(self, entry: Any, kind: Literal["compute", "graphics"]) -> ProcessInfo:
        name = text(self.query("nvmlSystemGetProcessName", entry.pid))
        used = number(NA if entry.usedGpuMemory is None else entry.usedGpuMemory)
        return ProcessInfo(int(entry.pid), name, used, kind)

    # ---- MIG ------------------------------------------------------------------------------------------

    def _instances(self, handle: Any, card: DeviceSnapshot) -> list[DeviceSnapshot]:
        found: list[DeviceSnapshot] = []
        slots = number(self.query("nvmlDeviceGetMaxMigDeviceCount", handle), high=64)
        for slot in range(0 if isinstance(slots, NotAvailable) else slots):
            self._failures.clear()
            child = self.query("nvmlDeviceGetMigDeviceHandleByIndex", handle, slot)
            if child is not NA:  # an empty slot is NOT_FOUND
                found.append(self._read(child, card.index, card))
        return found

    def _mig_instance(self, handle: Any) -> tuple[int, int] | None:
        gpu = number(self.query("nvmlDeviceGetGpuInstanceId", handle))
        compute = number(self.query("nvmlDeviceGetComputeInstanceId", handle))
        if isinstance(gpu, NotAvailable) or isinstance(compute, NotAvailable):
            return None
        return gpu, compute

    def _sm_count(self, handle: Any) -> Any:
        return getattr(self.query("nvmlDeviceGetAttributes_v2", handle), "multiprocessorCount", NA)


def _code(error: BaseException) -> int:
    code = getattr(error, "value", 999)
    return code if isinstance(code, int) else 999


def _cuda_version(packed: Any) -> Version:
    """12040 -> (12, 4)."""
    value = number(packed, low=1000, high=10**6)
    return NA if isinstance(value, NotAvailable) else (value // 1000, value % 1000 // 10)


def _capability(pair: Any) -> Version:
    if isinstance(pair, NotAvailable):
        return NA
    major, minor = number(pair[0], low=1, high=99), number(pair[1], high=99)
    if isinstance(major, NotAvailable) or isinstance(minor, NotAvailable):
        return NA
    return major, minor


def _reasons(bits: Any) -> tuple[str, ...] | NotAvailable:
    value = number(bits, high=2**32)
    if isinstance(value, NotAvailable):
        return NA
    return tuple(name for bit, name in _CLOCK_REASONS.items() if value & bit)
