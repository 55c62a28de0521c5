"""Host, devices, torch build, memory: each rule, met and unmet."""

from __future__ import annotations

from dataclasses import replace

import pytest
from machines import by_id, card, machine, only

from hfgpu_magic.checks.facts import System, Target, TorchBuild
from hfgpu_magic.checks.rules import devices, host, memory, torch_build
from hfgpu_magic.devices.na import NA
from hfgpu_magic.devices.snapshot import DeviceSnapshot, DriverInfo, Inventory, ProcessInfo
from hfgpu_magic.devices.system import UNASKED

GiB = 1 << 30


# --- host


def test_linux_is_fine_and_windows_is_pointed_to_wsl() -> None:
    assert only(host.operating_system, machine()).status == "pass"
    windows = only(host.operating_system, machine(system=System(os="Windows")))
    assert windows.fix == "wsl --install"
    assert "CPU-only" in windows.why


@pytest.mark.parametrize(
    ("version", "status"), [((3, 10, 14), "fail"), ((3, 11, 0), "pass"), ((3, 13, 5), "pass")]
)
def test_python_3_11_is_the_floor_of_transformers_5(version: tuple[int, int, int], status: str) -> None:
    assert only(host.python, machine(system=System(python=version))).status == status


def test_wsl2_has_cuda_and_wsl1_has_not() -> None:
    assert host.wsl(machine()) == []
    assert only(host.wsl, machine(system=System(wsl=2))).status == "pass"
    assert only(host.wsl, machine(system=System(wsl=1))).status == "fail"


# --- is there a GPU


def test_a_gpu_is_named_with_its_memory_and_capability() -> None:
    check = only(devices.present, machine("T4"))
    assert (check.status, check.found) == ("pass", "Tesla T4 (15.00 GiB, capability 7.5)")


def test_equal_cards_are_counted() -> None:
    assert only(devices.present, machine("H100", "H100")).found.startswith("2 x NVIDIA H100")


def test_no_gpu_at_all_is_a_warning_that_offers_a_virtual_one() -> None:
    check = only(devices.present, machine())
    assert check.status == "warn"
    assert check.fix is not None
    assert "hfgpu run --gpu T4" in check.fix
    assert "%%gpurun T4" in check.fix


@pytest.mark.parametrize(
    ("system", "word"),
    [
        (System(hosted="Colab", container="docker"), "Change runtime type"),
        (System(hosted="Kaggle"), "Accelerator"),
        (System(wsl=2), "in Windows"),
        (System(container="docker"), "--gpus all"),
    ],
)
def test_what_to_do_without_a_gpu_depends_on_the_place(system: System, word: str) -> None:
    fix = only(devices.present, machine(system=system)).fix
    assert fix is not None
    assert word in fix


def test_a_card_on_the_bus_without_driver_is_a_failure() -> None:
    check = only(devices.present, machine(system=System(nvidia_pci=1)))
    assert check.status == "fail"
    assert check.fix is not None
    assert "ubuntu-drivers" in check.fix


def test_a_hidden_gpu_is_told_from_a_missing_one() -> None:
    facts = machine(card("T4", cuda_index=None), environ={"CUDA_VISIBLE_DEVICES": ""})
    check = only(devices.present, facts)
    assert check.status == "warn"
    assert "hidden by CUDA_VISIBLE_DEVICES=''" in check.found
    assert check.fix is not None
    assert check.fix.startswith("unset CUDA_VISIBLE_DEVICES")


def test_an_amd_gpu_counts_where_torch_is_built_for_it() -> None:
    radeon = DeviceSnapshot("AMD-1", 0, backend="rocm", name="AMD Instinct MI300X", message=UNASKED)
    rocm = machine(
        torch=TorchBuild("2.15.0+rocm7.2", hip="7.2"),
        inventory=Inventory(DriverInfo("no_library"), (radeon,)),
    )
    assert only(devices.present, rocm).status == "pass"
    assert only(devices.present, replace(rocm, torch=TorchBuild("2.15.0+cpu"))).status == "warn"


