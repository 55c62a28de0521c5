"""Packages, precision, compile, placement, distribution, quantizers, settings: each rule, met and unmet."""

from __future__ import annotations

from dataclasses import replace

import pytest
from machines import GOOD_VERSIONS, by_id, card, machine, only

from hfgpu_magic.checks.facts import System, Target, TorchBuild, TorchState
from hfgpu_magic.checks.rules import (
    api,
    backends,
    compiling,
    distributed,
    packages,
    placement,
    precision,
    quantization,
    settings,
)
from hfgpu_magic.checks.versions import Requirement
from hfgpu_magic.devices.na import NA
from hfgpu_magic.devices.snapshot import DeviceSnapshot, DriverInfo, Inventory
from hfgpu_magic.devices.system import UNASKED


def without(*names: str) -> dict[str, str]:
    return {name: version for name, version in GOOD_VERSIONS.items() if name not in names}


# --- packages


def test_everything_at_its_floor_passes() -> None:
    assert {c.status for c in packages.floors(machine("T4"))} == {"pass"}


@pytest.mark.parametrize(
    ("name", "version", "status"),
    [
        ("accelerate", "1.0.1", "fail"),
        ("transformers", "4.57.1", "warn"),
        ("peft", "0.17.0", "warn"),
        ("bitsandbytes", "0.45.0", "warn"),
        ("tokenizers", "0.24.0", "fail"),  # a ceiling
        ("safetensors", "0.8.0", "pass"),
        ("deepspeed", "0.9.3", "pass"),
        ("liger-kernel", "0.2.9", "warn"),
    ],
)
def test_a_version_outside_its_window_is_reported_with_the_command(
    name: str, version: str, status: str
) -> None:
    check = by_id(packages.floors, machine(versions=GOOD_VERSIONS | {name: version}))[f"package.{name}"]
    assert check.status == status
    if status != "pass":
        assert check.fix is not None
        assert f'pip install -U "{name}' in check.fix  # quoted: > is a redirection


def test_torch_below_2_6_is_no_torch_for_transformers() -> None:
    facts = machine("T4", torch=TorchBuild("2.5.1+cu124", "12.4"))
    check = by_id(packages.floors, facts)["package.torch"]
    assert (check.status, check.required) == ("fail", ">=2.6")


def test_without_torch_the_report_says_how_to_get_it() -> None:
    check = by_id(packages.floors, machine(torch=None, versions=without("torch")))["package.torch"]
    assert (check.status, check.found) == ("fail", "not installed")
    assert check.fix == 'pip install -U "torch>=2.6"'


@pytest.mark.parametrize(
    ("profile", "status"), [("inference", "warn"), ("training", "fail"), ("quantization", "fail")]
)
def test_how_much_a_missing_accelerate_matters_depends_on_the_task(profile: str, status: str) -> None:
    facts = machine("T4", versions=without("accelerate"), profile=profile)
    assert by_id(packages.floors, facts)["package.accelerate"].status == status


def test_optional_packages_that_are_absent_are_no_topic() -> None:
    assert "package.deepspeed" not in by_id(packages.floors, machine("T4"))


def test_an_older_transformers_is_judged_by_its_own_floors() -> None:
    facts = machine(
        versions=GOOD_VERSIONS | {"bitsandbytes": "0.45.0"}, declared={"bitsandbytes": ">=0.43.1"}
    )
    assert by_id(packages.floors, facts)["package.bitsandbytes"].status == "pass"


def test_trl_raises_the_floor_of_accelerate() -> None:
    old = machine("T4", versions=GOOD_VERSIONS | {"trl": "1.16.0", "accelerate": "1.2.0"})
    assert list(by_id(packages.companions, old)) == ["package.accelerate.for-trl"]
    assert packages.companions(replace(old, versions=GOOD_VERSIONS | {"trl": "1.16.0"})) == []


