"""The differential test as a table: `python benchmarks/differential.py [PATTERN...] [--json] [--rules]`.

Every architecture of `benchmarks/architectures/tiny.toml` takes one training step (forward, backward, AdamW)
on real CPU tensors and on a virtual card.  Storages are compared one by one: size, the operation that makes
it, the operation after which it is released.  "left out" are those that CUDA rightly makes otherwise (--rules
says why).  "unwatched" tells whether the step makes as many storages of every size when nothing records it.
Exit status 1 when anything differs.
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import os
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from benchmarks.architectures.differential import Outcome

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
os.environ.setdefault("KINETO_LOG_LEVEL", "5")  # read when torch is loaded


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("patterns", nargs="*", default=["*"], help="architectures, e.g. llama 'qwen*'")
    parser.add_argument("--json", action="store_true", help="one object per architecture")
    parser.add_argument(
        "--rules", action="store_true", help="print the allowed differences and their reasons"
    )
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")  # the models' own
    if arguments.rules:
        return _print_rules()

    import torch
    import transformers

    from benchmarks.architectures.differential import differential
    from benchmarks.architectures.table import architectures

    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    chosen = [a for a in architectures() if any(fnmatch.fnmatch(a.name, p) for p in arguments.patterns)]
    if not chosen:
        parser.error(f"no architecture is called {' or '.join(arguments.patterns)}")
    outcomes: list[Outcome] = []
    if not arguments.json:
        print(
            f"{'architecture':<20}{'operations':>11}{'real':>7}{'virtual':>9}{'left out':>10}{'equal':>9}"
            f"{'unwatched':>11}{'s real':>8}{'s virt.':>8}"
        )
    for architecture in chosen:
        outcome = differential(architecture)
        outcomes.append(outcome)
        found = outcome.comparison
        counted = not any(m.kind == "unwatched" for m in found.mismatches)
        if arguments.json:
            print(json.dumps(_row(outcome)), flush=True)
            continue
        print(
            f"{found.name:<20}{found.operations:>11}{found.storages_real:>7}{found.storages_virtual:>9}"
            f"{found.left_out_virtual:>10}{found.share:>9.2%}{'same' if counted else 'differs':>11}"
            f"{outcome.seconds_real:>8.2f}{outcome.seconds_virtual:>8.2f}",
            flush=True,
        )
        for mismatch in found.mismatches[:5]:
            print(f"    {mismatch}"[:200])
    wrong = sum(bool(o.comparison.mismatches) for o in outcomes)
    if not arguments.json:
        _print_sum(outcomes, wrong)
    return int(wrong > 0)


def _print_sum(outcomes: list[Outcome], wrong: int) -> None:
    made = sum(o.comparison.storages_virtual - o.comparison.left_out_virtual for o in outcomes)
    equal = sum(o.comparison.equal for o in outcomes)
    operations = sum(o.comparison.operations for o in outcomes)
    seconds = sum(o.seconds_real + o.seconds_virtual for o in outcomes)
    print(
        f"\n{len(outcomes)} architectures, {operations} operations, {equal} of {made} storages equal "
        f"({equal / made:.2%}), {wrong} architectures with a difference, {seconds:.0f} s"
    )


def _row(outcome: Outcome) -> dict[str, object]:
    found = outcome.comparison
    return {
        "architecture": found.name,
        "operations": found.operations,
        "storages_real": found.storages_real,
        "storages_virtual": found.storages_virtual,
        "equal": found.equal,
        "left_out": dict(found.left_out),
        "mismatches": [str(m) for m in found.mismatches],
        "seconds_real": outcome.seconds_real,
        "seconds_virtual": outcome.seconds_virtual,
    }


def _print_rules() -> int:
    from benchmarks.architectures.rules import reasons

    for name, reason in reasons():
        print(f"{name}\n    {reason}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
