"""How long `hfgpu check --json` takes as a whole process, beside the tools people use today.

Each round runs every command once, in a new random order, so that a busy moment of the machine hits all
of them alike; the first round only fills the file caches and is not counted.  Prints the minimum and
median of each, and how many times faster the check is than the fastest of the others, from the medians
and from the rounds one by one.

    python benchmarks/check_latency.py [--rounds N] [--require RATIO]
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
OURS = "hfgpu check --json"
COMMANDS = {
    OURS: [sys.executable, "-m", "hfgpu_magic", "check", "--json"],
    "transformers env": [sys.executable, "-m", "transformers.cli.transformers", "env"],
    "accelerate env": [sys.executable, "-m", "accelerate.commands.accelerate_cli", "env"],
    "python -m torch.utils.collect_env": [sys.executable, "-m", "torch.utils.collect_env"],
    "python -c pass": [sys.executable, "-c", "pass"],
}
#: Not a competitor: what any Python process costs.
FLOOR = "python -c pass"


def timed(command: list[str], env: dict[str, str]) -> float | None:
    """Seconds from start to end of the process, None when it failed."""
    started = time.perf_counter()
    child = subprocess.run(command, env=env, cwd=ROOT, capture_output=True, check=False)
    seconds = time.perf_counter() - started
    return seconds if child.returncode == 0 else None


def measure(rounds: int) -> dict[str, list[float]]:
    """Seconds of each command by round; a command that cannot run here is left out, with a word."""
    # Compiled modules are what users have: pip writes them at install time.
    env = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    env["PYTHONPATH"] = str(ROOT)
    commands = {}
    for name, command in COMMANDS.items():
        if timed(command, env) is None:
            print(f"{name}: does not run here, left out", file=sys.stderr)
        else:
            commands[name] = command
    seconds: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(rounds):
        for name in random.sample(list(commands), len(commands)):
            took = timed(commands[name], env)
            if took is not None:
                seconds[name].append(took)
    return seconds


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=7, help="counted rounds (default 7)")
    parser.add_argument("--require", type=float, help="end with 1 when the ratio is lower")
    options = parser.parse_args()
    seconds = measure(options.rounds)
    print(f"{'command':<36}{'min':>10}{'median':>10}   ({options.rounds} rounds, interleaved)")
    for name, runs in sorted(seconds.items(), key=lambda item: statistics.median(item[1])):
        print(f"{name:<36}{min(runs) * 1000:>7.0f} ms{statistics.median(runs) * 1000:>7.0f} ms")
    others = {n: r for n, r in seconds.items() if n not in (OURS, FLOOR)}
    if OURS not in seconds or not others:
        print("nothing to compare with")
        return 1
    ours = seconds[OURS]
    name = min(others, key=lambda n: statistics.median(others[n]))
    ratio = statistics.median(others[name]) / statistics.median(ours)
    paired = [other / own for other, own in zip(others[name], ours, strict=False)]
    print(f"{ratio:.1f} times faster than the fastest of the others ({name}), by the medians; ", end="")
    print(f"round by round {min(paired):.1f} to {max(paired):.1f}, median {statistics.median(paired):.1f}")
    return 1 if options.require and ratio < options.require else 0


if __name__ == "__main__":
    sys.exit(main())
