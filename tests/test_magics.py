"""The verbs in a notebook, seen through a shell that records what it would display."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from typing import Any

import pytest

from hfgpu_magic import parsers


@pytest.fixture
def shell() -> Iterator[Any]:
    from IPython.core.displaypub import CapturingDisplayPublisher
    from IPython.core.interactiveshell import InteractiveShell

    class Recording(InteractiveShell):
        """What a kernel's shell is here: a publisher in place of a terminal."""

    InteractiveShell.clear_instance()
    made = Recording.instance()
    made.history_manager.enabled = False
    made.display_pub = CapturingDisplayPublisher()
    made.run_line_magic("load_ext", "hfgpu_magic")
    yield made
    Recording.clear_instance()


def bundles(shell: Any) -> list[dict[str, str]]:
    return [output["data"] for output in shell.display_pub.outputs]


@pytest.mark.parametrize(
    "cell", ["%gpus t4", "%gpus", "%gpucheck", "%gpucheck --gpu rtx 4090 --for training"]
)
def test_a_result_comes_as_text_and_as_html(shell: Any, cell: str) -> None:
    assert shell.run_cell(cell).success
    (bundle,) = bundles(shell)
    assert set(bundle) == {"text/plain", "text/html"}
    assert bundle["text/plain"].strip()
    assert bundle["text/html"].startswith("<div")
    assert "\x1b" not in bundle["text/plain"]


def test_plain_leaves_the_html_out(shell: Any) -> None:
    shell.run_cell("%gpus t4 --plain")
    assert [set(b) for b in bundles(shell)] == [{"text/plain"}]


@pytest.mark.parametrize(
    ("cell", "said"),
    [
        ("%gpus t44", "No GPU called 't44' in the catalog. Nearest: T4"),
        ("%%gpurun t44\n1", "No GPU called 't44' in the catalog. Nearest: T4"),
        ("%gpucheck --gpu t44", "No GPU called 't44' in the catalog. Nearest: T4"),
        ("%gpucheck --fro training", "(did you mean --for?). Usage: %gpucheck [-h] [--gpu NAME]"),
        ("%gpucheck --for fun", "invalid choice: 'fun'"),
        ("%%gpurun\n1", "The following arguments are required: NAME. Usage: %%gpurun"),
        ("%%gpurun t4 --into a-b\n1", "--into needs a variable name, not 'a-b'."),
        ("%gpus 't4", "No closing quotation"),
        ("%gpuhelp me", "invalid choice: 'me'"),
    ],
)
def test_a_mistake_is_one_line_and_no_traceback(
    shell: Any, capsys: pytest.CaptureFixture[str], cell: str, said: str
) -> None:
    assert not shell.run_cell(cell).success
    out, err = capsys.readouterr()
    assert err.startswith("UsageError: ")
    assert said in err
    assert err.rstrip("\n").count("\n") == 0
    assert out == ""
    assert bundles(shell) == []


@pytest.mark.parametrize("verb", parsers.verbs("magic"))
def test_question_mark_shows_the_parser_s_own_help(shell: Any, verb: str) -> None:
    name = parsers.MAGICS[verb]
    function = shell.find_magic(name.lstrip("%"), "cell" if name.startswith("%%") else "line")
    assert parsers.parser_for(verb, "magic").format_help().rstrip() in function.__doc__


LINE_VERBS = [v for v in parsers.verbs("magic") if not parsers.MAGICS[v].startswith("%%")]


@pytest.mark.parametrize("verb", LINE_VERBS)
def test_h_prints_the_help_and_succeeds(shell: Any, capsys: pytest.CaptureFixture[str], verb: str) -> None:
    assert shell.run_cell(f"{parsers.MAGICS[verb]} -h").success
    assert capsys.readouterr().out.startswith(f"usage: {parsers.MAGICS[verb]} ")


def test_gpuhelp_is_one_screen_that_names_every_magic(shell: Any, capsys: pytest.CaptureFixture[str]) -> None:
    shell.run_cell("%gpuhelp")
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) <= 24
    assert max(map(len, lines)) <= 80
    for magic in parsers.MAGICS.values():
        assert any(line.split()[:1] == [magic] for line in lines)


def test_gpuhelp_of_one_verb_is_that_verb_s_help(shell: Any, capsys: pytest.CaptureFixture[str]) -> None:
    shell.run_cell("%gpuhelp check")
    assert capsys.readouterr().out.startswith("usage: %gpucheck ")


def test_a_variable_can_name_the_gpu(shell: Any) -> None:
    shell.run_cell("card = 'rtx 4090'\n%gpus {card}")
    assert bundles(shell)[0]["text/plain"].startswith("RTX 4090\n")


