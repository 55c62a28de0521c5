"""What `%load_ext hfgpu_magic` costs over bare IPython, and `hfgpu` over bare Python.

    python benchmarks/load_cost.py [--rounds N]

Each round runs the two processes of a row one after the other, so that whatever else the machine does
falls on both.  `%load_ext` is timed inside its process and beside an extension that does nothing, because
starting IPython varies by more than loading takes.  Milliseconds.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]

#: Prints the seconds that loading the extension took in a shell that had called a magic before.
LOAD = """
import sys, time, types
from IPython.core.interactiveshell import InteractiveShell
empty = types.ModuleType("empty_extension")
empty.load_ipython_extension = lambda shell: None
sys.modules["empty_extension"] = empty
shell = InteractiveShell.instance()
shell.run_line_magic("pwd", "")
started = time.perf_counter()
shell.run_line_magic("load_ext", "{name}")
print(time.perf_counter() - started)
"""


def inside(code: str) -> float:
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True)
    return float(done.stdout.splitlines()[-1])


def whole(code: str) -> float:
    started = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - started


PAIRS = {
    "%load_ext hfgpu_magic, against an empty one": (
        inside, LOAD.format(name="empty_extension"), LOAD.format(name="hfgpu_magic"),
    ),
    "import hfgpu_magic, against bare Python": (whole, "pass", "import hfgpu_magic"),
    "hfgpu gpus, against bare Python": (whole, "pass", "from hfgpu_magic.cli import main; main(['gpus'])"),
    "hfgpu check, against bare Python": (whole, "pass", "from hfgpu_magic.cli import main; main(['check'])"),
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description="Paired times of loading and of the command.")
    parser.add_argument("--rounds", type=int, default=15)
    rounds = parser.parse_args().rounds
    print(f"{f'ms, {rounds} rounds':<46}{'without':>9}{'with':>9}{'median cost':>13}{'least cost':>12}")
    for name, (seconds, without, with_it) in PAIRS.items():
        seconds(with_it)  # compiled files, disk cache
        pairs = [(seconds(without), seconds(with_it)) for _ in range(rounds)]
        bare, loaded = (statistics.median(column) for column in zip(*pairs, strict=True))
        cost = statistics.median(b - a for a, b in pairs)
        least = min(b for _, b in pairs) - min(a for a, _ in pairs)
        print(f"{name:<46}{1e3 * bare:>9.1f}{1e3 * loaded:>9.1f}{1e3 * cost:>13.1f}{1e3 * least:>12.1f}")


if __name__ == "__main__":
    main()
