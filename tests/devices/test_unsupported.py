"""Each field refused in turn: it becomes NA, and nothing else changes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fake_nvml import scenario_path

Ask = Callable[..., Any]
Scenario = Callable[..., dict[str, str]]

# The NVML calls behind a field (all of them: an older call may stand in) -> the fields that go with them.
FIELDS: list[tuple[tuple[str, ...], set[str]]] = [
    (("nvmlDeviceGetName",), {"name"}),
    (("nvmlDeviceGetUUID",), {"uuid"}),
    (("nvmlDeviceGetCudaComputeCapability",), {"capability", "unified_memory"}),
    (("nvmlDeviceGetMemoryInfo_v2", "nvmlDeviceGetMemoryInfo"), {"total", "used", "free", "reserved"}),
    (("nvmlDeviceGetUtilizationRates",), {"utilization", "memory_utilization"}),
    (("nvmlDeviceGetTemperatureV", "nvmlDeviceGetTemperature"), {"temperature"}),
    (("nvmlDeviceGetPowerUsage",), {"power"}),
    (("nvmlDeviceGetEnforcedPowerLimit",), {"power_limit"}),
    (("nvmlDeviceGetClockInfo",), {"sm_clock", "memory_clock"}),
    (("nvmlDeviceGetMaxClockInfo",), {"max_sm_clock"}),
    (
        ("nvmlDeviceGetCurrentClocksEventReasons", "nvmlDeviceGetCurrentClocksThrottleReasons"),
        {"throttle_reasons"},
    ),
    (("nvmlDeviceGetEccMode",), {"ecc"}),
    (("nvmlDeviceGetPersistenceMode",), {"persistence"}),
    (("nvmlDeviceGetDisplayActive",), {"display_active"}),
    (("nvmlDeviceGetComputeMode",), {"compute_mode"}),
    (("nvmlDeviceGetMigMode",), {"mig_enabled"}),
    (("nvmlDeviceGetPciInfo_v3",), {"pci_bus_id"}),
    (("nvmlDeviceGetNumGpuCores",), {"cores"}),
    (
        ("nvmlDeviceGetComputeRunningProcesses_v3", "nvmlDeviceGetGraphicsRunningProcesses_v3"),
        {"processes"},
    ),
]
REFUSALS = ("NOT_SUPPORTED", "FUNCTION_NOT_FOUND", "NO_PERMISSION", "TIMEOUT", "UNKNOWN")


def variant(folder: Path, *lines: str) -> Path:
    """one_t4 with every field filled, and then these lines, which win."""
    path = folder / f"{len(list(folder.iterdir()))}.txt"
    extra = ("device0.mig=0", "device0.process1=77|graphics|1MiB|Xorg", *lines, "")
    path.write_bytes(scenario_path("one_t4").read_bytes() + "\n".join(extra).encode())
    return path


@pytest.mark.parametrize("refusal", REFUSALS)
def test_a_refused_field_is_na_and_alone(
    refusal: str, nvml_scenario: Scenario, ask: Ask, tmp_path: Path
) -> None:
    files = [variant(tmp_path)]
    files += [variant(tmp_path, *(f"device0.error.{f}={refusal}" for f in calls)) for calls, _ in FIELDS]
    full, *refused = (a["devices"][0] for a in ask(nvml_scenario("one_t4"), files).answers)
    absent = {"mig_parent", "mig_instance", "sm_count"}  # no field of a whole GPU
    assert {k for k, v in full.items() if v is None} == absent
    for (calls, fields), card in zip(FIELDS, refused, strict=True):
        expected = {k: None if k in fields else v for k, v in full.items()}
        assert card == expected, f"{calls[0]} refused with {refusal}"


def test_the_table_above_covers_every_field(nvml_scenario: Scenario, ask: Ask) -> None:
    (card,) = ask(nvml_scenario("one_t4")).only["devices"]
    covered = set().union(*(fields for _, fields in FIELDS))
    own = {"index", "cuda_index", "backend", "state", "message"}  # not the driver's
    assert set(card) - covered - own == {"mig_parent", "mig_instance", "sm_count"}


def test_a_card_lost_between_two_calls_is_marked_and_keeps_what_was_read(
    nvml_scenario: Scenario, ask: Ask, tmp_path: Path
) -> None:
    file = variant(tmp_path, "device0.error.nvmlDeviceGetPowerUsage=GPU_IS_LOST")
    (card,) = ask(nvml_scenario("one_t4"), [file]).only["devices"]
    assert (card["state"], card["name"], card["cuda_index"]) == ("lost", "Tesla T4", None)


@pytest.mark.parametrize(
    ("error", "state"), [("NO_PERMISSION", "no_permission"), ("UNKNOWN", "error"), ("GPU_IS_LOST", "lost")]
)
def test_a_card_without_handle_says_why(
    error: str, state: str, nvml_scenario: Scenario, ask: Ask, tmp_path: Path
) -> None:
    file = variant(tmp_path, f"device0.error.nvmlDeviceGetHandleByIndex_v2={error}")
    answer = ask(nvml_scenario("one_t4"), [file]).only
    assert [d["state"] for d in answer["devices"]] == [state]
    assert len(answer["problems"]) == 1


ALL_ONES_32 = "4294967295"
IMPOSSIBLE = [
    ("memory.used=NA", {"used"}),
    ("memory.used=99999MiB", {"used", "free"}),
    ("memory.total=0", {"total"}),
    ("memory.total=NA", {"total"}),
    (f"utilization={ALL_ONES_32}", {"utilization"}),
    ("memory_utilization=101", {"memory_utilization"}),
    (f"temperature={ALL_ONES_32}", {"temperature"}),
    (f"power={ALL_ONES_32}", {"power"}),
    (f"power_limit={ALL_ONES_32}", {"power_limit"}),
    (f"sm_clock={ALL_ONES_32}", {"sm_clock"}),
    ("capability=9999.9999", {"capability"}),
    ("ecc=2", {"ecc"}),
    ("compute_mode=17", {"compute_mode"}),
    ("name=", {"name"}),
    (f"name={'long ' * 40}", {"name"}),
]


def test_impossible_values_are_na(nvml_scenario: Scenario, ask: Ask, tmp_path: Path) -> None:
    files = [variant(tmp_path, f"device0.{line}") for line, _ in IMPOSSIBLE]
    answers = ask(nvml_scenario("one_t4"), files).answers
    for (line, fields), answer in zip(IMPOSSIBLE, answers, strict=True):
        (card,) = answer["devices"]
        assert {f for f in fields if card[f] is not None} == set(), line


def test_text_that_is_not_utf8_is_shown_as_far_as_it_goes(
    nvml_scenario: Scenario, ask: Ask, tmp_path: Path
) -> None:
    file = variant(tmp_path)
    file.write_bytes(file.read_bytes() + b"device0.name=Tesla\xff T4\ndriver.version=580\xfe\n")
    answer = ask(nvml_scenario("one_t4"), [file]).only
    assert answer["devices"][0]["name"] == "Tesla\N{REPLACEMENT CHARACTER} T4"
    assert answer["driver"]["version"] == "580\N{REPLACEMENT CHARACTER}"


@pytest.mark.parametrize(
    "call", ["nvmlSystemGetDriverVersion", "nvmlSystemGetCudaDriverVersion_v2", "nvmlDeviceGetCount_v2"]
)
def test_refused_system_calls(call: str, nvml_scenario: Scenario, ask: Ask, tmp_path: Path) -> None:
    answer = ask(nvml_scenario("one_t4"), [variant(tmp_path, f"error.{call}=UNKNOWN")]).only
    lost = {
        "nvmlSystemGetDriverVersion": answer["driver"]["version"],
        "nvmlSystemGetCudaDriverVersion_v2": answer["driver"]["cuda"],
        "nvmlDeviceGetCount_v2": answer["devices"] or None,
    }
    assert [name for name, value in lost.items() if value is None] == [call]
    assert bool(answer["problems"]) == (call == "nvmlDeviceGetCount_v2")


def test_integrated_gpu_takes_its_total_from_the_host(
    nvml_scenario: Scenario, ask: Ask, tmp_path: Path
) -> None:
    memory = ("nvmlDeviceGetMemoryInfo_v2", "nvmlDeviceGetMemoryInfo")
    file = variant(
        tmp_path, "device0.capability=12.1", *(f"device0.error.{call}=NOT_SUPPORTED" for call in memory)
    )
    (card,) = ask(nvml_scenario("one_t4"), [file]).only["devices"]
    assert card["unified_memory"] is True
    assert card["total"] > 1 << 28
    assert card["used"] is None