def test_a_gaudi_raises_the_floor_of_accelerate() -> None:
    gaudi = DeviceSnapshot("HPU-1", 0, backend="hpu", name="Gaudi 3", cuda_index=0)
    facts = machine(
        inventory=Inventory(DriverInfo("no_library"), (gaudi,)),
        versions=GOOD_VERSIONS | {"accelerate": "1.4.0"},
    )
    assert list(by_id(packages.companions, facts)) == ["package.accelerate.for-hpu"]


def test_optimum_without_gptqmodel_is_the_name_error_of_gptq() -> None:
    check = only(packages.companions, machine(versions=GOOD_VERSIONS | {"optimum": "2.0.0"}))
    assert "NameError" in check.why


def test_torchvision_for_another_torch_is_found_by_its_own_metadata() -> None:
    stated = {"torchvision": (Requirement("torch", "==2.11.0"),)}
    facts = machine("T4", versions=GOOD_VERSIONS | {"torchvision": "0.26.0"}, requirements=stated)
    check = only(packages.consistency, facts)
    assert check.status == "fail"
    assert "torchvision 0.26.0 needs torch==2.11.0, found 2.15.0+cu132" in check.found
    assert check.fix is not None
    assert "torchvision" in check.fix
    agreeing = replace(facts, requirements={"torchvision": (Requirement("torch", "==2.15.0"),)})
    assert only(packages.consistency, agreeing).status == "pass"


def test_presence_of_kernels_is_not_enough() -> None:
    assert (
        only(packages.kernels_hub, machine(versions=GOOD_VERSIONS | {"kernels": "0.18.2"})).status == "pass"
    )
    trap = only(packages.kernels_hub, machine(versions=GOOD_VERSIONS | {"kernels": "0.17.2"}))
    assert trap.status == "warn"
    assert "not installed" in trap.why
    assert packages.kernels_hub(machine()) == []


@pytest.mark.parametrize(
    ("dist", "version", "name", "status"),
    [
        ("flash-attn", "2.8.3", "A100", "pass"),
        ("flash-attn", "2.3.2", "A100", "warn"),
        ("flash-attn", "2.8.3", "T4", "warn"),
        ("flash-attn-3", "3.0.0", "A100", "pass"),
        ("flash-attn-4", "4.0.0", "A100", "warn"),
        ("flash-attn-4", "4.0.0", "H100", "pass"),
    ],
)
def test_flash_attention_needs_its_floor_and_its_card(
    dist: str, version: str, name: str, status: str
) -> None:
    assert (
        only(packages.flash_attention, machine(name, versions=GOOD_VERSIONS | {dist: version})).status
        == status
    )


@pytest.mark.parametrize(
    ("others", "status"),
    [
        ({}, "pass"),
        ({"pynvml": "13.0.1"}, "pass"),  # only points to nvidia-ml-py
        ({"pynvml": "11.5.3"}, "warn"),
        ({"nvidia-ml-py3": "7.352.0"}, "warn"),
    ],
)
def test_a_second_distribution_of_the_module_pynvml_is_a_clash(others: dict[str, str], status: str) -> None:
    assert only(packages.nvml_binding, machine("T4", versions=GOOD_VERSIONS | others)).status == status


def test_a_broken_pynvml_the_probe_found_is_reported_once() -> None:
    problem = "`import pynvml` gives an outdated module"
    facts = machine("T4", inventory=Inventory(DriverInfo("error"), (), (problem,)))
    assert only(packages.nvml_binding, facts).found == problem


# --- precision


@pytest.mark.parametrize(
    ("name", "bf16", "fp16"),
    [
        ("T4", "warn", "pass"),
        ("V100", "warn", "pass"),
        ("P100", "warn", "pass"),
        ("GTX 1080", "warn", "warn"),
        ("A100", "pass", "pass"),
        ("RTX 5090", "pass", "pass"),
    ],
)
def test_bf16_is_native_from_8_0_and_fp16_fast_where_there_is_hardware(
    name: str, bf16: str, fp16: str
) -> None:
    checks = by_id(precision.formats, machine(name))
    assert (checks["precision.bf16"].status, checks["precision.fp16"].status) == (bf16, fp16)


