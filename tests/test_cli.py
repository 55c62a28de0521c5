"""`hfgpu` as other programs see it: its output, its JSON and its exit status."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import pytest

from hfgpu_magic import parsers

ROOT = Path(__file__).parents[1]


def hfgpu(*words: str, cwd: Path = ROOT, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "hfgpu_magic", *words],
        capture_output=True,
        text=True,
        encoding="utf-8",
        cwd=cwd,
        env=_environ(environ),
        check=False,
    )


def _environ(extra: dict[str, str]) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUTF8": "1", **extra}


def one_object(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    data = json.loads(done.stdout)  # fails on anything before or after the one object
    assert isinstance(data, dict)
    return data


@pytest.mark.parametrize("words", [(), ("help",), ("--help",), ("-h",)])
def test_help_is_one_screen_of_all_verbs(words: tuple[str, ...]) -> None:
    done = hfgpu(*words)
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert len(lines) <= 24
    assert max(map(len, lines)) <= 80
    for verb in parsers.verbs("command"):
        assert f"  hfgpu {verb} " in done.stdout


@pytest.mark.parametrize("verb", parsers.verbs("command"))
def test_each_verb_explains_itself(verb: str) -> None:
    asked, helped = hfgpu(verb, "--help"), hfgpu("help", verb)
    assert (asked.returncode, helped.returncode) == (0, 0)
    assert asked.stdout == helped.stdout
    assert asked.stdout.startswith(f"usage: hfgpu {verb} ")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("chek",), "hfgpu: No verb 'chek': did you mean check?"),
        (("frobnicate",), "hfgpu: No verb 'frobnicate': there are check, run"),
        (("check", "--gpo", "t4"), "(did you mean --gpu?). Usage: hfgpu check [-h]"),
        (("check", "--for", "fun"), "invalid choice: 'fun'"),
        (("check", "--gpu", "rtx", "4999"), "No GPU called 'rtx 4999' in the catalog. Nearest:"),
        (("gpus", "t44"), "No GPU called 't44' in the catalog. Nearest: T4"),
        (("run", "x.py"), "The following arguments are required: --gpu"),
        (("run", "--gpu", "t44", "x.py"), "No GPU called 't44'"),
        (("run", "--gpu", "t4", "no/such.py"), "No such script: no/such.py."),
        (("run", "--gpu", "t4", "--timeline", "no/such/x.html", "setup.py"), "No such script"),
        (("run", "--gpu", "t4x0", "x.py"), "Ask for one at least"),
    ],
)
def test_a_mistake_is_one_line_and_exit_status_2(words: tuple[str, ...], said: str) -> None:
    done = hfgpu(*words)
    assert (done.returncode, done.stdout) == (2, "")
    assert said in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_mistake_under_json_is_an_object_too() -> None:
    done = hfgpu("gpus", "t44", "--json")
    assert done.returncode == 2
    assert one_object(done)["error"]["type"] == "UnknownGPUError"
    assert "Traceback" not in done.stderr


def test_the_timeline_s_folder_is_asked_for_before_anything_runs(tmp_path: Path) -> None:
    script = tmp_path / "s.py"
    script.write_text("print('ran')")
    done = hfgpu("run", "--gpu", "t4", "--timeline", str(tmp_path / "none" / "t.html"), str(script))
    assert (done.returncode, done.stdout) == (2, "")
    assert "there is no folder" in done.stderr


def test_gpus_json_is_the_catalog() -> None:
    from hfgpu_magic import gpus

    cards = one_object(hfgpu("gpus", "--json"))["gpus"]
    assert [c["name"] for c in cards] == [g.name for g in gpus()]
    assert all(isinstance(c["memory_total"], int) for c in cards)


def test_gpus_of_one_name() -> None:
    (card,) = one_object(hfgpu("gpus", "a100", "40gb", "--json"))["gpus"]
    assert (card["capability"], card["architecture"]) == ([8, 0], "Ampere")


def test_gpus_text_fits_80_columns_and_has_no_colour_in_a_pipe() -> None:
    done = hfgpu("gpus")
    assert "\x1b" not in done.stdout
    assert max(map(len, done.stdout.splitlines()[:-1])) <= 80


def test_output_is_readable_where_only_ascii_is() -> None:
    done = hfgpu("check", "--gpu", "t4", PYTHONUTF8="0", PYTHONIOENCODING="ascii", LC_ALL="C")
    assert done.returncode == 0
    assert done.stdout.isascii()
    assert "Traceback" not in done.stderr


def test_a_reader_that_leaves_early_is_no_error() -> None:
    command = f"{sys.executable} -m hfgpu_magic gpus | head -n 1"
    done = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {command}"],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=_environ({}),
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_check_json_has_the_keys_it_promises() -> None:
    done = hfgpu("check", "--json")
    data = one_object(done)
    assert done.returncode == 0
    assert {"ok", "checks", "devices", "versions"} <= set(data)
    for row in data["checks"]:
        assert {"id", "title", "status", "found", "required", "why", "fix", "source"} <= set(row)
        assert row["status"] in {"pass", "warn", "fail", "skip"}


def test_strict_turns_a_failed_check_into_exit_status_1() -> None:
    # An 8 GB Pascal card is not what a training job can count on.
    words = ("check", "--gpu", "P4", "--for", "training")
    failed = not one_object(hfgpu(*words, "--json"))["ok"]
    assert failed
    assert hfgpu(*words).returncode == 0
    assert hfgpu(*words, "--strict").returncode == 1


def test_replay_of_what_is_no_recording(tmp_path: Path) -> None:
    other = tmp_path / "other.json"
    other.write_text('{"a": 1}')
    none = tmp_path / "none"
    for path, said in ((other, "is not a recording of the CUDA allocator"), (none, "No such trace")):
        done = hfgpu("replay", str(path))
        assert (done.returncode, done.stdout) == (2, "")
        assert said in done.stderr
        assert done.stderr.count("\n") == 1


def test_replay_json_has_one_row_a_trace() -> None:
    folder = Path(os.environ.get("HFGPU_EVIDENCE") or ROOT.parent / "shared" / "evidence") / "traces"
    traces = sorted(folder.glob("*.json.gz"), key=lambda p: p.stat().st_size)[:2]
    if not traces:
        pytest.skip("no recordings of real cards beside this checkout")
    rows = one_object(hfgpu("replay", "--json", *map(str, traces)))["traces"]
    assert len(rows) == len(traces)
    for row in rows:
        assert {"events", "allocations", "address_matches", "segment_matches", "blocks_matches"} <= set(row)
        assert row["address_matches"] == row["allocations"] > 0


def test_version() -> None:
    from hfgpu_magic import __version__

    assert hfgpu("--version").stdout == f"hfgpu {__version__}\n"


def interruptible() -> None:
    """A job in the background inherits an ignored SIGINT, which Python then leaves ignored."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


