"""`torch.compile`: the parts it needs on each machine."""

from __future__ import annotations

import pytest
from machines import GOOD_VERSIONS, machine, only, without

from hfgpu_magic.checks.facts import System, Target, TorchBuild
from hfgpu_magic.checks.rules import compiling


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