@pytest.mark.parametrize(
    ("state", "fix"),
    [
        ("not_loaded", "modprobe"),
        ("mismatch", "reboot"),
        ("no_permission", "/dev/nvidia"),
        ("error", "nvidia-smi"),
    ],
)
def test_a_driver_that_does_not_answer_says_why_and_what_to_do(state: str, fix: str) -> None:
    broken = machine(inventory=Inventory(DriverInfo(state, message="NVML said so")))  # type: ignore[arg-type]
    check = only(devices.driver_state, broken)
    assert check.status == "fail"
    assert "NVML said so" in check.found
    assert check.fix is not None
    assert fix in check.fix
    assert only(devices.present, broken).status == "fail"


def test_in_a_container_the_fix_for_permissions_is_the_run_option() -> None:
    facts = machine(system=System(container="docker"), inventory=Inventory(DriverInfo("no_permission")))
    fix = only(devices.driver_state, facts).fix
    assert fix is not None
    assert fix.startswith("docker run --gpus all")


def test_a_driver_that_answers_shows_its_cuda() -> None:
    check = only(devices.driver_state, machine("T4", driver="580.82.07", cuda=(13, 0)))
    assert (check.status, check.found) == ("pass", "580.82.07, CUDA 13.0")


def test_a_catalog_card_has_no_driver_to_judge() -> None:
    assert devices.driver_state(machine("T4", target=Target("T4", "T4"))) == []


def test_visible_devices_are_listed_and_a_malformed_value_says_which_part() -> None:
    fine = machine("T4", environ={"CUDA_VISIBLE_DEVICES": "0"})
    assert only(devices.visible, fine).found == "'0': cuda:0 = Tesla T4"
    sentence = "CUDA_VISIBLE_DEVICES='0,x': entry 2, 'x', is neither a number nor an id."
    broken = replace(fine, environ={"CUDA_VISIBLE_DEVICES": "0,x"}, visible_problem=sentence)
    check = only(devices.visible, broken)
    assert (check.status, check.found) == ("fail", sentence)
    assert devices.visible(machine("T4")) == []


def test_different_cards_without_pci_order_warn_that_numbers_differ() -> None:
    swapped = machine(card("GTX 1650", 0, cuda_index=1), card("A100", 1, cuda_index=0))
    check = only(devices.order, swapped)
    assert check.status == "warn"
    assert "cuda:0 is nvidia-smi's 1" in check.found
    assert check.fix == "export CUDA_DEVICE_ORDER=PCI_BUS_ID"
    ordered = replace(swapped, environ={"CUDA_DEVICE_ORDER": "PCI_BUS_ID"})
    assert only(devices.order, ordered).status == "pass"
    assert devices.order(machine("T4", "T4")) == []


def test_an_unknown_device_order_is_named() -> None:
    check = only(devices.order, machine("T4", environ={"CUDA_DEVICE_ORDER": "PCI"}))
    assert check.status == "warn"
    assert "'PCI'" in check.found


def test_a_lost_gpu_is_a_failure_and_the_healthy_one_beside_it_is_not() -> None:
    facts = machine(
        card("T4", 0, state="lost", cuda_index=None, message="GPU is lost"), card("T4", 1, cuda_index=0)
    )
    check = only(devices.health, facts)
    assert (check.id, check.status) == ("gpu.health.0", "fail")
    assert "fell off the bus" in check.found


def test_thermal_slowdown_warns_and_a_power_cap_does_not() -> None:
    hot = machine(card("T4", throttle_reasons=("hardware thermal slowdown",), temperature=91))
    assert "91 °C" in only(devices.health, hot).found
    assert devices.health(machine(card("T4", throttle_reasons=("power cap",)))) == []
    assert devices.health(machine(card("T4", throttle_reasons=NA))) == []


def test_a_gpu_in_prohibited_mode_runs_nothing() -> None:
    check = only(devices.health, machine(card("T4", compute_mode="prohibited")))
    assert check.status == "fail"
    assert check.fix == "sudo nvidia-smi -i 0 -c DEFAULT"
    assert devices.health(machine(card("T4", compute_mode="default"))) == []


