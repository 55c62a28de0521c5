"""Asking for the inventory in a process of its own, as a user's process would."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]

# One child can go through many scenario files: the stand-in reads its file anew at each nvmlInit.
CHILD = """
import json, os, sys, time
from hfgpu_magic._result import plain
from hfgpu_magic.devices.probe import inventory
deep, scenarios = sys.argv[1] == "deep", sys.argv[2:]
answers = []
for scenario in scenarios or [None]:
    if scenario:
        os.environ["HFGPU_FAKE_NVML"] = scenario
    started = time.perf_counter()
    answer = plain(inventory(deep=deep))
    answer["seconds"] = time.perf_counter() - started
    answers.append(answer)
print(json.dumps({"answers": answers, "modules": sorted(sys.modules), "pid": os.getpid()}))
"""


class Asked:
    """What one child told: an inventory per scenario file, and what it had to import for that."""

    def __init__(self, raw: dict[str, Any]) -> None:
        self.answers: list[dict[str, Any]] = raw["answers"]
        self.modules: list[str] = raw["modules"]
        self.pid: int = raw["pid"]

    @property
    def only(self) -> dict[str, Any]:
        (answer,) = self.answers
        return answer


@pytest.fixture(scope="session")
def ask() -> Callable[..., Asked]:
    def run(env: dict[str, str], scenarios: Sequence[Path] = (), *, deep: bool = False) -> Asked:
        command = [sys.executable, "-c", CHILD, "deep" if deep else "", *map(str, scenarios)]
        child = subprocess.run(
            command,
            env=env | {"PYTHONPATH": f"{ROOT}:{env.get('PYTHONPATH', '')}".rstrip(":")},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert child.returncode == 0, child.stderr
        assert child.stderr == ""
        return Asked(json.loads(child.stdout))

    return run
