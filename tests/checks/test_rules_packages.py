"""Packages: floors, windows, builds that do not fit each other, clashes."""

from __future__ import annotations

from dataclasses import replace

import pytest
from machines import GOOD_VERSIONS, by_id, machine, only, without

from hfgpu_magic.checks.facts import TorchBuild
from hfgpu_magic.checks.rules import packages
from hfgpu_magic.checks.versions import Requirement
from hfgpu_magic.devices.snapshot import DeviceSnapshot, DriverInfo, Inventory


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
