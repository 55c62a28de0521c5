"""Everything that can be told about the devices of this process, in one call.

Joins NVML, PyTorch's other backends, the operating system and CUDA_VISIBLE_DEVICES.  Never initialises
CUDA in this process, and imports torch only with `deep=True`.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from .backends import merge, torch_devices
from .binding import installed_version
from .libcuda import visible_uuids
from .nvml import Session
from .platform import is_wsl
from .snapshot import DeviceSnapshot, DriverInfo, Inventory
from .system import system_devices
from .visible import match_uuids, parse_visible

_WSL_LIBRARY = Path("/usr/lib/wsl/lib/libnvidia-ml.so.1")


def inventory(
    *, deep: bool = False, environ: Mapping[str, str] = os.environ, root: Path = Path("/")
) -> Inventory:
    """All devices as they are now, each with its position in this process if it has one.

    `deep` also imports torch and, where unlike NVIDIA cards make their order a guess, asks CUDA in a
    child process.  `root` is where /sys and /dev are looked for.
    """
    with Session() as nvml:
        nvidia = nvml.devices()
        driver = nvml.driver  # after devices(): a lost card changes the verdict
        problems = list(nvml.problems)
    problems.extend(_card_problems(nvidia))
    torch = _torch(deep, problems)
    nvidia, found = _with_cuda_index(nvidia, torch, environ, deep=deep)
    problems.extend(found)
    told, failed = torch_devices(torch) if torch is not None else ((), ())
    seen, found = _with_rocm_index(system_devices(root), environ)
    problems.extend((*failed, *found, *_hints(driver, environ)))
    others = merge(told, seen, torch_asked=torch is not None, installed=installed_version)
    return Inventory(driver, (*nvidia, *others), tuple(dict.fromkeys(problems)))


def _torch(deep: bool, problems: list[str]) -> Any:
    if not deep:
        module = sys.modules.get("torch")
        # A torch whose import failed, or is still under way in another thread, has no `version` yet.
        return module if hasattr(module, "version") else None
    try:
        return importlib.import_module("torch")
    except ModuleNotFoundError:
        return None
    except Exception as error:  # noqa: BLE001 - a broken installation fails in its own ways
        problems.append(f"import torch fails: {str(error).strip() or type(error).__name__}")
        return None


def _card_problems(devices: Sequence[DeviceSnapshot]) -> Iterable[str]:
    for device in devices:
        if device.state == "lost":
            yield (
                f"GPU {device.index} is lost: the driver no longer reaches it. Check dmesg for Xid errors; "
                "it comes back after a reset or a reboot."
            )
        elif device.state == "no_permission":
            yield f"GPU {device.index} may not be read by this account ({device.message})."
        elif device.state == "error":
            yield f"GPU {device.index} does not answer: {device.message}."


# ---- numbering ------------------------------------------------------------------------------------


def _with_cuda_index(
    devices: tuple[DeviceSnapshot, ...], torch: Any, environ: Mapping[str, str], *, deep: bool
) -> tuple[tuple[DeviceSnapshot, ...], list[str]]:
    """The devices with their `cuda_index`, from the best witness there is."""
    read = parse_visible(environ.get("CUDA_VISIBLE_DEVICES"), devices, order=environ.get("CUDA_DEVICE_ORDER"))
    problems = [*([read.problem] if read.problem else []), *read.notes]
    order: tuple[DeviceSnapshot, ...] | None = _order_of_running_cuda(torch, devices)
    if order is None and deep and devices:
        answer = visible_uuids(environ)
        if isinstance(answer, str):
            problems.append(f"CUDA could not be asked for its devices: {answer}.")
        else:
            order = match_uuids(answer, devices)
            if read.devices and not answer:
                problems.append(
                    f"CUDA itself finds no device, although the driver lists {len(read.devices)} that "
                    "this process should see."
                )
    if order is None:
        order = read.devices
        if read.uncertain:
            problems.append(
                "The cards differ, so which of them is cuda:0 is an estimate (fastest first). "
                "CUDA_DEVICE_ORDER=PCI_BUS_ID makes CUDA number them as nvidia-smi does."
            )
    return _number(devices, order), problems


def _order_of_running_cuda(
    torch: Any, devices: Sequence[DeviceSnapshot]
) -> tuple[DeviceSnapshot, ...] | None:
    """What torch sees, if CUDA already runs in this process; the calls below then start nothing."""
    cuda = getattr(torch, "cuda", None)
    if cuda is None or not devices or not cuda.is_initialized():
        return None
    try:
        uuids = [str(cuda.get_device_properties(i).uuid) for i in range(cuda.device_count())]
    except (AttributeError, RuntimeError, AssertionError):  # torch before 2.4 has no uuid
        return None
    return match_uuids(uuids, devices)


def _number(devices: Sequence[DeviceSnapshot], order: Sequence[DeviceSnapshot]) -> tuple[DeviceSnapshot, ...]:
    # By identity, not by UUID: a driver that withholds the UUID still has an order.
    position = {id(device): i for i, device in enumerate(order)}
    return tuple(replace(d, cuda_index=position.get(id(d))) for d in devices)


def _with_rocm_index(
    devices: tuple[DeviceSnapshot, ...], environ: Mapping[str, str]
) -> tuple[tuple[DeviceSnapshot, ...], list[str]]:
    """AMD's two filters, one after the other: the runtime's, then HIP's (or CUDA's name for it)."""
    rocm = [d for d in devices if d.backend == "rocm"]
    if not rocm:
        return devices, []
    runtime = parse_visible(
        environ.get("ROCR_VISIBLE_DEVICES"), rocm, variable="ROCR_VISIBLE_DEVICES", backend="rocm"
    )
    # The second filter counts only what the first has left.
    left = [replace(d, index=i) for i, d in enumerate(runtime.devices)]
    variable = "HIP_VISIBLE_DEVICES" if "HIP_VISIBLE_DEVICES" in environ else "CUDA_VISIBLE_DEVICES"
    hip = parse_visible(environ.get(variable), left, variable=variable, backend="rocm")
    original = {id(renumbered): device for renumbered, device in zip(left, runtime.devices, strict=True)}
    order = [original[id(d)] for d in hip.devices]
    numbered = iter(_number(rocm, order))
    problems = [p for p in (runtime.problem, hip.problem) if p]
    return tuple(next(numbered) if d.backend == "rocm" else d for d in devices), problems


def _hints(driver: DriverInfo, environ: Mapping[str, str]) -> Iterable[str]:
    if driver.state == "no_library" and is_wsl(environ) and _WSL_LIBRARY.exists():
        yield (
            f"WSL2 has the NVIDIA library at {_WSL_LIBRARY.parent}, and this process does not find it: "
            f"export LD_LIBRARY_PATH={_WSL_LIBRARY.parent}:$LD_LIBRARY_PATH"
        )
