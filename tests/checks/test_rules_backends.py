"""Devices of other makers, and APIs that changed their names."""

from __future__ import annotations

from dataclasses import replace

import pytest
from machines import GOOD_VERSIONS, machine, only

from hfgpu_magic.checks.facts import TorchBuild
from hfgpu_magic.checks.rules import (
    api,
    backends,
)
from hfgpu_magic.devices.snapshot import DeviceSnapshot, DriverInfo, Inventory
from hfgpu_magic.devices.system import UNASKED


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
