"""PyTorch's other backends, with stand-ins that fail the test when they are initialised."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from hfgpu_magic.devices.backends import merge, torch_devices
from hfgpu_magic.devices.na import NA
from hfgpu_magic.devices.snapshot import DeviceSnapshot
from hfgpu_magic.devices.system import UNASKED, backend_rows

GiB = 1 << 30


def idle(devices: int, counter: str = "device_count") -> SimpleNamespace:
    """A backend nobody has used yet: it may be counted, and nothing else."""

    def started(*_: object) -> None:
        raise AssertionError("the backend was initialised")

    names = ("get_device_properties", "get_device_name", "mem_get_info", "current_device", "init")
    module = SimpleNamespace(is_initialized=lambda: False, **dict.fromkeys(names, started))
    module.is_available = started
    module.device_count = started
    setattr(module, counter, lambda: devices)
    return module


def running(*names: str, total: int = 64 * GiB, free: int = 48 * GiB) -> SimpleNamespace:
    """A backend the user's own code has started."""
    return SimpleNamespace(
        is_initialized=lambda: True,
        device_count=lambda: len(names),
        get_device_properties=lambda i: SimpleNamespace(
            name=names[i], total_memory=total, major=9, minor=4, multi_processor_count=304, uuid=f"{i:032x}"
        ),
        mem_get_info=lambda i: (free, total),
    )


def torch(hip: str | None = None, *, mps: bool = False, **modules: Any) -> SimpleNamespace:
    """A torch whose CUDA module must not be touched unless it says that it runs."""
    modules.setdefault("cuda", idle(0))
    return SimpleNamespace(
        version=SimpleNamespace(hip=hip, cuda=None),
        backends=SimpleNamespace(mps=SimpleNamespace(is_available=lambda: mps)),
        **modules,
    )


ASKED = [row for row in backend_rows() if row.module]


@pytest.mark.parametrize("row", ASKED, ids=lambda r: r.backend)
def test_an_idle_backend_is_counted_without_being_started(row: Any) -> None:
    devices, problems = torch_devices(torch(**{row.module: idle(2, row.counter)}))
    assert [(d.backend, d.index, d.cuda_index, d.name) for d in devices] == [
        (row.backend, 0, 0, NA),
        (row.backend, 1, 1, NA),
    ]
    assert problems == ()


@pytest.mark.parametrize("row", ASKED, ids=lambda r: r.backend)
def test_a_running_backend_answers_in_full(row: Any) -> None:
    (device,), problems = torch_devices(torch(**{row.module: running("Accelerator X")}))
    assert (device.backend, device.name, device.total, device.free, device.used) == (
        row.backend, "Accelerator X", 64 * GiB, 48 * GiB, 16 * GiB,
    )  # fmt: skip
    assert device.uuid == "GPU-00000000000000000000000000000000"
    assert problems == ()


@pytest.mark.parametrize("row", ASKED, ids=lambda r: r.backend)
def test_a_failing_backend_is_named_and_hides_no_other(row: Any) -> None:
    def broken() -> int:
        raise RuntimeError("driver says no\nand much more")

    module = SimpleNamespace(is_initialized=lambda: False, **{row.counter: broken})
    devices, (problem,) = torch_devices(torch(mps=True, **{row.module: module}))
    assert [d.backend for d in devices] == ["mps"]
    assert problem == f"torch.{row.backend} could not list its devices ({row.title}): driver says no"


def test_a_count_below_zero_is_no_device() -> None:
    assert torch_devices(torch(xpu=idle(-1, "_device_count_zes"))) == ((), ())


def test_rocm_that_runs_is_rocm_not_cuda() -> None:
    devices, _ = torch_devices(torch("6.4.4", cuda=running("AMD Instinct MI300X", "AMD Instinct MI300X")))
    assert [(d.backend, d.cuda_index, d.capability, d.sm_count) for d in devices] == [
        ("rocm", 0, (9, 4), 304),
        ("rocm", 1, (9, 4), 304),
    ]


def test_idle_rocm_and_cuda_builds_are_not_touched() -> None:
    assert torch_devices(torch("6.4.4")) == ((), ())
    assert torch_devices(torch()) == ((), ())


def test_mps_shares_the_hosts_memory() -> None:
    (device,), _ = torch_devices(torch(mps=True))
    assert (device.backend, device.unified_memory, device.cuda_index) == ("mps", True, 0)
    assert device.total


def test_the_real_torch_of_this_environment_is_asked_without_starting_anything() -> None:
    real = pytest.importorskip("torch")
    _, problems = torch_devices(real)
    assert problems == ()
    assert not real.cuda.is_initialized()


# ---- torch and the operating system together --------------------------------------------------------


def seen(backend: Any, index: int = 0, **fields: Any) -> DeviceSnapshot:
    return DeviceSnapshot(NA, index, backend=backend, message=UNASKED, **fields)


def none_installed(_: str) -> Any:
    return NA


def test_the_system_fills_what_idle_torch_does_not_tell() -> None:
    told = DeviceSnapshot(NA, 0, 0, "xpu")
    (device,) = merge(
        [told], [seen("xpu", name="Intel GPU", total=16 * GiB)], torch_asked=True, installed=none_installed
    )
    assert (device.name, device.total, device.cuda_index, device.message) == ("Intel GPU", 16 * GiB, 0, "")


def test_hardware_without_its_package_says_which() -> None:
    (device,) = merge([], [seen("npu")], torch_asked=True, installed=none_installed)
    assert device.message == "PyTorch needs the package torch_npu for it, which is not installed"
    assert device.cuda_index is None


def test_hardware_torch_does_not_serve() -> None:
    (device,) = merge([], [seen("rocm")], torch_asked=True, installed=none_installed)
    assert device.message == "the PyTorch in this process does not offer it"


def test_hardware_torch_was_not_asked_about() -> None:
    (device,) = merge([], [seen("rocm")], torch_asked=False, installed=none_installed)
    assert device.message == UNASKED


def test_hardware_hidden_from_torch() -> None:
    told = DeviceSnapshot(NA, 0, 0, "xpu")
    both = merge([told], [seen("xpu"), seen("xpu", 1)], torch_asked=True, installed=none_installed)
    assert [(d.index, d.message) for d in both] == [(0, ""), (1, "not visible to this process's PyTorch")]
