"""How fast the virtual GPU is.

    python benchmarks/virtual_speed.py [--rounds N] [--only ops,job,growth,small]

* ops: microseconds per operation, beside PyTorch's own meta and fake tensors and real ones on the CPU;
* job: a training step of a LoRA job with the shapes of Llama 3.1 8B (32 layers, r=16 on all linear layers,
  activation checkpointing, bf16 autocast, 2 x 1024 tokens), and the whole `hfgpu run` of it with its imports;
* growth: the same step with other numbers of layers, sequences and tokens;
* small: a model small enough to be trained for real on the CPU, beside that and beside a run on fake tensors.

Every configuration runs once a round, so that a busy moment of the machine falls on all of them.  Seconds
are the clock's; "CPU" is what the process itself used, which a busy machine disturbs less.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
JOB = ROOT / "benchmarks" / "_speed_job.py"
LLAMA = ["--config", "meta-llama/Llama-3.1-8B"]
PRESET = ROOT / "hfgpu_magic" / "presets" / "llama-3.1-8b"
SMALL = [
    "--config", str(PRESET), "--hidden", "256", "--layers", "4", "--seq", "512", "--full",
    "--optimizer", "sgd",
]  # fmt: skip
CARD = "H100 SXM"
STEPS = 5


@dataclass(frozen=True)
class Ran:
    """One process: seconds of its first and later steps, of the whole, of its CPU time; bytes of memory."""

    first: float
    later: float
    imports: float
    build: float
    whole: float
    cpu: float
    memory: int


def job(words: list[str], *, virtual: bool = True, steps: int = STEPS) -> Ran:
    """Run the job in a process of its own."""
    command = [sys.executable]
    command += ["-m", "hfgpu_magic", "run", "--gpu", CARD, str(JOB)] if virtual else [str(JOB)]
    started = time.perf_counter()
    child = subprocess.Popen(
        [*command, *words, "--steps", str(steps)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore"},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert child.stdout is not None
    printed = child.stdout.read()
    _, status, used = os.wait4(child.pid, 0)
    whole = time.perf_counter() - started
    if status:
        raise SystemExit(f"{' '.join(command + words)} ended with status {status}:\n{printed}")
    said = json.loads(next(line for line in printed.splitlines() if line.startswith('{"steps"')))
    # ru_maxrss is in KiB on Linux, in bytes on macOS.
    memory = used.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    later = statistics.median(said["steps"][1:])
    cpu = used.ru_utime + used.ru_stime
    return Ran(said["steps"][0], later, said["imports"], said["build"], whole, cpu, memory)


def imports() -> Ran:
    """What the job imports, in a bare Python: the floor of any run of it."""
    words = "import torch, peft; from transformers import AutoConfig, AutoModelForCausalLM"
    started = time.perf_counter()
    child = subprocess.Popen([sys.executable, "-c", words], stderr=subprocess.DEVNULL)
    _, _, used = os.wait4(child.pid, 0)
    whole = time.perf_counter() - started
    memory = used.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return Ran(0, 0, whole, 0, whole, used.ru_utime + used.ru_stime, memory)


def table(title: str, rows: dict[str, list[Ran]]) -> None:
    head = (
        f"{'first':>8}{'later':>8}{'least':>8}{'imports':>9}{'model':>8}{'whole':>8}{'CPU':>8}{'memory':>11}"
    )
    print(f"\n{title}\n{'seconds (medians)':<34}{head}")
    for name, runs in rows.items():

        def median(what: str, runs: list[Ran] = runs) -> float:
            return float(statistics.median(getattr(r, what) for r in runs))

        print(
            f"{name:<34}{median('first'):>8.2f}{median('later'):>8.2f}{min(r.later for r in runs):>8.2f}"
            f"{median('imports'):>9.2f}{median('build'):>8.2f}{median('whole'):>8.2f}{median('cpu'):>8.2f}"
            f"{median('memory') / 2**30:>7.2f} GiB"
        )


def rounds_of(n: int, configurations: dict[str, Callable[[], Ran]]) -> dict[str, list[Ran]]:
    found: dict[str, list[Ran]] = defaultdict(list)
    for _ in range(n):
        for name, run in configurations.items():
            found[name].append(run())
    return dict(found)


def show_job(rounds: int) -> None:
    configurations = {
        "8 B LoRA, 32 layers, 2 x 1024": lambda: job(LLAMA),
        "the same, 2 steps": lambda: job(LLAMA, steps=2),
        "its imports, in bare Python": imports,
    }
    table(f"One LoRA step and the whole `hfgpu run` of {STEPS} steps", rounds_of(rounds, configurations))


def show_growth(rounds: int) -> None:
    def grown(*words: str) -> Callable[[], Ran]:
        return lambda: job([*LLAMA, *words])

    rows = {f"{n} layers, 2 x 1024": grown("--layers", str(n)) for n in (4, 8, 16, 32)}
    rows |= {f"8 layers, {n} x 1024": grown("--layers", "8", "--batch", str(n)) for n in (1, 4, 16)}
    rows |= {f"8 layers, 2 x {n}": grown("--layers", "8", "--seq", str(n)) for n in (256, 4096, 16384)}
    table("Growth with layers, batch and sequence", rounds_of(rounds, rows))


def show_small(rounds: int) -> None:
    rows = {
        "virtual": lambda: job(SMALL),
        "real, on the CPU": lambda: job([*SMALL, "--device", "cpu"], virtual=False),
        "FakeTensorMode": lambda: job([*SMALL, "--device", "cpu", "--fake"], virtual=False),
    }
    table("A model of 4 layers, width 256, 2 x 512 tokens", rounds_of(rounds, rows))


# ---------------------------------------------------------------- operations


def operations(device: str) -> dict[str, Callable[[], Any]]:
    import torch

    a = torch.zeros(256, 256, device=device)
    w = torch.nn.Linear(256, 256, device=device)
    leaf = torch.zeros(256, 256, device=device, requires_grad=True)

    def backward() -> None:
        (leaf * 2.0).sum().backward()

    return {
        "view": lambda: a.view(65536),
        "empty": lambda: torch.empty(256, 256, device=device),
        "add": lambda: a + a,
        "add_ (in place)": lambda: a.add_(1.0),
        "mm": lambda: a @ a,
        "softmax": lambda: a.softmax(-1),
        "to(bfloat16)": lambda: a.to(torch.bfloat16),
        "nn.Linear": lambda: w(a),
        "mul, sum, backward": backward,
    }


def microseconds(call: Callable[[], Any], n: int = 300) -> float:
    for _ in range(10):
        call()
    started = time.perf_counter()
    for _ in range(n):
        call()
    return (time.perf_counter() - started) / n * 1e6


def show_ops(rounds: int) -> None:
    import torch
    from torch._subclasses.fake_tensor import FakeTensorMode

    sys.path.insert(0, str(ROOT))
    from hfgpu_magic import VirtualGPU

    def virtual(found: dict[tuple[str, str], list[float]]) -> None:
        with VirtualGPU(CARD):
            for name, call in operations("cuda").items():
                found[name, "virtual"].append(microseconds(call))

    def fake(found: dict[tuple[str, str], list[float]]) -> None:
        with FakeTensorMode():
            for name, call in operations("cpu").items():
                found[name, "fake"].append(microseconds(call))

    found: dict[tuple[str, str], list[float]] = defaultdict(list)
    torch.set_num_threads(1)
    enter = []
    for _ in range(max(rounds, 3)):
        started = time.perf_counter()
        with VirtualGPU(CARD):
            enter.append(time.perf_counter() - started)
        virtual(found)
        for device in ("meta", "cpu"):
            for name, call in operations(device).items():
                found[name, device].append(microseconds(call))
        fake(found)
    columns = ("virtual", "meta", "fake", "cpu")
    print(f"\nMicroseconds per call (least of {max(rounds, 3)}), fp32, 256 x 256")
    print(f"{'':<34}" + "".join(f"{c:>10}" for c in columns))
    for name in dict.fromkeys(n for n, _ in found):
        print(f"{name:<34}" + "".join(f"{min(found[name, c]):>10.1f}" for c in columns))
    first, *later = enter
    print(f"entering the block: first {1e3 * first:.0f} ms, later {1e3 * min(later):.0f} ms")


PARTS = {"ops": show_ops, "job": show_job, "growth": show_growth, "small": show_small}


def main() -> None:
    parser = argparse.ArgumentParser(description="Speed of the virtual GPU.")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", default=",".join(PARTS), help=f"of {', '.join(PARTS)} (default: all)")
    options = parser.parse_args()
    for part in options.only.split(","):
        PARTS[part](options.rounds)


if __name__ == "__main__":
    main()
