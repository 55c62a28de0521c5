"""What is installed is what is in the checkout, and it runs from the wheel alone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def unpacked(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("unpacked")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder


def test_it_carries_every_file_of_the_package_and_nothing_else(unpacked: Path) -> None:
    tracked = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", "hfgpu_magic"],
        capture_output=True, text=True, cwd=ROOT, check=False,
    )  # fmt: skip
    if tracked.returncode:
        pytest.skip("not a git checkout")
    in_tree = {line for line in tracked.stdout.splitlines() if (ROOT / line).is_file()}
    in_wheel = {
        str(p.relative_to(unpacked)) for p in unpacked.rglob("*") if p.is_file() and "dist-info" not in str(p)
    }
    assert in_wheel == in_tree
    assert {Path(name).suffix for name in in_wheel} >= {".py", ".toml", ".csv", ".css", ".typed"}


def test_its_metadata(unpacked: Path) -> None:
    (folder,) = unpacked.glob("*.dist-info")
    metadata = Parser().parsestr((folder / "METADATA").read_text(encoding="utf-8"))
    needs = metadata.get_all("Requires-Dist") or []
    base = {n.split(">")[0].split(";")[0].strip() for n in needs if "extra ==" not in n}
    assert base == {"ipython", "nvidia-ml-py"}
    assert set(metadata.get_all("Provides-Extra") or ()) == {"torch", "notebooks", "dev"}
    assert not [n for n in needs if "<" in n or "==" in n.split(";")[0]], "the package holds nothing back"
    assert (folder / "licenses" / "LICENSE").read_text(encoding="utf-8").split()[:2] == ["Apache", "License"]
    assert "hfgpu = hfgpu_magic.cli:entry" in (folder / "entry_points.txt").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "words", [("gpus", "--json"), ("check", "--json"), ("check", "--gpu", "T4", "--json")]
)
def test_it_runs_from_the_wheel_alone(unpacked: Path, tmp_path: Path, words: tuple[str, ...]) -> None:
    environ = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    code = f"import sys; sys.path.insert(0, {str(unpacked)!r}); from hfgpu_magic.cli import entry; entry()"
    done = subprocess.run(
        [sys.executable, "-c", code, *words],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=environ,
        check=True,
    )
    assert json.loads(done.stdout)
