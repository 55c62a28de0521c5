"""Accelerators by the files a driver leaves, on file trees laid out as the kernel lays them out."""

from __future__ import annotations

from pathlib import Path

import pytest

from hfgpu_magic.devices.na import NA
from hfgpu_magic.devices.platform import host_memory, is_wsl, kernel_module_version
from hfgpu_magic.devices.probe import inventory
from hfgpu_magic.devices.system import backend_rows, system_devices

GiB = 1 << 30


def write(root: Path, files: dict[str, str]) -> Path:
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content + "\n")
    return root


def devices(root: Path) -> list[tuple[str, int]]:
    return [(d.backend, d.index) for d in system_devices(root, system="Linux", machine="x86_64")]


def test_an_empty_machine_has_none(tmp_path: Path) -> None:
    assert devices(tmp_path) == []


@pytest.mark.parametrize(
    ("backend", "files"),
    [
        ("npu", ["dev/davinci0", "dev/davinci1", "dev/davinci_manager"]),
        ("mlu", ["dev/cambricon_dev0", "dev/cambricon_dev1", "dev/cambricon_ctl"]),
        ("musa", ["dev/mtgpu.0", "dev/mtgpu.1"]),
        ("neuron", ["dev/neuron0", "dev/neuron1"]),
    ],
)
def test_device_files(backend: str, files: list[str], tmp_path: Path) -> None:
    assert devices(write(tmp_path, dict.fromkeys(files, ""))) == [(backend, 0), (backend, 1)]


@pytest.mark.parametrize(
    ("backend", "vendor", "device"), [("hpu", "0x1da3", "0x1060"), ("xla", "0x1ae0", "0x0063")]
)
def test_pci_devices(backend: str, vendor: str, device: str, tmp_path: Path) -> None:
    slot = "sys/bus/pci/devices/0000:00:04.0"
    write(tmp_path, {f"{slot}/vendor": vendor, f"{slot}/device": device})
    assert devices(tmp_path) == [(backend, 0)]


def test_googles_other_pci_devices_are_no_tpu(tmp_path: Path) -> None:
    slot = "sys/bus/pci/devices/0000:00:04.0"
    write(tmp_path, {f"{slot}/vendor": "0x1ae0", f"{slot}/device": "0x0042"})  # its network card
    assert devices(tmp_path) == []


def amd_node(node: int, minor: int, **properties: int) -> dict[str, str]:
    lines = {"simd_count": 416, "drm_render_minor": minor, **properties}
    body = "\n".join(f"{key} {value}" for key, value in lines.items())
    return {f"sys/class/kfd/kfd/topology/nodes/{node}/properties": body}


@pytest.fixture
def amd_machine(tmp_path: Path) -> Path:
    write(tmp_path, {"sys/class/kfd/kfd/topology/nodes/0/properties": "cpu_cores_count 64\nsimd_count 0"})
    write(tmp_path, amd_node(2, 129, gfx_target_version=90010, unique_id=0x2B))
    write(tmp_path, amd_node(1, 128, gfx_target_version=110003, unique_id=0x2A))
    first = "sys/class/drm/renderD128/device"
    write(
        tmp_path,
        {
            f"{first}/product_name": "AMD Radeon RX 7600",
            f"{first}/mem_info_vram_total": str(8 * GiB),
            f"{first}/mem_info_vram_used": str(3 * GiB),
            f"{first}/gpu_busy_percent": "17",
        },
    )
    return tmp_path


def test_amd_gpus_in_node_order_with_what_amdgpu_tells(amd_machine: Path) -> None:
    radeon, instinct = system_devices(amd_machine, system="Linux", machine="x86_64")
    assert (radeon.name, radeon.capability) == ("AMD Radeon RX 7600 (gfx1103)", (11, 0))
    assert (radeon.total, radeon.used, radeon.free) == (8 * GiB, 3 * GiB, 5 * GiB)
    assert (radeon.utilization, radeon.uuid) == (17, "GPU-000000000000002a")
    assert (instinct.name, instinct.capability, instinct.total) == ("AMD GPU (gfx90a)", (9, 0), NA)


