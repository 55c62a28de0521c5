"""The acceptance run for a machine with an NVIDIA GPU: every program for real and virtually, side by side.

    python scripts/gpu_acceptance.py [--only NAME] [--out build/acceptance.json] [--rehearse CARD]

Prints a table (peak allocated, peak reserved, device; signed error; how long the two sequences of requested
sizes agree) and writes it as JSON, with what this card teaches the catalog: its total memory and the size of
its CUDA context.  `--rehearse` puts a virtual card in the real one's place, to try the script itself without
a GPU; its errors are then zero.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
PROGRAMS = ROOT / "scripts" / "acceptance"
PROBE = ROOT / "scripts" / "acceptance_probe.py"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", help="run the programs whose name contains this")
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "acceptance.json")
    parser.add_argument("--rehearse", metavar="CARD", help="a virtual card in the real one's place")
    options = parser.parse_args()
    card = options.rehearse or real_card()
    if card is None:
        print("This machine has no NVIDIA GPU that PyTorch can use. `--rehearse T4` tries the script anyway.")
        return 1
    rows = []
    for program in sorted(PROGRAMS.glob("[a-z]*.py")):
        if options.only and options.only not in program.stem:
            continue
        print(f"  {program.stem} ...", file=sys.stderr, flush=True)
        real = probe(program, virtual=options.rehearse)
        predicted = probe(program, virtual=card)
        rows.append(compare(program.stem, real, predicted))
        print("\n".join(table(rows[-1:], head=len(rows) == 1)), flush=True)
    date = time.strftime("%Y-%m-%d")
    report = {"card": card, "rehearsed": bool(options.rehearse), "date": date, "rows": rows}
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(report, indent=1), encoding="utf-8")
    print(summary(rows))
    print(f"written: {options.out}")
    return 0


def real_card() -> str | None:
    """What the driver calls CUDA device 0, if the catalog knows it."""
    code = "import torch; print(torch.cuda.get_device_name() if torch.cuda.is_available() else '')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    return done.stdout.strip() or None


def probe(program: Path, virtual: str | None) -> dict[str, Any]:
    """What the program did on the real card, or on the virtual one named."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "facts.json"
        on_card = [] if virtual is None else ["-m", "hfgpu_magic", "run", "--gpu", virtual]
        command = [sys.executable, *on_card, str(PROBE), str(program), str(out)]
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "TOKENIZERS_PARALLELISM": "false"}
        started = time.monotonic()
        done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
        if not out.exists():
            end = done.stderr[-2000:]
            raise SystemExit(f"{program.stem} left no figures (status {done.returncode}):\n{end}")
        facts: dict[str, Any] = json.loads(out.read_text(encoding="utf-8"))
        facts["seconds"] = time.monotonic() - started
    return facts


def compare(name: str, real: dict[str, Any], predicted: dict[str, Any]) -> dict[str, Any]:
    a, b = real["requests"], predicted["requests"]
    same = next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
    row: dict[str, Any] = {"program": name, "requests": [len(a), len(b)], "first_difference": same}
    for metric in ("allocated", "reserved"):
        row[metric] = [real[metric], predicted[metric]]
    row["device"] = [real["process"] or real["used"], predicted["used"]]
    row["context"] = [real["context"], predicted["used"] - predicted["reserved"]]
    row["total"] = [real["total"], predicted["total"]]
    row["out_of_memory"] = [bool(real["out_of_memory"]), bool(predicted["out_of_memory"])]
    row["seconds"] = [real["seconds"], predicted["seconds"]]
    return row


def error(pair: list[int]) -> float:
    return 100 * (pair[1] - pair[0]) / pair[0] if pair[0] else 0.0


def table(rows: list[dict[str, Any]], *, head: bool) -> list[str]:
    lines = []
    if head:
        lines.append(
            f"{'program':<26}{'metric':<11}{'measured MiB':>13}{'predicted':>11}{'error %':>9}"
            "  requests equal until"
        )
    for row in rows:
        for metric in ("allocated", "reserved", "device"):
            measured, predicted = (v / 2**20 for v in row[metric])
            tail = f"{row['first_difference']} of {row['requests'][0]}" if metric == "allocated" else ""
            lines.append(
                f"{row['program']:<26}{metric:<11}{measured:>13.1f}{predicted:>11.1f}"
                f"{error(row[metric]):>+9.2f}  {tail}"
            )
    return lines


def summary(rows: list[dict[str, Any]]) -> str:
    parts = []
    for metric in ("allocated", "reserved", "device"):
        errors = sorted(abs(error(row[metric])) for row in rows)
        if errors:
            parts.append(f"{metric} median {errors[len(errors) // 2]:.2f} %, worst {errors[-1]:.2f} %")
    wrong = sum(row["out_of_memory"][0] != row["out_of_memory"][1] for row in rows)
    return "; ".join([*parts, f"out-of-memory called wrong {wrong} of {len(rows)}"])


if __name__ == "__main__":
    sys.exit(main())