def test_a_t4_is_told_that_bf16_is_emulated_although_torch_says_true() -> None:
    check = by_id(precision.formats, machine("T4"))["precision.bf16"]
    assert "emulated: slow, although torch.cuda.is_bf16_supported() says True" in check.found
    assert check.fix is not None
    assert "fp16=True" in check.fix


@pytest.mark.parametrize(
    ("name", "fp8", "fp4", "tf32"),
    [
        ("T4", "skip", "skip", "skip"),
        ("A100", "skip", "skip", "pass"),
        ("L4", "pass", "skip", "pass"),
        ("H100", "pass", "skip", "pass"),
        ("B200", "pass", "pass", "pass"),
    ],
)
def test_fp8_starts_at_8_9_fp4_at_10_0_and_tf32_at_8_0(name: str, fp8: str, fp4: str, tf32: str) -> None:
    checks = by_id(precision.formats, machine(name))
    assert (checks["precision.fp8"].status, checks["precision.fp4"].status) == (fp8, fp4)
    assert only(precision.tf32, machine(name)).status == tf32


def test_the_weakest_visible_card_decides() -> None:
    mixed = machine("A100", "T4")
    assert by_id(precision.formats, mixed)["precision.bf16"].status == "warn"
    assert only(precision.advice, mixed).found.startswith("Turing: fp16=True")


def test_a_card_that_tells_no_capability_gets_no_verdict() -> None:
    assert precision.formats(machine(card("T4", capability=NA))) == []


def test_tf32_defaults_are_told_apart_for_products_and_convolutions() -> None:
    assert (
        only(precision.tf32, machine("A100")).found == "torch's default: matrix products off, convolutions on"
    )
    state = TorchState(matmul_fp32="tf32", conv_fp32="ieee")
    assert (
        only(precision.tf32, machine("A100", torch_state=state)).found
        == "matrix products on, convolutions off"
    )


def test_the_way_to_turn_tf32_on_is_that_of_the_installed_torch() -> None:
    new = only(precision.tf32, machine("A100"))
    assert 'torch.backends.fp32_precision = "tf32"' in new.why
    old = only(precision.tf32, machine("A100", torch=TorchBuild("2.8.0+cu128", "12.8")))
    assert 'torch.set_float32_matmul_precision("high")' in old.why


def test_mixing_the_two_tf32_interfaces_is_a_warning() -> None:
    assert (
        only(precision.tf32, machine("A100", torch_state=TorchState("tf32", "tf32", mixed_apis=True))).status
        == "warn"
    )


def test_without_flash_kernels_attention_is_memory_efficient() -> None:
    assert "no flash attention" in only(precision.attention, machine("T4")).found
    assert only(precision.attention, machine("A100")).found == "SDPA with flash attention kernels"


# --- torch.compile


@pytest.mark.parametrize(
    ("name", "versions", "system", "word"),
    [
        ("T4", without("triton"), System(c_compiler="/usr/bin/gcc"), "triton"),
        ("T4", GOOD_VERSIONS, System(c_compiler=""), "build-essential"),
        (
            "T4",
            GOOD_VERSIONS,
            System(c_compiler="/usr/bin/gcc", python_headers=False, python=(3, 12, 1)),
            "python3.12-dev",
        ),
        ("T4", without("triton"), System(os="Windows"), "triton-windows"),
    ],
)
def test_compile_names_the_part_that_is_missing(
    name: str, versions: dict[str, str], system: System, word: str
) -> None:
    check = only(compiling.torch_compile, machine(name, versions=versions, system=system))
    assert check.status == "warn"
    assert check.fix is not None
    assert word in check.fix


