"""Running a cell in a process of its own, for `%%gpurun` in a notebook that can use a real GPU.

There a gap in the virtual GPU must never reach the real card, so the card is hidden from the process,
which only works before torch is imported.
"""

from __future__ import annotations

import dataclasses
import pickle
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from .errors import VirtualGPUError

if TYPE_CHECKING:
    from .virtual.report import RunReport

#: The name under which a cell is a file; `views` says "the cell" for it.
CELL_FILE = "hfgpu-cell.py"

NOTE = (
    "The cell ran in a process of its own, because this one can use a real GPU: it saw none of the "
    "notebook's variables and left none behind."
)

_CHILD = """
import os, pickle, sys
os.environ["CUDA_VISIBLE_DEVICES"] = ""
from hfgpu_magic.runner import run_cell
script, gpu, demand, out = sys.argv[1:]
with open(script, encoding="utf-8") as file:
    source = file.read()
report = run_cell(source, {"__name__": "__main__"}, gpu=gpu, demand=demand == "True", filename=script)
with open(out, "wb") as file:
    pickle.dump(report, file)
"""


def run_apart(line: str, body: str, *, gpu: str, demand: bool = False) -> RunReport:
    """Runs a cell's code, without IPython's syntax, on the virtual `gpu`; what it prints is printed here.

    Raises `VirtualGPUError` when the process ended without a report.
    """
    with tempfile.TemporaryDirectory(prefix="hfgpu-") as folder:
        script, out = Path(folder, CELL_FILE), Path(folder, "report")
        script.write_text(f"# {line}\n{body}", encoding="utf-8")
        command = [sys.executable, "-u", "-c", _CHILD, str(script), gpu, str(demand), str(out)]
        child = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            encoding="utf-8",
            errors="replace",
        )
        assert child.stdout is not None
        try:
            for printed in child.stdout:
                print(printed, end="")
            status = child.wait()
        except BaseException:  # Ctrl-C reaches both; nothing may stay behind
            child.kill()
            child.wait()
            raise
        finally:
            child.stdout.close()
        if not out.exists():
            raise VirtualGPUError(f"The cell's process ended with status {status} and left no report.")
        report: RunReport = pickle.loads(out.read_bytes())  # noqa: S301 - our own child wrote it
    return dataclasses.replace(report, notes=(*report.notes, NOTE))
