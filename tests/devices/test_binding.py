"""Which distribution stands behind `import pynvml`, and sessions on bindings of other ages."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pynvml
import pytest

from hfgpu_magic.devices.binding import clashing_packages
from hfgpu_magic.devices.na import NA

Ask = Callable[..., Any]
Scenario = Callable[..., dict[str, str]]


OUTDATED = """
import importlib.util, sys
spec = importlib.util.spec_from_file_location("whole_pynvml", {binding!r})
whole = sys.modules["whole_pynvml"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(whole)
young = "MigMode", "CudaComputeCapability", "CudaDriverVersion", "TemperatureV", "NumGpuCores"
globals().update({{k: v for k, v in vars(whole).items() if not any(y in k for y in young)}})
"""


def installed(**versions: str) -> Callable[[str], Any]:
    return lambda name: versions.get(name.replace("-", "_"), NA)


def test_nvidia_ml_py_alone_is_fine() -> None:
    assert list(clashing_packages(pynvml, installed(nvidia_ml_py="13.615.71"))) == []


def test_the_thin_pynvml_is_fine() -> None:
    assert list(clashing_packages(pynvml, installed(nvidia_ml_py="13.615.71", pynvml="13.0.1"))) == []


@pytest.mark.parametrize(
    ("versions", "culprit"),
    [
        ({"pynvml": "11.5.3"}, "pynvml 11.5.3"),
        ({"nvidia_ml_py3": "7.352.0"}, "nvidia-ml-py3 7.352.0"),
    ],
)
def test_a_clash_that_may_shadow(versions: dict[str, str], culprit: str) -> None:
    (sentence,) = clashing_packages(pynvml, installed(nvidia_ml_py="13.615.71", **versions))
    assert sentence.startswith(f"{culprit} installs the same module")
    assert "pip uninstall" in sentence


def test_a_clash_that_did_shadow() -> None:
    outdated = ModuleType("pynvml")
    (sentence,) = clashing_packages(outdated, installed(nvidia_ml_py3="7.352.0"))
    assert "outdated module without nvmlDeviceGetMigMode, from nvidia-ml-py3 7.352.0" in sentence


def test_a_session_on_an_outdated_module_reads_what_it_can(
    nvml_scenario: Scenario, ask: Ask, tmp_path: Path
) -> None:
    # The real binding without what came after 2018, found before the installed one.
    (tmp_path / "pynvml.py").write_text(OUTDATED.format(binding=pynvml.__file__))
    answer = ask(nvml_scenario("one_t4", PYTHONPATH=str(tmp_path))).only
    (card,) = answer["devices"]
    assert (card["name"], card["temperature"]) == ("Tesla T4", 61)
    assert (card["capability"], card["cores"]) == (None, None)
    assert card["processes"][0]["pid"] == 4242
    (problem,) = answer["problems"]
    assert "outdated module" in problem


def test_no_binding_at_all(nvml_scenario: Scenario, ask: Ask, tmp_path: Path) -> None:
    (tmp_path / "pynvml.py").write_text("raise ModuleNotFoundError('No module named pynvml')")
    answer = ask(nvml_scenario("one_t4", PYTHONPATH=str(tmp_path))).only
    assert answer["driver"]["state"] == "error"
    assert answer["devices"] == []
    assert "pip install --force-reinstall nvidia-ml-py" in answer["problems"][0]


def test_a_binding_that_is_not_python_3(nvml_scenario: Scenario, ask: Ask, tmp_path: Path) -> None:
    (tmp_path / "pynvml.py").write_text("print 'NVML'")
    answer = ask(nvml_scenario("one_t4", PYTHONPATH=str(tmp_path))).only
    assert answer["driver"]["message"].startswith("cannot import pynvml: ")