def test_compile_passes_with_all_parts_and_refuses_pascal() -> None:
    assert only(compiling.torch_compile, machine("A100")).status == "pass"
    assert "bf16 models are skipped" in only(compiling.torch_compile, machine("T4")).why
    assert only(compiling.torch_compile, machine("GTX 1080")).status == "warn"


def test_on_the_cpu_compile_needs_a_compiler_only() -> None:
    assert only(compiling.torch_compile, machine(versions=without("triton"))).status == "pass"
    assert only(compiling.torch_compile, machine(system=System(c_compiler=""))).status == "warn"
    assert compiling.torch_compile(machine(torch=None)) == []


def test_triton_is_not_missed_while_torch_is_a_cpu_build() -> None:
    facts = machine(
        "T4", torch=TorchBuild("2.15.0+cpu"), versions=without("triton"), target=Target("T4", "T4")
    )
    assert only(compiling.torch_compile, facts).status == "skip"


# --- placement


def test_device_map_says_what_each_value_would_do_here() -> None:
    one = only(placement.device_map, machine("T4")).found
    assert '"auto": cuda:0' in one
    assert '"cuda": cuda:0' in one
    two = only(placement.device_map, machine("T4", "T4")).found
    assert "cuda:0-cuda:1" in two
    none = only(placement.device_map, machine()).found
    assert '"cuda": fails' in none


def test_device_map_cuda_follows_the_local_rank() -> None:
    facts = machine("T4", "T4", environ={"LOCAL_RANK": "1"})
    assert '"cuda": cuda:1' in only(placement.device_map, facts).found


def test_a_cpu_build_places_nothing_on_the_card() -> None:
    facts = machine("T4", torch=TorchBuild("2.15.0+cpu"))
    assert '"auto": CPU' in only(placement.device_map, facts).found
    assert "trains on the CPU" in only(placement.trainer, facts).found


def test_device_map_needs_accelerate_and_no_launcher() -> None:
    assert only(placement.device_map, machine("T4", versions=without("accelerate"))).status == "warn"
    launched = machine("T4", "T4", environ={"WORLD_SIZE": "2"})
    assert only(placement.device_map, launched).status == "warn"
    assert only(placement.device_map, machine("T4", environ={"WORLD_SIZE": "1"})).status == "pass"


@pytest.mark.parametrize(
    ("facts", "word"),
    [
        (machine(), "CPU"),
        (machine("T4"), "cuda:0"),
        (machine("T4", "T4"), "DataParallel"),
        (machine("T4", "T4", environ={"WORLD_SIZE": "2"}), "DistributedDataParallel"),
    ],
)
def test_trainer_says_where_it_would_put_the_model(facts: object, word: str) -> None:
    assert word in only(placement.trainer, facts).found  # type: ignore[arg-type]


def test_trainer_without_accelerate_is_the_packages_business() -> None:
    assert placement.trainer(machine("T4", versions=without("accelerate"))) == []


# --- several GPUs


def test_several_gpus_without_a_launcher_warn_of_data_parallel() -> None:
    check = only(distributed.launcher, machine("T4", "T4"))
    assert check.status == "warn"
    assert check.fix is not None
    assert check.fix.startswith("accelerate launch --num_processes 2")
    assert only(distributed.launcher, machine("T4", "T4", environ={"WORLD_SIZE": "2"})).status == "pass"
    assert distributed.launcher(machine("T4")) == []


def test_in_a_notebook_the_launcher_is_another() -> None:
    fix = only(distributed.launcher, machine("T4", "T4", system=System(notebook=True))).fix
    assert fix is not None
    assert "notebook_launcher" in fix


def test_one_gpu_is_too_few_only_for_the_distributed_profile() -> None:
    assert distributed.devices(machine("T4")) == []
    assert only(distributed.devices, machine("T4", profile="distributed")).status == "warn"
    assert only(distributed.devices, machine("H100", "H100")).status == "pass"