@pytest.mark.parametrize(
    ("variables", "positions"),
    [
        ({}, [0, 1]),
        ({"HIP_VISIBLE_DEVICES": "1"}, [None, 0]),
        ({"CUDA_VISIBLE_DEVICES": "1,0"}, [1, 0]),
        ({"ROCR_VISIBLE_DEVICES": "1", "HIP_VISIBLE_DEVICES": "0"}, [None, 0]),
        ({"ROCR_VISIBLE_DEVICES": "GPU-000000000000002a"}, [0, None]),
        ({"HIP_VISIBLE_DEVICES": ""}, [None, None]),
    ],
)
def test_amds_filters_number_what_this_process_sees(
    variables: dict[str, str], positions: list[int | None], amd_machine: Path
) -> None:
    found = inventory(environ=variables, root=amd_machine)
    assert [d.cuda_index for d in found.devices if d.backend == "rocm"] == positions


def test_a_wrong_amd_filter_is_named(amd_machine: Path) -> None:
    found = inventory(environ={"HIP_VISIBLE_DEVICES": "0,5"}, root=amd_machine)
    assert any(p.startswith("HIP_VISIBLE_DEVICES='0,5': entry 2, '5',") for p in found.problems)


def intel_card(root: Path, name: str, driver: str, *, memory: int | None = None) -> None:
    write(root, {f"sys/class/drm/{name}/device/vendor": "0x8086"})
    (root / "drivers" / driver).mkdir(parents=True, exist_ok=True)
    (root / f"sys/class/drm/{name}/device/driver").symlink_to(root / "drivers" / driver)
    if memory is not None:
        write(root, {f"sys/class/drm/{name}/lmem_total_bytes": str(memory)})


def test_intel_cards_that_xpu_serves(tmp_path: Path) -> None:
    intel_card(tmp_path, "card0", "i915")  # a processor's display chip
    intel_card(tmp_path, "card1", "i915", memory=16 * GiB)
    intel_card(tmp_path, "card2", "xe")
    write(tmp_path, {"sys/class/drm/card2-HDMI-A-1/device/vendor": "0x8086"})
    found = system_devices(tmp_path, system="Linux", machine="x86_64")
    assert [(d.backend, d.index, d.total) for d in found] == [("xpu", 0, 16 * GiB), ("xpu", 1, NA)]


def test_apple_silicon_and_no_other_mac(tmp_path: Path) -> None:
    (gpu,) = system_devices(tmp_path, system="Darwin", machine="arm64")
    assert (gpu.backend, gpu.unified_memory, gpu.total) == ("mps", True, host_memory())
    assert system_devices(tmp_path, system="Darwin", machine="x86_64") == ()


def test_every_row_has_a_source_and_its_own_backend() -> None:
    rows = backend_rows()
    assert len({row.backend for row in rows}) == len(rows)
    assert all(row.source for row in rows)
    assert all(bool(row.module) == bool(row.counter) for row in rows)


# ---- the host ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("release", "environ", "expected"),
    [
        ("5.15.167.4-microsoft-standard-WSL2", {}, True),
        ("4.4.0-19041-Microsoft", {}, True),
        ("6.8.0-45-generic", {}, False),
        ("6.8.0-45-generic", {"WSL_DISTRO_NAME": "Ubuntu"}, True),
    ],
)
def test_wsl(release: str, environ: dict[str, str], expected: bool) -> None:
    assert is_wsl(environ, release=release) is expected


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.183.01  Sun May 12 2024", "535.183.01"),
        ("NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  570.133.07  Release Build", "570.133.07"),
        ("something else", NA),
    ],
)  # fmt: skip
def test_kernel_module_version(text: str, version: object, tmp_path: Path) -> None:
    (tmp_path / "version").write_text(text + "\nGCC version: gcc 12.2.0\n")
    assert kernel_module_version(tmp_path / "version") == version


def test_no_kernel_module(tmp_path: Path) -> None:
    assert kernel_module_version(tmp_path / "version") is NA
