"""`hfgpu check --json` as a whole process on every machine of the stand-in driver."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fake_nvml import SCENARIOS
from machines import Answer, install_torch

Ask = Callable[..., Answer]
Scenario = Callable[..., dict[str, str]]
KEYS = {"ok", "summary", "checks", "devices", "versions"}
CHECK_KEYS = {"id", "title", "status", "found", "required", "why", "fix", "source"}


@pytest.mark.parametrize("name", [*SCENARIOS, None])
def test_the_answer_is_valid_and_complete_on_every_machine(
    name: str | None, nvml_scenario: Scenario, clean_environment: dict[str, str], ask: Ask, site: Path
) -> None:
    install_torch(site, "2.15.0+cu132", cuda="13.2")  # its import would end the process
    env = clean_environment if name is None else nvml_scenario(name)
    answer = ask(env, site=site)
    assert answer.code == 0
    assert "Traceback" not in answer.stderr
    assert set(answer.data) >= KEYS
    assert answer.data["summary"]
    assert len(answer.checks) == len(answer.data["checks"]), "check ids repeat"
    for check in answer.data["checks"]:
        assert set(check) == CHECK_KEYS
        assert check["status"] in ("pass", "warn", "fail", "skip")
        assert check["found"]
        assert check["why"]
        assert check["source"]
    assert answer.data["ok"] is (not any(c["status"] == "fail" for c in answer.data["checks"]))


@pytest.mark.parametrize(
    ("name", "verdicts"),
    [
        (
            "one_t4",
            {
                "gpu.present": "pass",
                "driver.floor": "pass",
                "torch.kernels": "pass",
                "precision.bf16": "warn",
            },
        ),
        (
            "two_cards_swapped",
            {"gpu.order": "warn", "distributed.launcher": "warn", "precision.bf16": "warn"},
        ),
        ("a100_mig", {"gpu.mig": "pass", "gpu.present": "pass", "precision.bf16": "pass"}),
        ("wsl2", {"gpu.present": "pass", "precision.fp8": "pass", "memory.free": "pass"}),
        ("driver_too_old", {"driver.floor": "fail", "torch.kernels": "fail"}),
        ("gpu_lost", {"gpu.health.0": "fail", "driver.state": "pass", "gpu.present": "pass"}),
        ("no_permission", {"driver.state": "fail", "gpu.present": "fail"}),
        ("version_mismatch", {"driver.state": "fail", "gpu.present": "fail"}),
        ("unknown_error", {"driver.state": "fail", "gpu.present": "fail"}),
        ("unsupported_fields", {"gpu.present": "pass", "memory.total": "skip", "driver.floor": "skip"}),
        ("h100x8", {"distributed.launcher": "warn", "memory.free": "warn", "gpu.health.5": "warn"}),
        ("evil_process_name", {"memory.free": "warn"}),
    ],
)
def test_the_verdict_fits_the_machine(
    name: str, verdicts: dict[str, str], nvml_scenario: Scenario, ask: Ask, site: Path
) -> None:
    install_torch(site, "2.15.0+cu132", cuda="13.2")
    answer = ask(nvml_scenario(name), site=site)
    assert {ident: answer.status(ident) for ident in verdicts} == verdicts


def test_a_v100_behind_an_old_driver_gets_the_build_for_both(
    nvml_scenario: Scenario, ask: Ask, site: Path
) -> None:
    install_torch(site, "2.15.0+cu132", cuda="13.2")
    answer = ask(nvml_scenario("driver_too_old"), site=site)
    command = 'pip install "torch==2.15.0+cu126" --index-url https://download.pytorch.org/whl/cu126'
    assert {
        answer.checks[i]["fix"].replace("--force-reinstall ", "") for i in ("driver.floor", "torch.kernels")
    } == {command}


def test_without_any_package_without_driver_the_report_still_comes(
    clean_environment: dict[str, str], ask: Ask
) -> None:
    answer = ask({k: v for k, v in clean_environment.items() if k != "PYTHONPATH"}, bare=True)
    assert answer.code == 0
    assert answer.data["versions"]["torch"] is None
    for name in ("torch", "transformers"):
        assert answer.status(f"package.{name}") == "fail"
        assert answer.checks[f"package.{name}"]["fix"].startswith("pip install")
    assert answer.status("package.nvidia-ml-py") == "warn"
    assert answer.data["ok"] is False


@pytest.mark.parametrize(
    ("value", "part"),
    [("0,7", "'7'"), ("x", "'x'"), ("GPU-nothing", "'GPU-nothing'"), ("0,0", "second time")],
)
def test_a_malformed_cuda_visible_devices_says_which_part(
    value: str, part: str, nvml_scenario: Scenario, ask: Ask
) -> None:
    check = ask(nvml_scenario("one_t4", CUDA_VISIBLE_DEVICES=value)).checks["gpu.visible"]
    assert check["status"] == "fail"
    assert part in check["found"]


def test_hiding_every_gpu_is_a_warning_not_a_mistake(nvml_scenario: Scenario, ask: Ask) -> None:
    answer = ask(nvml_scenario("one_t4", CUDA_VISIBLE_DEVICES="-1"))
    assert (answer.status("gpu.visible"), answer.status("gpu.present")) == ("warn", "warn")
    assert "hidden by CUDA_VISIBLE_DEVICES='-1'" in answer.checks["gpu.present"]["found"]


def test_a_malformed_allocator_setting_is_quoted_from_pytorch(nvml_scenario: Scenario, ask: Ask) -> None:
    check = ask(nvml_scenario("one_t4", PYTORCH_CUDA_ALLOC_CONF="max_split_size_mb:abc")).checks[
        "settings.allocator"
    ]
    assert check["status"] == "fail"
    assert "max_split_size_mb:abc" in check["found"]


def test_a_catalog_card_replaces_this_machines(nvml_scenario: Scenario, ask: Ask, site: Path) -> None:
    install_torch(site, "2.15.0+cu132", cuda="13.2")
    answer = ask(nvml_scenario("one_t4"), "--gpu", "GTX 1080", site=site)
    (device,) = answer.data["devices"]
    assert device["name"] == "NVIDIA GeForce GTX 1080"
    assert answer.data["gpu"] == "GTX 1080"
    assert answer.status("torch.kernels") == "fail"
    assert answer.status("driver.floor") == "skip"


def test_several_catalog_cards_make_several_devices(clean_environment: dict[str, str], ask: Ask) -> None:
    answer = ask(clean_environment, "--gpu", "T4x2", "--for", "distributed")
    assert [d["cuda_index"] for d in answer.data["devices"]] == [0, 1]
    assert answer.status("distributed.devices") == "pass"


def test_strict_ends_with_1_when_a_check_fails(nvml_scenario: Scenario, ask: Ask, site: Path) -> None:
    install_torch(site, "2.15.0+cu132", cuda="13.2")
    assert ask(nvml_scenario("driver_too_old"), "--strict", site=site).code == 1
    assert ask(nvml_scenario("driver_too_old"), site=site).code == 0


def test_nothing_of_nvml_or_cuda_is_touched_beyond_reading(
    nvml_scenario: Scenario, ask: Ask, site: Path, tmp_path: Path
) -> None:
    install_torch(site, "2.15.0+cu132", cuda="13.2")
    log = tmp_path / "cuda.log"
    ask(nvml_scenario("one_t4", HFGPU_FAKE_CUDA_LOG=str(log)), site=site)
    assert not log.exists()


def _html(answer: dict[str, Any]) -> str:
    from hfgpu_magic.checks.report import CheckReport
    from hfgpu_magic.checks.rule import Check

    return CheckReport(
        answer["ok"], answer["summary"], tuple(Check(**c) for c in answer["checks"]), (), answer["versions"]
    ).to_html()


def test_a_process_called_script_cannot_run_in_the_notebook(nvml_scenario: Scenario, ask: Ask) -> None:
    answer = ask(nvml_scenario("evil_process_name"))
    assert "<script>" in answer.checks["memory.free"]["found"]
    html = _html(answer.data)
    assert "<script" not in html
    assert "&lt;script&gt;" in html