def test_unlike_cards_are_pinned_by_uuid_to_the_kind_with_most_memory() -> None:
    check = only(distributed.devices, machine("GTX 1650", "A100"))
    assert check.status == "warn"
    assert check.fix == "export CUDA_VISIBLE_DEVICES=GPU-00000001-1111-2222-3333-444444444444"


@pytest.mark.parametrize(
    ("environ", "word"),
    [
        ({"LOCAL_RANK": "a"}, "no integer"),
        ({"LOCAL_RANK": "3"}, "only 2 GPU"),
        (
            {"RANK": "4", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "MASTER_ADDR": "h", "MASTER_PORT": "1"},
            "outside 0..1",
        ),
        ({"WORLD_SIZE": "2"}, "MASTER_ADDR"),
        ({"WORLD_SIZE": "0"}, "less than 1"),
    ],
)
def test_inconsistent_ranks_say_which_part(environ: dict[str, str], word: str) -> None:
    check = only(distributed.ranks, machine("T4", "T4", environ=environ))
    assert check.status == "warn"
    assert word in check.found


def test_what_a_launcher_sets_passes_and_nothing_set_is_no_topic() -> None:
    environ = {
        "RANK": "1",
        "LOCAL_RANK": "1",
        "WORLD_SIZE": "2",
        "MASTER_ADDR": "localhost",
        "MASTER_PORT": "29500",
    }
    assert only(distributed.ranks, machine("T4", "T4", environ=environ)).status == "pass"
    assert distributed.ranks(machine("T4", environ={"LOCAL_RANK": ""})) == []


def test_dockers_default_shared_memory_is_too_small() -> None:
    small = machine("T4", "T4", system=System(container="docker", shared_memory=64 << 20))
    assert by_id(distributed.nccl, small)["distributed.shm"].status == "warn"
    large = machine("T4", "T4", system=System(container="docker", shared_memory=8 << 30))
    assert "distributed.shm" not in by_id(distributed.nccl, large)


def test_there_is_no_nccl_on_windows() -> None:
    assert (
        by_id(distributed.nccl, machine("T4", "T4", system=System(os="Windows")))["distributed.nccl"].status
        == "warn"
    )
    assert by_id(distributed.nccl, machine("T4", "T4"))["distributed.nccl"].status == "pass"


def test_cuda_already_started_spoils_the_notebook_launcher() -> None:
    started = machine("T4", "T4", torch_state=TorchState(cuda_initialized=True))
    assert only(distributed.untouched, started).status == "warn"
    assert distributed.untouched(machine("T4", "T4", torch_state=TorchState())) == []


# --- quantization


def states(facts: object) -> dict[str, str]:
    return {v.key: v.state for v in quantization.judge(facts)}  # type: ignore[arg-type]


def test_every_method_of_the_installed_transformers_has_a_row() -> None:
    auto = pytest.importorskip("transformers.quantizers.auto")
    missing = set(auto.AUTO_QUANTIZATION_CONFIG_MAPPING) - set(states(machine()))
    assert missing == set()


@pytest.mark.parametrize(
    ("name", "key", "state"),
    [
        ("T4", "bitsandbytes_4bit", "usable"),
        ("T4", "bitsandbytes_8bit", "usable"),
        ("V100", "bitsandbytes_8bit", "impossible"),  # LLM.int8 from 7.5
        ("V100", "bitsandbytes_4bit", "usable"),
        ("T4", "fp8", "impossible"),
        ("L4", "fp8", "installable"),
        ("H100", "nvfp4", "impossible"),
        ("B200", "nvfp4", "installable"),
        ("A100", "metal", "impossible"),
        ("A100", "hqq", "broken"),
        ("A100", "torchao", "installable"),
    ],
)
def test_a_method_is_judged_by_card_and_packages(name: str, key: str, state: str) -> None:
    assert states(machine(name))[key] == state


