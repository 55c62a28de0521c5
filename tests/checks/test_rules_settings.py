"""Environment variables that libraries read, as they read them."""

from __future__ import annotations

import pytest
from machines import machine, only

from hfgpu_magic.checks.facts import TorchBuild
from hfgpu_magic.checks.rules import settings


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
