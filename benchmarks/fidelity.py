"""Published measurements against the virtual GPU: `python benchmarks/fidelity.py` (or `make fidelity`).

Every module of `benchmarks/published` rebuilds rows of the evidence's `published.csv`; each row runs in a
virtual GPU of its own.  The measured values are read from the evidence beside the repository
(`../shared/evidence`, or --evidence); they are never part of it.  `traces` compares recordings of real
allocators event by event.

    python benchmarks/fidelity.py [--only PATTERN] [--jobs 2] [--json] [--evidence FOLDER]
"""

from __future__ import annotations

import argparse
import csv
import fnmatch
import importlib
import json
import os
import pkgutil
import statistics
import sys
import time
import traceback
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager, redirect_stdout
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT)]

from benchmarks import trace_fidelity  # noqa: E402
from benchmarks.published import Measurement, MiB, Row  # noqa: E402

#: A card nobody can fill: what a program that ran out of memory would have needed.
AMPLE = 1 << 42


@dataclass(frozen=True)
class Outcome:
    """One row, measured and predicted, in bytes."""

    id: str
    source: str
    metric: str
    measured: float | None
    predicted: float | None
    seconds: float
    missing: str = ""
    high: float | None = None
    dense_convolution: bool = False
    published_oom: bool = False
    predicted_oom: bool = False
    failure: str = ""

    @property
    def error(self) -> float | None:
        """(predicted - measured) / measured."""
        if self.measured is None or self.predicted is None:
            return None
        return (self.predicted - self.measured) / self.measured


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Published measurements against the virtual GPU.")
    parser.add_argument("--only", metavar="PATTERN", default="*", help="rows by id or source (glob)")
    parser.add_argument("--jobs", type=int, default=2, help="processes (default: 2)")
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output")
    parser.add_argument("--evidence", type=Path, default=ROOT.parent / "shared" / "evidence")
    options = parser.parse_args(argv)
    table = options.evidence / "published.csv"
    if not table.is_file():
        print(f"No published measurements at {table}: nothing to compare with. Skipped.", file=sys.stderr)
        return 0
    began = time.perf_counter()
    outcomes = list(run(options.only, options.jobs, published(table), progress=not options.json))
    traces = list(trace_fidelity.run(options.only, options.evidence / "traces"))
    seconds = time.perf_counter() - began
    if options.json:
        document = {
            "rows": [{**asdict(o), "error": o.error} for o in outcomes],
            "summary": [asdict(s) for s in summary(outcomes)],
            "traces": [asdict(t) for t in traces],
            "seconds": seconds,
        }
        print(json.dumps(document, indent=1))
    else:
        print_summary(outcomes)
        trace_fidelity.print_table(traces)
        print(f"\n{len(outcomes)} rows, {len(traces)} recordings in {seconds:.0f} s.")
    return 1 if any(o.failure for o in outcomes) else 0


def published(table: Path) -> dict[str, float]:
    """The measured figure of every row, in the row's own unit."""
    with table.open(encoding="utf-8", newline="") as stream:
        return {row["id"]: float(row["value_bytes_or_gb"]) for row in csv.DictReader(stream)}


# ---------------------------------------------------------------- running


def modules() -> list[str]:
    """The sources that can be rebuilt, by name."""
    import benchmarks.published as package

    names = sorted(m.name for m in pkgutil.iter_modules(package.__path__) if not m.name.startswith("_"))
    return [n for n in names if hasattr(importlib.import_module(f"benchmarks.published.{n}"), "rows")]


def rows_of(module: str, only: str) -> list[Row]:
    found: Iterable[Row] = importlib.import_module(f"benchmarks.published.{module}").rows()
    return [r for r in found if fnmatch.fnmatch(r.id, only) or fnmatch.fnmatch(module, only)]


def run(only: str, jobs: int, figures: Mapping[str, float], *, progress: bool) -> Iterator[Outcome]:
    """Run the rows module by module, in processes of their own, and print each as it comes."""
    tasks = [(m, only, dict(figures)) for m in modules() if rows_of(m, only)]
    source = ""
    if jobs > 1 and len(tasks) > 1:
        pool = ProcessPoolExecutor(min(jobs, len(tasks)), mp_context=get_context("spawn"))
        results: Iterable[list[Outcome]] = pool.map(_run_module, tasks)
    else:
        results = map(_run_module, tasks)
    for outcomes in results:
        for outcome in outcomes:
            if progress:
                if outcome.source != source:
                    source = outcome.source
                    print(f"\n{source}\n{_HEADER}")
                print(_line(outcome), flush=True)
            yield outcome


def _run_module(task: tuple[str, str, dict[str, float]]) -> list[Outcome]:
    module, only, figures = task
    return [run_row(row, module, figures.get(row.id)) for row in rows_of(module, only)]