def test_the_cpu_can_load_quantized_models_too() -> None:
    found = states(machine())
    assert found["bitsandbytes_4bit"] == "usable"
    assert found["nvfp4"] == "impossible"


def test_the_narrow_window_of_kernels_decides_the_methods_behind_it() -> None:
    assert states(machine("L4", versions=GOOD_VERSIONS | {"kernels": "0.17.2"}))["fp8"] == "installable"
    assert states(machine("L4", versions=GOOD_VERSIONS | {"kernels": "0.18.2"}))["fp8"] == "usable"


def test_a_methods_own_floor_is_kept_where_transformers_states_a_lower_one() -> None:
    old_triton = machine("T4", versions=GOOD_VERSIONS | {"kernels": "0.18.2", "triton": "3.3.1"})
    assert states(old_triton)["mxfp4"] == "installable"
    assert (
        states(replace(old_triton, versions=old_triton.versions | {"triton": "3.4.0"}))["mxfp4"] == "usable"
    )  # type: ignore[operator]


def test_the_quantization_profile_lists_each_method_with_its_command() -> None:
    checks = by_id(quantization.methods, machine("L4", profile="quantization"))
    assert checks["quantization.method.torchao"].fix == 'pip install -U "torchao>=0.15.0"'
    assert checks["quantization.method.bitsandbytes_4bit"].status == "pass"
    assert quantization.methods(machine("L4")) == []


def test_no_method_at_all_warns_where_quantization_is_the_task() -> None:
    bare = without("bitsandbytes")
    assert only(quantization.overview, machine("T4", versions=bare)).status == "skip"
    check = only(quantization.overview, machine("T4", versions=bare, profile="quantization"))
    assert check.status == "warn"
    assert check.fix == 'pip install -U "bitsandbytes>=0.46.1"'


# --- settings


@pytest.mark.parametrize(
    ("environ", "torch", "status"),
    [
        ({"PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True"}, "2.15.0", "pass"),
        ({"PYTORCH_ALLOC_CONF": "expandable_segments:True"}, "2.15.0", "pass"),
        ({"PYTORCH_ALLOC_CONF": "expandable_segments:True"}, "2.9.1", "warn"),  # was ignored there
        ({"PYTORCH_ALLOC_CONF": "expandable_segments:True"}, "2.8.0", "warn"),  # not known yet
        ({"PYTORCH_ALLOC_CONF": "a:1", "PYTORCH_CUDA_ALLOC_CONF": "b:1"}, "2.15.0", "warn"),
    ],
)
def test_allocator_settings_under_the_name_this_torch_reads(
    environ: dict[str, str], torch: str, status: str
) -> None:
    assert (
        only(settings.allocator, machine("T4", environ=environ, torch=TorchBuild(torch, "13.0"))).status
        == status
    )


def test_allocator_settings_torch_would_refuse_are_quoted() -> None:
    facts = machine(
        "T4", environ={"PYTORCH_ALLOC_CONF": "nonsense:1"}, allocator_problem="Unrecognized key 'nonsense'"
    )
    check = only(settings.allocator, facts)
    assert check.status == "fail"
    assert "Unrecognized key 'nonsense'" in check.found
    assert settings.allocator(machine("T4")) == []


@pytest.mark.parametrize(
    ("value", "status"),
    [
        (":4096:8", "pass"),
        (":16:8", "pass"),
        (":4096:2:16:8", "pass"),
        ("4096:8", "warn"),
        (":4096", "warn"),
        ("", "warn"),
    ],
)
def test_the_cublas_workspace_is_pairs_of_size_and_count(value: str, status: str) -> None:
    assert only(settings.cublas, machine("T4", environ={"CUBLAS_WORKSPACE_CONFIG": value})).status == status


def test_the_cublas_workspace_says_what_it_costs() -> None:
    assert (
        "32 MiB" in only(settings.cublas, machine("T4", environ={"CUBLAS_WORKSPACE_CONFIG": ":4096:8"})).found
    )