class TestRun:
    @pytest.fixture(autouse=True)
    def _torch(self) -> None:
        pytest.importorskip("torch")

    @pytest.fixture
    def script(self, tmp_path: Path) -> Any:
        def write(source: str) -> str:
            path = tmp_path / "script.py"
            path.write_text(textwrap.dedent(source))
            return str(path)

        return write

    def test_what_fits_exits_0_and_is_measured(self, script: Any) -> None:
        path = script("""
            import sys, torch
            x = torch.zeros(2**20, device="cuda")
            print("args", sys.argv[1:])
        """)
        done = hfgpu("run", "--gpu", "t4", "--json", path, "--json", "-x")
        data = one_object(done)
        assert done.returncode == 0
        assert (data["outcome"], data["oom"]) == ("fits", None)
        assert data["peak"]["allocated"] == 4 * 2**20
        assert "args ['--json', '-x']" in done.stderr

    def test_out_of_memory_exits_3_and_names_the_line(self, script: Any) -> None:
        path = script("""\
            import torch
            kept = [torch.zeros(2**28, device="cuda") for _ in range(64)]
        """)
        done = hfgpu("run", "--gpu", "t4", "--json", path)
        data = one_object(done)
        assert (done.returncode, data["outcome"]) == (3, "oom")
        assert Path(data["oom"]["file"]).name == "script.py"
        assert (data["oom"]["line"], data["oom"]["requested"]) == (2, 2**30)
        assert data["oom"]["message"].startswith("CUDA out of memory. Tried to allocate 1024.00 MiB.")

    def test_a_script_that_fails_shows_its_traceback_and_exits_1(self, script: Any) -> None:
        path = script("""\
            import torch
            x = torch.zeros(2**20, device="cuda")
            raise ValueError("mine")
        """)
        done = hfgpu("run", "--gpu", "t4", "--json", path)
        data = one_object(done)
        assert (done.returncode, data["outcome"]) == (1, "error")
        assert data["peak"]["allocated"] == 4 * 2**20
        assert 'script.py", line 3' in done.stderr
        assert done.stderr.rstrip().endswith("ValueError: mine")
        assert "hfgpu_magic" not in done.stderr

    def test_json_stays_alone_on_stdout_whoever_prints(self, script: Any) -> None:
        path = script("""
            import atexit, os, subprocess, sys
            print("python")
            os.write(1, b"descriptor\\n")
            subprocess.run(["echo", "child"])
            sys.__stdout__.write("original\\n")
            atexit.register(print, "late")
        """)
        done = hfgpu("run", "--gpu", "t4", "--json", path)
        assert one_object(done)["outcome"] == "fits"
        for word in ("python", "descriptor", "child", "original", "late"):
            assert word in done.stderr

    def test_without_json_the_script_keeps_its_stdout(self, script: Any) -> None:
        done = hfgpu("run", "--gpu", "t4", script("print('hello')"))
        assert done.stdout.startswith("hello\n")
        assert "Fits on T4" in done.stdout

    def test_the_timeline_is_a_page(self, script: Any, tmp_path: Path) -> None:
        path = script("import torch\nfor _ in range(3):\n    x = torch.zeros(2**20, device='cuda')")
        page = tmp_path / "t.html"
        done = hfgpu("run", "--gpu", "t4", "--timeline", str(page), path)
        assert done.returncode == 0
        assert f"Timeline: {page}" in done.stdout
        assert page.read_text(encoding="utf-8").startswith("<!doctype html>")

    def test_interrupting_ends_it_with_130_and_one_line(self, script: Any) -> None:
        path = script("import time, torch\nprint('started', flush=True)\ntime.sleep(60)")
        running = subprocess.Popen(
            [sys.executable, "-m", "hfgpu_magic", "run", "--gpu", "t4", path],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT, env=_environ({}),
            preexec_fn=interruptible,  # noqa: PLW1509 - no threads here
        )  # fmt: skip
        assert running.stdout is not None
        assert running.stdout.readline() == "started\n"
        time.sleep(0.2)
        running.send_signal(signal.SIGINT)
        _, err = running.communicate(timeout=30)
        assert running.returncode == 130
        assert err.splitlines()[-1].startswith("hfgpu: interrupted")
        assert "hfgpu_magic/cli.py" not in err
