"""`device_map` and the Trainer: where a model would go here."""

from __future__ import annotations

import pytest
from machines import machine, only, without

from hfgpu_magic.checks.facts import TorchBuild
from hfgpu_magic.checks.rules import placement


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
