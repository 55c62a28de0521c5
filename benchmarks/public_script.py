"""An unmodified public training script on virtual cards: Karpathy's nanoGPT.

    git clone https://github.com/karpathy/nanoGPT
    python benchmarks/public_script.py nanoGPT

Nothing of the checkout is changed: its files are linked into a temporary folder, beside tiny data made on
the spot (random tokens in the format its prepare.py writes), and run there with `hfgpu run`.  A table shows
how each run ended, its peaks and its seconds; the status is that of the worst.
"""

from __future__ import annotations

import argparse
import json
import os
import pickle
import random
import subprocess
import sys
import tempfile
import time
from array import array
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
GPT2_TOKENS, CHARACTERS = 50257, 65


@dataclass(frozen=True)
class Job:
    """`words` is the script of the checkout with its arguments, `outcome` what it must come to."""

    name: str
    gpu: str
    words: tuple[str, ...]
    outcome: str = "fits"


GPT2 = ("train.py", "--out_dir=out-gpt2", "--eval_iters=2")
SHAKESPEARE = (
    "train.py",
    "config/train_shakespeare_char.py",
    "--eval_iters=5",
    "--eval_interval=10",
    "--always_save_checkpoint=True",
)
JOBS = (
    Job("characters, 10 M, 20 steps", "T4", (*SHAKESPEARE, "--max_iters=20")),
    Job("the same, resumed", "T4", (*SHAKESPEARE, "--max_iters=25", "--init_from=resume")),
    Job("GPT-2 124M, as in its README", "A100 40GB", (*GPT2, "--max_iters=2")),
    Job("the same on a smaller card", "T4", (*GPT2, "--max_iters=2"), "oom"),
    Job("the same in fp16 with a scaler", "A100 40GB", (*GPT2, "--max_iters=2", "--dtype=float16")),
    Job("GPT-2 XL from its checkpoint", "H100 80GB", (*GPT2, "--init_from=gpt2-xl", "--max_iters=1",
        "--batch_size=1", "--gradient_accumulation_steps=2")),
    Job("bench.py, 124M", "RTX 4090", ("bench.py",)),
)  # fmt: skip


def lay_out(checkout: Path, folder: Path) -> None:
    """Links to everything of the checkout but its data, and data of the same format."""
    for entry in checkout.iterdir():
        if entry.name != "data" and not entry.name.startswith("out"):
            (folder / entry.name).symlink_to(entry.resolve())
    draw = random.Random(0)
    for name, vocabulary in (("openwebtext", GPT2_TOKENS), ("shakespeare_char", CHARACTERS)):
        data = folder / "data" / name
        data.mkdir(parents=True)
        for part, n in (("train", 200_000), ("val", 20_000)):
            tokens = array("H", (draw.randrange(vocabulary) for _ in range(n)))
            (data / f"{part}.bin").write_bytes(tokens.tobytes())
    letters = {i: chr(32 + i) for i in range(CHARACTERS)}
    meta = {"vocab_size": CHARACTERS, "itos": letters, "stoi": {c: i for i, c in letters.items()}}
    (folder / "data" / "shakespeare_char" / "meta.pkl").write_bytes(pickle.dumps(meta))


def main() -> int:
    parser = argparse.ArgumentParser(description="nanoGPT, unmodified, on virtual GPUs.")
    parser.add_argument("checkout", type=Path, help="folder of a nanoGPT checkout")
    options = parser.parse_args()
    if not (options.checkout / "train.py").is_file():
        parser.error(f"{options.checkout} holds no train.py; clone https://github.com/karpathy/nanoGPT first")
    head = f"{'allocated':>12}{'reserved':>12}{'device':>12}{'ops':>10}{'run':>9}{'whole':>9}"
    print(f"{'':<33}{'card':<12}{'outcome':<9}{head}")
    wrong = 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        lay_out(options.checkout, folder)
        for job in JOBS:
            started = time.perf_counter()
            child = subprocess.run(
                [sys.executable, "-m", "hfgpu_magic", "run", "--json", "--gpu", job.gpu, *job.words],
                cwd=folder,
                env={**os.environ, "PYTHONPATH": str(ROOT)},
                capture_output=True,
                text=True,
                check=False,
            )
            whole = time.perf_counter() - started
            report = json.loads(child.stdout)
            if "peak" not in report:
                raise SystemExit(child.stdout)
            peak = "".join(
                f"{report['peak'][k] / 2**20:>8.0f} MiB" for k in ("allocated", "reserved", "device")
            )
            figures = f"{peak}{report['operations']:>10,}{report['wall_seconds']:>7.1f} s{whole:>7.1f} s"
            print(f"{job.name:<33}{job.gpu:<12}{report['outcome']:<9}{figures}", flush=True)
            if report["oom"]:
                print(
                    f"    out of memory at {Path(report['oom']['file'] or '?').name}:{report['oom']['line']}"
                )
            if report["outcome"] != job.outcome:
                wrong += 1
                print(f"    expected: {job.outcome}\n{child.stderr[-2000:]}")
    return min(wrong, 1)


if __name__ == "__main__":
    sys.exit(main())