def run_row(row: Row, source: str, figure: float | None) -> Outcome:
    began = time.perf_counter()
    found: Measurement | None = None
    oom, failure = False, ""
    try:
        with _environment(row.environ), warnings.catch_warnings(), redirect_stdout(sys.stderr):
            warnings.simplefilter("ignore")
            found = _measure(row, None)
            if found is None:
                oom = True
                found = _measure(row, AMPLE)
    except Exception as error:  # noqa: BLE001 -- one row's failure is a line of the table
        failure = f"{type(error).__name__}: {error}".splitlines()[0]
        traceback.print_exc(file=sys.stderr)
    return Outcome(
        id=row.id,
        source=source,
        metric=row.metric,
        measured=None if figure is None else figure * row.unit,
        predicted=None if found is None else getattr(found, row.metric),
        seconds=time.perf_counter() - began,
        missing=row.missing,
        high=None if found is None else found.device_high,
        dense_convolution=row.dense_convolution,
        published_oom=row.published_oom,
        predicted_oom=oom,
        failure=failure,
    )


def _measure(row: Row, memory: int | None) -> Measurement | None:
    """The row's figures on its card (or on one with `memory` bytes); None when it runs out of memory."""
    import torch

    from hfgpu_magic import VirtualGPU

    card = VirtualGPU(row.gpu, context=row.context, memory=memory, torch_version=row.torch or None)
    try:
        with card:
            return row.build()
    except torch.OutOfMemoryError:
        if memory is not None:
            raise
        return None


@contextmanager
def _environment(changes: Mapping[str, str]) -> Iterator[None]:
    before = dict(os.environ)
    os.environ.update(changes)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


# ---------------------------------------------------------------- the table


_COLUMNS = ("row", "metric", "measured", "predicted", "error", "s")
_HEADER = "  {:<50} {:<9} {:>10} {:>10} {:>9}  {:>5}  in MiB; what is missing".format(*_COLUMNS)


def _line(o: Outcome) -> str:
    def mib(n: float | None) -> str:
        return "-" if n is None else f"{n / MiB:.2f}"

    error = "-" if o.error is None else f"{100 * o.error:+.3f} %"
    notes = [o.missing] if o.missing else []
    if o.high is not None:
        notes.append(f"band to {mib(o.high)}")
    if o.predicted_oom:
        notes.append("runs out of memory" + (", as published" if o.published_oom else ""))
    if o.failure:
        notes.append(o.failure)
    return (
        f"  {o.id:<50} {o.metric:<9} {mib(o.measured):>10} {mib(o.predicted):>10} {error:>9}  "
        f"{o.seconds:5.1f}  {'; '.join(notes)}"
    )


@dataclass(frozen=True)
class Summary:
    """The errors of one metric, as fractions of what was published."""

    metric: str
    rows: int
    median: float
    p90: float
    largest: float
    within_quarter_percent: int


def summary(outcomes: Sequence[Outcome]) -> list[Summary]:
    """Per metric, dense convolutions apart: rows, median and 90th percentile of |error|, largest."""
    groups: dict[str, list[float]] = {}
    for o in outcomes:
        if o.error is not None:
            name = f"{o.metric}, dense convolutions" if o.dense_convolution else o.metric
            groups.setdefault(name, []).append(abs(o.error))
    return [_summed(name, sorted(groups[name])) for name in sorted(groups)]


def _summed(metric: str, errors: list[float]) -> Summary:
    return Summary(
        metric=metric,
        rows=len(errors),
        median=statistics.median(errors),
        p90=errors[max(0, -(-9 * len(errors) // 10) - 1)],
        largest=errors[-1],
        within_quarter_percent=sum(e <= 0.0025 for e in errors),
    )


def print_summary(outcomes: Sequence[Outcome]) -> None:
    print(f"\n{'metric':<32} {'rows':>5} {'median':>9} {'90 %':>9} {'largest':>9} {'<= 0.25 %':>10}")
    for s in summary(outcomes):
        print(
            f"{s.metric:<32} {s.rows:>5} {100 * s.median:>7.3f} % {100 * s.p90:>7.3f} % "
            f"{100 * s.largest:>7.3f} % {s.within_quarter_percent:>10}"
        )
    called = [o for o in outcomes if not o.failure]
    right = sum(o.predicted_oom == o.published_oom for o in called)
    if called:
        print(f"out of memory called right: {right} of {len(called)} ({100 * right / len(called):.1f} %)")
    for o in outcomes:
        if o.failure:
            print(f"failed: {o.id}: {o.failure}")


if __name__ == "__main__":
    raise SystemExit(main())
