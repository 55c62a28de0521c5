"""Whole programs and notebook cells on a virtual card: `hfgpu run`, `run_script`, `run_cell`."""

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

from hfgpu_magic.errors import UnknownGPUError, UsageError
from hfgpu_magic.runner import run_cell, run_script

torch = pytest.importorskip("torch")

Script = Any


@pytest.fixture
def script(tmp_path: Path) -> Script:
    def write(source: str) -> Path:
        path = tmp_path / "train.py"
        path.write_text(textwrap.dedent(source), encoding="utf-8")
        return path

    return write


def _command(*words: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "hfgpu_magic", *map(str, words)],
        capture_output=True, text=True, timeout=120, check=False,
        env=os.environ | environment, cwd=Path(__file__).parents[1],
    )  # fmt: skip


def interruptible() -> None:
    """A job in the background inherits an ignored SIGINT, which Python then leaves ignored."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


class TestCommand:
    def test_a_program_that_fits(self, script: Script) -> None:
        path = script(
            """
            import sys, torch
            print("name", __name__, "args", sys.argv[1:], "file", __file__)
            print("card", torch.cuda.get_device_name())
            x = torch.ones(1024, 1024, device="cuda")
            sys.exit(0)
            """
        )
        done = _command("run", "--gpu", "t4", path, "--epochs", "3", "-x")
        assert done.returncode == 0, done.stderr
        assert f"name __main__ args ['--epochs', '3', '-x'] file {path}" in done.stdout
        assert "card Tesla T4" in done.stdout
        assert "4.00 MiB" in done.stdout  # the report follows
        assert done.stderr == ""

    def test_json_is_one_object_and_the_programs_output_goes_to_stderr(self, script: Script) -> None:
        path = script(
            "import torch, os; print('hello'); os.system('echo from a child'); torch.ones(8, device='cuda')"
        )
        done = _command("run", "--json", "--gpu", "T4", path)
        data = json.loads(done.stdout)
        assert (done.returncode, data["outcome"], data["gpu"]) == (0, "fits", "T4")
        assert data["peak"]["allocated"] == 512
        assert "hello" in done.stderr
        assert "from a child" in done.stderr

    def test_out_of_memory_is_exit_code_3_with_file_and_line(self, script: Script) -> None:
        path = script(
            "import torch\nx = torch.empty(1 << 30, device='cuda')\ny = torch.empty(4 << 30, device='cuda')\n"
        )
        done = _command("run", "--json", "--gpu", "T4", path)
        oom = json.loads(done.stdout)["oom"]
        assert done.returncode == 3
        assert (oom["file"], oom["line"], oom["requested"]) == (str(path), 3, 16 << 30)
        assert oom["message"].startswith("CUDA out of memory. Tried to allocate 16.00 GiB")

    def test_an_error_is_exit_code_1_with_the_programs_own_traceback(self, script: Script) -> None:
        path = script(
            "import torch\ndef f(x):\n    return x + torch.ones(2)\nf(torch.ones(2, device='cuda'))\n"
        )
        done = _command("run", "--gpu", "T4", path)
        assert done.returncode == 1
        assert "Traceback (most recent call last):" in done.stderr
        assert f'File "{path}", line 4, in <module>' in done.stderr
        assert f'File "{path}", line 3, in f' in done.stderr
        assert "found at least two devices, cuda:0 and cpu!" in done.stderr
        assert "hfgpu_magic" not in done.stderr
        assert "vgpu" not in done.stdout + done.stderr

    def test_ctrl_c_reports_what_was_so_far(self, script: Script) -> None:
        path = script(
            "import torch, time\nx = torch.ones(1 << 20, device='cuda')\n"
            "print('ready', flush=True)\ntime.sleep(60)\n"
        )
        with subprocess.Popen(
            [sys.executable, "-m", "hfgpu_magic", "run", "--gpu", "T4", str(path)],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=Path(__file__).parents[1],
            preexec_fn=interruptible,  # noqa: PLW1509 - no threads here
        ) as child:  # fmt: skip
            assert child.stdout is not None
            assert child.stdout.readline() == "ready\n"
            started = time.monotonic()
            child.send_signal(signal.SIGINT)
            out, errors = child.communicate(timeout=30)
        assert time.monotonic() - started < 20
        assert child.returncode == 130  # as every program ended by Ctrl-C
        assert "4.00 MiB" in out
        assert "Traceback" not in out + errors

    @pytest.mark.parametrize(
        ("words", "sentence"),
        [
            (("--gpu", "T4", "absent.py"), "absent.py"),
            (("--gpu", "Z9000", __file__), "No GPU called 'Z9000'"),
        ],
    )
    def test_mistakes_are_one_sentence_and_quick(self, words: tuple[str, ...], sentence: str) -> None:
        done = _command("run", *words, PYTHONPROFILEIMPORTTIME="1")
        assert done.returncode not in (0, 1, 3)
        said = [line for line in done.stderr.splitlines() if not line.startswith("import time:")]
        assert sentence in "\n".join(said)
        assert "Traceback" not in done.stderr
        assert len(said) <= 3
        assert not any(line.split("|")[-1].strip() == "torch" for line in done.stderr.splitlines())

    def test_a_syntax_error_is_told_without_our_traceback(self, script: Script) -> None:
        done = _command("run", "--gpu", "T4", script("def f(:\n"))
        assert done.returncode not in (0, 3)
        assert "line 1" in done.stderr
        assert "hfgpu_magic" not in done.stderr


class TestRunScript:
    def test_main_argv_and_path_are_the_scripts_and_come_back(self, script: Script, tmp_path: Path) -> None:
        (tmp_path / "helper_of_the_script.py").write_text("VALUE = 7\n", encoding="utf-8")
        before = sys.argv, sys.path[:], sys.modules["__main__"]
        path = script(
            """
            import sys
            from helper_of_the_script import VALUE
            assert VALUE == 7 and sys.argv == [__file__, "a"] and __name__ == "__main__"
            assert sys.modules["__main__"].VALUE == 7
            """
        )
        assert run_script(path, ["a"], gpu="T4").outcome == "fits"
        assert (sys.argv, sys.path, sys.modules["__main__"]) == before

    @pytest.mark.parametrize(
        ("statement", "outcome"),
        [("exit(0)", "fits"), ("exit()", "fits"), ("exit(5)", "error"), ("exit('no data')", "error")],
    )
    def test_exit_codes(self, statement: str, outcome: str, script: Script) -> None:
        assert run_script(script(f"import sys\nsys.{statement}"), gpu="T4").outcome == outcome

    def test_a_message_given_to_exit_is_printed(
        self, script: Script, capsys: pytest.CaptureFixture[str]
    ) -> None:
        report = run_script(script("import sys\nsys.exit('no data found')"), gpu="T4")
        assert "no data found" in capsys.readouterr().err
        assert report.error == "SystemExit: no data found"

    def test_a_chained_error_is_shown_whole(self, script: Script, capsys: pytest.CaptureFixture[str]) -> None:
        run_script(
            script("try:\n    1/0\nexcept ZeroDivisionError as e:\n    raise ValueError('x') from e"),
            gpu="T4",
        )
        shown = capsys.readouterr().err
        assert "ZeroDivisionError: division by zero" in shown
        assert "direct cause" in shown
        assert shown.rstrip().endswith("ValueError: x")

    def test_mistakes(self, script: Script, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match="No script at"):
            run_script(tmp_path / "absent.py", gpu="T4")
        with pytest.raises(UsageError, match="not a Python program"):
            run_script(script("def f(:"), gpu="T4")
        with pytest.raises(UnknownGPUError):
            run_script(script("pass"), gpu="Z9000")

    def test_the_environment_is_put_back(self, script: Script, monkeypatch: pytest.MonkeyPatch) -> None:
        """In a process that lives on, a later program must find its own GPU settings."""
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
        run_script(script("pass"), gpu="T4")
        assert os.environ["CUDA_VISIBLE_DEVICES"] == "3"

    def test_programs_with_worker_processes(self, script: Script) -> None:
        path = script(
            """
            import torch
            data = torch.utils.data.TensorDataset(torch.arange(8.0))
            def main():
                for (x,) in torch.utils.data.DataLoader(data, batch_size=4, num_workers=2, pin_memory=True):
                    assert x.cuda(non_blocking=True).is_cuda
            if __name__ == "__main__":
                main()
            """
        )
        assert run_script(path, gpu="T4").outcome == "fits"


class TestRunCell:
    def test_the_namespace_is_the_notebooks(self) -> None:
        namespace: dict[str, Any] = {"n": 3}
        report = run_cell("import torch\nresult = torch.ones(n, device='cuda').shape", namespace, gpu="T4")
        assert report.outcome == "fits"
        assert namespace["result"] == torch.Size([3])

    def test_out_of_memory_is_a_result_without_a_traceback(self, capsys: pytest.CaptureFixture[str]) -> None:
        report = run_cell(
            "import torch\n\ntorch.empty(99 << 30, device='cuda')", {}, gpu="T4", filename="<cell 7>"
        )
        assert report.oom is not None
        assert (report.outcome, report.oom.file, report.oom.line) == ("oom", "<cell 7>", 3)
        assert report.oom.code == "torch.empty(99 << 30, device='cuda')"
        assert capsys.readouterr().err == ""

    def test_an_error_is_shown_with_the_cells_line(self, capsys: pytest.CaptureFixture[str]) -> None:
        report = run_cell("x = 1\nraise ValueError('mine')", {}, gpu="T4", filename="<cell 8>")
        shown = capsys.readouterr().err
        assert report.error == "ValueError: mine"
        assert 'File "<cell 8>", line 2' in shown
        assert "hfgpu_magic" not in shown

    def test_no_exception_is_kept_alive(self) -> None:
        """A failed cell's tensors must not be held by the report or by sys.last_value."""
        import gc
        import weakref

        gc.collect()
        gc.disable()
        try:
            namespace: dict[str, Any] = {"seen": []}
            source = (
                "import torch, weakref\n"
                "def f():\n"
                "    x = torch.empty(8, device='cuda'); seen.append(weakref.ref(x))\n"
                "    torch.empty(99 << 30, device='cuda')\n"
                "f()"
            )
            run_cell(source, namespace, gpu="T4")
            (reference,) = namespace["seen"]
            assert isinstance(reference, weakref.ref)
            assert reference() is None
        finally:
            gc.enable()

    def test_what_it_would_have_needed(self) -> None:
        source = "import torch\nx = torch.empty(10 << 30, dtype=torch.uint8, device='cuda')\ny = x.clone()"
        report = run_cell(source, {}, gpu="T4", demand=True)
        assert report.outcome == "oom"
        assert report.demand is not None
        assert report.demand.peak.allocated == 20 << 30
