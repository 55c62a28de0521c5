"""Quantization methods: judged by card, packages and floors."""

from __future__ import annotations

from dataclasses import replace

import pytest
from machines import GOOD_VERSIONS, by_id, machine, only, without

from hfgpu_magic.checks.rules import quantization


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