def test_mig_without_an_instance_fails_and_with_one_passes() -> None:
    parent = card("A100", mig_enabled=True, cuda_index=None)
    assert only(devices.mig, machine(parent)).status == "fail"
    instance = card("A100", mig_parent=str(parent.uuid), uuid="MIG-1")
    assert only(devices.mig, machine(parent, instance)).status == "pass"
    assert devices.mig(machine("A100")) == []


def test_what_the_probe_noticed_is_said_once() -> None:
    noticed = (
        "CUDA_VISIBLE_DEVICES='9': out of range.",
        "CUDA itself finds no device, although two are listed.",
    )
    facts = machine("T4", inventory=replace(machine("T4").inventory, problems=noticed))
    assert [c.found for c in devices.noticed(facts)] == [noticed[1]]


# --- torch and the card


def test_a_cpu_build_beside_an_nvidia_card_fails_with_the_command_for_this_card() -> None:
    facts = machine("T4", torch=TorchBuild("2.15.0+cpu"), driver="535.104.05", cuda=(12, 2))
    check = only(torch_build.build, facts)
    assert check.status == "fail"
    assert check.fix == 'pip install "torch==2.15.0+cu126" --index-url https://download.pytorch.org/whl/cu126'
    assert only(torch_build.build, machine("T4")).status == "pass"
    assert only(torch_build.build, machine()).status == "pass"


def test_a_cuda_build_beside_an_amd_card_fails() -> None:
    radeon = DeviceSnapshot("AMD-1", 0, backend="rocm", name="AMD Instinct MI300X", cuda_index=0)
    facts = machine(
        inventory=Inventory(DriverInfo("no_library"), (radeon,)), torch=TorchBuild("2.15.0+cu132", "13.2")
    )
    check = only(torch_build.build, facts)
    assert check.status == "fail"
    assert check.fix is not None
    assert "whl/rocm" in check.fix
    assert (
        only(torch_build.build, replace(facts, torch=TorchBuild("2.15.0+rocm7.2", hip="7.2"))).status
        == "pass"
    )


@pytest.mark.parametrize(
    ("driver", "cuda", "torch", "status"),
    [
        ("580.65.06", (13, 0), TorchBuild("2.15.0+cu132", "13.2"), "pass"),  # minor versions need not match
        ("570.133.07", (12, 8), TorchBuild("2.15.0+cu132", "13.2"), "fail"),
        ("570.133.07", (12, 8), TorchBuild("2.15.0+cu126", "12.6"), "pass"),
        ("525.60.13", (12, 0), TorchBuild("2.10.0+cu128", "12.8"), "pass"),
        ("515.43.04", (11, 7), TorchBuild("2.10.0+cu128", "12.8"), "fail"),
        ("595.45.04", (13, 2), TorchBuild("2.6.0+cu118", "11.8"), "pass"),  # newer drivers run older CUDA
    ],
)
def test_a_driver_runs_its_own_cuda_major_and_all_older_ones(
    driver: str, cuda: tuple[int, int], torch: TorchBuild, status: str
) -> None:
    assert only(torch_build.driver, machine("T4", driver=driver, cuda=cuda, torch=torch)).status == status


def test_a_driver_too_old_is_answered_with_a_torch_it_can_run() -> None:
    check = only(torch_build.driver, machine("T4", driver="535.104.05", cuda=(12, 2)))
    assert check.required == ">= 580.65.06 for CUDA 13.x"
    assert check.fix is not None
    assert "whl/cu126" in check.fix


def test_a_driver_that_tells_nothing_is_not_judged() -> None:
    facts = machine("T4", inventory=Inventory(DriverInfo("ok"), (card("T4"),)))
    assert only(torch_build.driver, facts).status == "skip"


