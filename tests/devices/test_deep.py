"""`deep=True`: torch is imported, CUDA is asked in a child, and this process still never starts it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from hfgpu_magic.devices.libcuda import visible_uuids
from hfgpu_magic.devices.probe import inventory

Ask = Callable[..., Any]
Scenario = Callable[..., dict[str, str]]

# As much of torch as the probe may touch; anything else is an AttributeError.
STAND_IN = """
from types import SimpleNamespace
version = SimpleNamespace(hip=None, cuda="13.0")
backends = SimpleNamespace(mps=SimpleNamespace(is_available=lambda: False))
cuda = SimpleNamespace(is_initialized=lambda: False)
"""
RUNNING = """
from types import SimpleNamespace
version = SimpleNamespace(hip=None, cuda="13.0")
backends = SimpleNamespace(mps=SimpleNamespace(is_available=lambda: False))
uuids = ["aaaaaaaa-1111-4111-8111-111111111111", "bbbbbbbb-2222-4222-8222-222222222222"]
cuda = SimpleNamespace(
    is_initialized=lambda: True,
    device_count=lambda: 2,
    get_device_properties=lambda i: SimpleNamespace(uuid=uuids[i]),
)
"""


@pytest.fixture
def stand_in_torch(tmp_path: Path) -> Callable[[str], dict[str, str]]:
    def install(source: str) -> dict[str, str]:
        (tmp_path / "torch.py").write_text(source)
        return {"PYTHONPATH": str(tmp_path)}

    return install


def test_cuda_settles_the_order_from_a_child(
    nvml_scenario: Scenario, ask: Ask, stand_in_torch: Callable[[str], dict[str, str]], tmp_path: Path
) -> None:
    log = tmp_path / "cuda.log"
    env = nvml_scenario("two_cards_swapped", HFGPU_FAKE_CUDA_LOG=str(log), **stand_in_torch(STAND_IN))
    asked = ask(env, deep=True)
    assert [d["cuda_index"] for d in asked.only["devices"]] == [1, 0]
    assert asked.only["problems"] == []  # no estimate any more
    (line,) = log.read_text().splitlines()
    assert line.split()[0] == "cuInit"
    assert line.split()[1] != str(asked.pid)


def test_a_cuda_that_already_runs_is_the_witness(
    nvml_scenario: Scenario, ask: Ask, stand_in_torch: Callable[[str], dict[str, str]], tmp_path: Path
) -> None:
    log = tmp_path / "cuda.log"
    env = nvml_scenario("two_cards_swapped", HFGPU_FAKE_CUDA_LOG=str(log), **stand_in_torch(RUNNING))
    asked = ask(env, deep=True)
    assert [d["cuda_index"] for d in asked.only["devices"]] == [0, 1]
    assert asked.only["problems"] == []
    assert not log.exists()


def test_cuda_that_finds_nothing_is_reported(
    nvml_scenario: Scenario, ask: Ask, stand_in_torch: Callable[[str], dict[str, str]], tmp_path: Path
) -> None:
    env = nvml_scenario("one_t4", **stand_in_torch(STAND_IN))
    quiet = tmp_path / "quiet.txt"
    lines = Path(env["HFGPU_FAKE_NVML"]).read_text().splitlines()
    quiet.write_text("\n".join(line for line in lines if not line.startswith("cuda.")))
    answer = ask(env | {"HFGPU_FAKE_NVML": str(quiet)}, deep=True).only
    assert answer["devices"][0]["cuda_index"] is None
    assert answer["problems"] == [
        "CUDA itself finds no device, although the driver lists 1 that this process should see."
    ]


def test_a_torch_that_cannot_be_imported_is_a_problem_not_a_crash(
    nvml_scenario: Scenario, ask: Ask, stand_in_torch: Callable[[str], dict[str, str]]
) -> None:
    env = nvml_scenario("one_t4", **stand_in_torch("raise OSError('libcudart.so.13: cannot open')"))
    answer = ask(env, deep=True).only
    assert answer["problems"] == ["import torch fails: libcudart.so.13: cannot open"]
    assert answer["devices"][0]["cuda_index"] == 0


def test_a_missing_libcuda_says_so(clean_environment: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "libcuda.so.1").touch()  # unloadable, and in front of a real one
    answer = visible_uuids(clean_environment | {"LD_LIBRARY_PATH": str(tmp_path)})
    assert isinstance(answer, str)
    assert "libcuda.so.1" in answer


# ---- without deep -----------------------------------------------------------------------------------


def backends_found(root: Path) -> set[str]:
    return {d.backend for d in inventory(environ={}, root=root).devices} - {"cuda"}


def test_an_imported_torch_is_asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    torch = SimpleNamespace(
        version=SimpleNamespace(hip=None),
        cuda=SimpleNamespace(is_initialized=lambda: False),
        npu=SimpleNamespace(is_initialized=lambda: False, device_count=lambda: 1),
    )
    monkeypatch.setitem(sys.modules, "torch", torch)
    assert backends_found(tmp_path) == {"npu"}


def test_a_half_imported_torch_is_left_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "torch", ModuleType("torch"))
    assert backends_found(tmp_path) == set()