@pytest.mark.parametrize(("value", "said"), [("1", True), ("true", True), ("0", False), ("", False)])
def test_offline_switches_follow_the_hubs_own_reading(value: str, said: bool) -> None:
    assert bool(settings.offline(machine(environ={"HF_HUB_OFFLINE": value}))) is said


def test_debugging_switches_left_on_are_slow() -> None:
    assert only(settings.blocking, machine("T4", environ={"CUDA_LAUNCH_BLOCKING": "1"})).status == "warn"
    assert settings.blocking(machine("T4", environ={"CUDA_LAUNCH_BLOCKING": "0"})) == []


def test_bitsandbytes_takes_digits_only() -> None:
    assert only(settings.bitsandbytes, machine("T4", environ={"BNB_CUDA_VERSION": "12.4"})).status == "warn"
    assert only(settings.bitsandbytes, machine("T4", environ={"BNB_CUDA_VERSION": "124"})).status == "pass"


@pytest.mark.parametrize(
    ("name", "value", "status"),
    [
        ("T4", "bf16", "warn"),
        ("A100", "bf16", "pass"),
        ("A100", "fp8", "warn"),
        ("H100", "fp8", "pass"),
        ("T4", "half", "warn"),
        ("T4", "no", "pass"),
    ],
)
def test_accelerates_mixed_precision_must_suit_the_card(name: str, value: str, status: str) -> None:
    assert (
        only(settings.mixed_precision, machine(name, environ={"ACCELERATE_MIXED_PRECISION": value})).status
        == status
    )


# --- other devices, names


def accelerator(backend: str, **changes: object) -> Inventory:
    device = DeviceSnapshot("X-1", 0, backend=backend, name=backend.upper(), cuda_index=0)  # type: ignore[arg-type]
    return Inventory(DriverInfo("no_library"), (replace(device, **changes),))  # type: ignore[arg-type]


@pytest.mark.parametrize("backend", ["rocm", "xpu", "npu", "mlu", "musa", "hpu", "mps", "xla", "neuron"])
def test_each_other_backend_has_its_note(backend: str) -> None:
    check = only(
        backends.notes,
        machine(
            inventory=accelerator(backend),
            torch=TorchBuild("2.15.0", hip="7.2") if backend == "rocm" else TorchBuild("2.15.0"),
        ),
    )
    assert check.id == f"backend.{backend}"
    assert check.why


def test_an_npu_needs_its_package() -> None:
    assert only(backends.notes, machine(inventory=accelerator("npu"))).fix == "pip install torch-npu"
    there = machine(inventory=accelerator("npu"), versions=GOOD_VERSIONS | {"torch-npu": "2.9.0"})
    assert only(backends.notes, there).status == "pass"


def test_a_tpu_switched_off_by_variable_is_said() -> None:
    versions = GOOD_VERSIONS | {"torch-xla": "2.9.0"}
    off = machine(inventory=accelerator("xla"), versions=versions, environ={"USE_TORCH_XLA": "0"})
    assert only(backends.notes, off).fix == "unset USE_TORCH_XLA"


def test_an_intel_gpu_is_used_only_by_a_torch_built_for_it() -> None:
    seen = accelerator("xpu", cuda_index=None, message=UNASKED)
    assert backends.notes(machine(inventory=seen)) == []
    built = machine(inventory=seen, torch=TorchBuild("2.15.0+xpu", xpu="20260000"))
    assert only(backends.notes, built).status == "pass"


def test_renamed_apis_are_told_for_the_task_and_for_transformers_5_only() -> None:
    assert [c.id for c in api.names(machine("T4", profile="training"))] == ["api.dtype", "api.checkpointing"]
    assert [c.id for c in api.names(machine("T4", profile="quantization"))] == ["api.quantization_config"]
    old = machine("T4", profile="training", versions=GOOD_VERSIONS | {"transformers": "4.57.1"})
    assert api.names(old) == []
