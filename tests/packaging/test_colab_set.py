"""Beside Colab's packages: nothing moves, and the magics work on IPython 7.34.

A package that upgrades IPython there asks the learner to restart the runtime.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

COLAB = Path(__file__).with_name("colab.txt")
OFFLINE = (
    "NewConnectionError",
    "Failed to establish a new connection",
    "Temporary failure in name resolution",
)

#: A fresh shell that records what `%gpucheck` would display.
SESSION = """
import json, sys
from IPython.core.displaypub import CapturingDisplayPublisher
from IPython.core.interactiveshell import InteractiveShell
import IPython

class Recording(InteractiveShell):
    pass

shell = Recording.instance()
shell.display_pub = CapturingDisplayPublisher()
cells = ["%load_ext hfgpu_magic", "%gpucheck", "%gpucheck --gpu t4", "%gpus t4"]
done = [shell.run_cell(cell) for cell in cells]
bad = shell.run_cell("%gpucheck --gpu t44")
from hfgpu_magic.cells import as_function
try:  # the part of %%gpurun that needs no torch: a cell's error is shown with the cell's lines only
    cell = as_function(shell, "%%gpurun t4", "answer = 6 * 7\\nanswer / 0\\n")
    cell()
except ZeroDivisionError as e:
    cell.draw(e)
    failed = "".join(e._render_traceback_())
shell.run_cell("%unload_ext hfgpu_magic")
print(json.dumps({
    "ipython": IPython.__version__,
    "errors": [repr(r.error_before_exec or r.error_in_exec) for r in done if not r.success],
    "bad": repr(bad.error_in_exec),
    "mimes": [sorted(o["data"]) for o in shell.display_pub.outputs],
    "texts": [o["data"]["text/plain"] for o in shell.display_pub.outputs],
    "answer": shell.user_ns.get("answer"),
    "failed": failed,
    "left": [n for t in shell.magics_manager.magics.values() for n in t if n.startswith("gpu")],
    "imported": [m for m in ("torch", "ipywidgets", "anywidget", "rich") if m in sys.modules],
}))
"""


def colab_python() -> str:
    """Colab's Python 3.13 where the machine has one, else the Python of this run."""
    candidates = [os.environ.get("HFGPU_COLAB_PYTHON"), shutil.which("python3.13")]
    if pyenv := shutil.which("pyenv"):
        root = subprocess.run([pyenv, "root"], capture_output=True, text=True, check=False).stdout.strip()
        candidates += sorted(map(str, Path(root, "versions").glob("3.13.*/bin/python")), reverse=True)
    for candidate in candidates:
        # A shim may stand there without a Python behind it.
        if candidate and subprocess.run([candidate, "-V"], capture_output=True, check=False).returncode == 0:
            return candidate
    return sys.executable


def pip(python: Path, *words: str) -> str:
    done = subprocess.run(
        [str(python), "-m", "pip", "--disable-pip-version-check", *words],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode and any(sign in done.stdout + done.stderr for sign in OFFLINE):
        pytest.skip("no network to install Colab's packages from")
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def colab(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str], list[str]]:
    """A Python with Colab's set and the wheel; what was installed before the wheel and after."""
    folder = tmp_path_factory.mktemp("colab")
    subprocess.run([colab_python(), "-m", "venv", str(folder)], check=True)
    python = folder / "bin" / "python"
    pip(python, "install", "--quiet", "-r", str(COLAB))
    before = pip(python, "freeze").splitlines()
    pip(python, "install", "--quiet", str(wheel))
    return python, before, pip(python, "freeze").splitlines()


def test_no_package_is_moved_or_added(colab: tuple[Path, list[str], list[str]]) -> None:
    _, before, after = colab
    assert [line for line in after if not line.startswith("hfgpu")] == before
    assert len(after) == len(before) + 1


def test_the_set_is_the_one_colab_has(colab: tuple[Path, list[str], list[str]]) -> None:
    wanted = [line for line in COLAB.read_text().splitlines() if "==" in line]
    have = {line.lower().replace("_", "-") for line in colab[1]}
    assert {line.lower().replace("_", "-") for line in wanted} <= have


def test_gpucheck_works_there(colab: tuple[Path, list[str], list[str]], tmp_path: Path) -> None:
    environ = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | {"IPYTHONDIR": str(tmp_path)}
    done = subprocess.run(
        [str(colab[0]), "-c", SESSION], capture_output=True, text=True, cwd=tmp_path, env=environ, check=True
    )
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["ipython"] == "7.34.0"
    assert found["errors"] == []
    assert found["mimes"] == [["text/html", "text/plain"]] * 3
    assert all(text.strip() for text in found["texts"])
    assert "No GPU called 't44'" in found["bad"]
    assert "UsageError: No GPU called 't44'" in done.stderr
    assert "Traceback" not in done.stderr
    assert found["answer"] == 42
    assert "answer" in found["failed"]
    assert "hfgpu_magic" not in found["failed"]
    assert found["left"] == []
    assert found["imported"] == []


def test_the_command_works_there(colab: tuple[Path, list[str], list[str]], tmp_path: Path) -> None:
    environ = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    hfgpu = colab[0].with_name("hfgpu")
    done = subprocess.run(
        [str(hfgpu), "check", "--json"], capture_output=True, text=True, cwd=tmp_path, env=environ, check=True
    )
    assert json.loads(done.stdout)["versions"]["nvidia-ml-py"] == "13.610.43"