class TestGpurun:
    @pytest.fixture(autouse=True)
    def _torch(self) -> None:
        pytest.importorskip("torch")

    def test_the_cell_runs_on_the_card_it_names(self, shell: Any) -> None:
        cell = "import torch\nx = torch.zeros(2**20, device='cuda')\nname = torch.cuda.get_device_name()"
        assert shell.run_cell(f"%%gpurun T4 --into found\n{cell}").success
        assert shell.user_ns["name"] == "Tesla T4"
        assert shell.user_ns["found"].peak.allocated == 4 * 2**20
        assert "T4" in bundles(shell)[-1]["text/html"]

    def test_running_out_is_reported_with_the_cell_s_line(self, shell: Any) -> None:
        cell = (
            "import torch\nkept = []\nfor _ in range(64):\n    kept.append(torch.zeros(2**28, device='cuda'))"
        )
        shell.run_cell(f"%%gpurun T4 --into found\n{cell}")
        found = shell.user_ns["found"]
        assert (found.outcome, found.oom.line) == ("oom", 5)  # as the editor counts: %%gpurun is line 1
        assert found.oom.requested == 2**30

    def test_nothing_virtual_is_left_behind(self, shell: Any) -> None:
        import torch

        shell.run_cell("%%gpurun T4\nimport torch\ntorch.zeros(1, device='cuda')")
        assert torch.cuda.is_available() is False

    def test_a_cell_that_fails_shows_only_its_own_lines(
        self, shell: Any, capsys: pytest.CaptureFixture[str]
    ) -> None:
        done = shell.run_cell(
            "%%gpurun T4 --into found\nimport torch\nx = torch.zeros(4, device='cuda')\n1/0\n"
        )
        assert isinstance(done.error_in_exec, ZeroDivisionError)
        shown = re.sub(r"\x1b\[[\d;]*m", "", "".join(capsys.readouterr()))
        assert re.search(r"^-+> 4 1/0$", shown, re.MULTILINE)
        assert "hfgpu_magic" not in shown
        assert shell.user_ns["found"].outcome == "error"

    def test_a_syntax_error_is_one_line_with_the_editor_s_number(
        self, shell: Any, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert not shell.run_cell("%%gpurun T4\nx = 1\ny = (\n").success
        said = capsys.readouterr().err
        assert said.startswith("UsageError: SyntaxError in line 3 of the cell: ")
        assert said.count("\n") == 1

    def test_a_last_expression_is_shown_as_in_any_cell(
        self, shell: Any, capsys: pytest.CaptureFixture[str]
    ) -> None:
        shell.run_cell("%%gpurun T4\nx = 6 * 7\nx")
        assert "42" in capsys.readouterr().out

    def test_beside_a_real_gpu_the_cell_has_a_process_of_its_own(
        self, shell: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("hfgpu_magic.measured.has_real_gpu", lambda: True)
        shell.user_ns["mine"] = 1
        cell = (
            "import os, torch\nx = torch.zeros(2**20, device='cuda')\nprint(os.getppid(), 'mine' in vars())"
        )
        assert shell.run_cell(f"%%gpurun T4 --into found\n{cell}").success
        assert f"{os.getpid()} False" in capsys.readouterr().out
        assert shell.user_ns["found"].peak.allocated == 4 * 2**20
        assert "a process of its own" in bundles(shell)[-1]["text/plain"]

    def test_a_failure_there_stops_the_notebook_too(
        self, shell: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("hfgpu_magic.measured.has_real_gpu", lambda: True)
        assert not shell.run_cell("%%gpurun T4\n\n1/0").success
        out, err = capsys.readouterr()
        assert re.search(r'hfgpu-cell.py", line 3', out)
        assert err == (
            "UsageError: The cell failed with ZeroDivisionError: division by zero; its traceback is above.\n"
        )

    def test_auto_without_a_gpu_is_a_virtual_t4(self, shell: Any) -> None:
        assert shell.run_cell(
            "%%gpurun auto --into found\nimport torch\ntorch.zeros(1, device='cuda')"
        ).success
        assert (shell.user_ns["found"].gpu, shell.user_ns["found"].measured) == ("T4", False)

    def test_demand_says_what_would_have_been_needed(self, shell: Any) -> None:
        cell = "import torch\nkept = [torch.zeros(2**28, device='cuda') for _ in range(20)]"
        assert shell.run_cell(f"%%gpurun T4 --demand --into found\n{cell}").success
        assert shell.user_ns["found"].demand.peak.allocated == 20 * 2**30
        assert "With memory to spare it would have reached 20." in bundles(shell)[-1]["text/plain"]

    def test_ipython_syntax_in_the_cell_works(self, shell: Any) -> None:
        shell.run_cell("%%gpurun T4\nhere = %pwd\n")
        assert isinstance(shell.user_ns["here"], str)


def test_check_and_its_json_speak_of_the_same_profiles() -> None:
    """`--for`'s choices are written in the parser; the profiles themselves are a table of the checks."""
    from hfgpu_magic import check

    for profile in parsers.PROFILES:
        assert json.dumps(check(gpu="T4", profile=profile).to_dict())


def test_gpumem_without_a_gpu_says_so_in_a_sentence(shell: Any, capsys: pytest.CaptureFixture[str]) -> None:
    result = shell.run_cell("%%gpumem\n1 + 1")
    assert isinstance(result.error_in_exec or result.error_before_exec, Exception)
    said = capsys.readouterr()
    assert "nothing to measure" in said.err + said.out
    assert "Traceback" not in said.err + said.out


def test_gpumem_keeps_its_report_and_lets_a_failed_cell_go(
    shell: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A virtual card in the measured one's place: the two are used alike."""
    pytest.importorskip("torch")
    from hfgpu_magic.virtual import VirtualGPU

    monkeypatch.setattr("hfgpu_magic.measured.measure", lambda: VirtualGPU("T4"))
    cell = "import torch, weakref\ndef fill():\n    held = torch.nn.Linear(2, 2)\n    global seen\n"
    cell += "    seen = weakref.ref(held)\n    return torch.empty(2**40, device='cuda')\nfill()"
    assert shell.run_cell(f"%%gpumem --into found\n{cell}").success
    assert shell.user_ns["found"].outcome == "oom"
    assert shell.user_ns["seen"]() is None
    assert bundles(shell)[-1]["text/plain"].startswith("✗ Out of memory")