@pytest.mark.parametrize(
    ("name", "torch", "status"),
    [
        ("T4", TorchBuild("2.15.0+cu132", "13.2"), "pass"),
        ("GTX 1080", TorchBuild("2.15.0+cu132", "13.2"), "fail"),
        ("GTX 1080", TorchBuild("2.15.0+cu126", "12.6"), "pass"),
        ("V100", TorchBuild("2.10.0+cu128", "12.8"), "pass"),
        ("V100", TorchBuild("2.11.0+cu128", "12.8"), "fail"),
        ("RTX 5090", TorchBuild("2.6.0+cu124", "12.4"), "fail"),
        ("RTX 5090", TorchBuild("2.7.1+cu128", "12.8"), "pass"),
        ("L4", TorchBuild("2.6.0+cu124", "12.4"), "pass"),  # 8.9 runs binaries for 8.6
    ],
)
def test_the_wheel_must_hold_kernels_for_the_card(name: str, torch: TorchBuild, status: str) -> None:
    assert only(torch_build.kernels, machine(name, torch=torch)).status == status


def test_missing_kernels_are_answered_with_the_build_that_has_them() -> None:
    check = only(torch_build.kernels, machine("GTX 1080"))
    assert "no kernel image is available" in check.why
    assert check.fix == 'pip install "torch==2.15.0+cu126" --index-url https://download.pytorch.org/whl/cu126'


def test_cards_no_single_build_serves_are_told_apart() -> None:
    check = only(torch_build.kernels, machine("GTX 1080", "RTX 5090"))
    assert check.status == "fail"
    assert check.fix is None
    assert "CUDA_VISIBLE_DEVICES" in check.why


def test_an_unpublished_build_is_not_judged_but_asked() -> None:
    check = only(torch_build.kernels, machine("T4", torch=TorchBuild("2.16.0a0+gitdeadbeef", "13.2")))
    assert (check.status, check.fix) == ("skip", "hfgpu check --deep")


def test_a_system_cudnn_on_the_library_path_is_in_the_way() -> None:
    assert only(torch_build.libraries, machine("T4")).status == "pass"
    check = only(torch_build.libraries, machine("T4", shadowing=("/usr/local/cuda/lib64/libcudnn.so",)))
    assert (check.status, check.fix) == ("warn", "unset LD_LIBRARY_PATH")


# --- memory


def test_8_gb_is_the_floor_of_the_pages_as_cards_really_report_it() -> None:
    assert only(memory.total, machine(card("T4", total=4 * GiB))).status == "warn"
    assert only(memory.total, machine(card("T4", total=8_188 * (1 << 20)))).status == "pass"
    assert (
        only(memory.total, machine(card("T4", total=7_800_000_000))).status == "pass"
    )  # "8 GB" less firmware


def test_what_fits_is_computed_from_bytes_per_parameter() -> None:
    why = only(memory.total, machine(card("T4", total=16_000_000_000))).why
    assert "inference, 16-bit 8.0 B" in why
    assert "full fine-tuning, bf16 weights 2.0 B" in why
    assert "full fine-tuning, fp32 weights 1.0 B" in why


def test_memory_the_driver_does_not_tell_is_not_judged() -> None:
    assert only(memory.total, machine(card("T4", total=NA))).status == "skip"
    assert memory.free(machine(card("T4", free=NA))) == []


def test_memory_held_by_others_is_named_with_process_and_size() -> None:
    holder = ProcessInfo(4242, "python3", 6 * GiB)
    check = only(memory.free, machine(card("T4", free=9 * GiB, processes=(holder,))))
    assert check.status == "warn"
    assert "held by python3 [4242] 6.00 GiB" in check.found
    assert only(memory.free, machine("T4")).status == "pass"


def test_memory_nobody_owns_up_to_is_said_so() -> None:
    check = only(memory.free, machine(card("T4", free=9 * GiB, processes=NA)))
    assert "does not tell who" in check.found


def test_what_the_driver_keeps_for_itself_is_nobodys() -> None:
    assert only(memory.free, machine(card("T4", free=10 * GiB, reserved=5 * GiB))).status == "pass"


def test_many_cards_make_one_check() -> None:
    held = [card("H100", n, free=1 * GiB) for n in range(8)]
    assert only(memory.free, machine(*held)).found.endswith("and 4 more")
    assert list(by_id(memory.total, machine(*held))) == ["memory.total"]
