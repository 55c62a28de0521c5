"""The harness of `make fidelity`: its rows, its arithmetic, and a row with a known answer."""

from __future__ import annotations

import importlib
import json
from pathlib import Path

import pytest

from benchmarks import fidelity
from benchmarks.published import GiB, Measurement, MiB, Row, peaks
from hfgpu_magic import find_gpu

MODULES = fidelity.modules()


def outcome(error: float, **changes: object) -> fidelity.Outcome:
    values = {"id": "a", "source": "s", "metric": "allocated", "measured": 100.0, "seconds": 0.0}
    return fidelity.Outcome(**{**values, "predicted": 100.0 * (1 + error), **changes})  # type: ignore[arg-type]


@pytest.mark.parametrize("module", MODULES)
def test_rows_are_listed_without_running_and_name_cards_of_the_catalog(module: str) -> None:
    rows = list(importlib.import_module(f"benchmarks.published.{module}").rows())
    assert rows
    for row in rows:
        find_gpu(row.gpu)
        assert row.metric in ("allocated", "reserved", "device")
        assert row.unit > 0
        assert row.context is None or row.context_source


def test_no_row_is_rebuilt_twice() -> None:
    ids = [row.id for module in MODULES for row in fidelity.rows_of(module, "*")]
    assert len(ids) == len(set(ids))


def test_summary_counts_each_metric_and_keeps_dense_convolutions_apart() -> None:
    outcomes = [outcome(e) for e in (0.0, -0.001, 0.002, 0.05)] + [
        outcome(0.3, metric="device", dense_convolution=True),
        outcome(0.0, measured=None),
    ]
    allocated, dense = fidelity.summary(outcomes)
    assert (allocated.metric, allocated.rows) == ("allocated", 4)
    assert allocated.median == pytest.approx(0.0015)
    assert allocated.p90 == pytest.approx(0.05)
    assert allocated.within_quarter_percent == 3
    assert (dense.metric, dense.rows) == ("device, dense convolutions", 1)


def _row(build: object, **changes: object) -> Row:
    values = {"id": "x", "gpu": "T4", "metric": "allocated", "build": build, "unit": MiB}
    return Row(**{**values, **changes})  # type: ignore[arg-type]


def test_a_row_is_measured_in_its_unit() -> None:
    torch = pytest.importorskip("torch")

    def build() -> Measurement:
        _kept = torch.empty(1 << 20, device="cuda")
        return peaks()

    found = fidelity.run_row(_row(build), "s", 4.0)
    assert (found.measured, found.predicted, found.error) == (4 * MiB, 4 * MiB, 0.0)


def test_a_row_that_runs_out_of_memory_tells_its_demand() -> None:
    torch = pytest.importorskip("torch")

    def build() -> Measurement:
        _kept = torch.empty(40 * GiB, dtype=torch.uint8, device="cuda")
        return peaks()

    found = fidelity.run_row(_row(build), "s", 40 * 1024.0)
    assert (found.predicted_oom, found.error, found.failure) == (True, 0.0, "")


def test_a_row_that_fails_is_a_line_of_the_table() -> None:
    pytest.importorskip("torch")

    def build() -> Measurement:
        raise ValueError("no such model")

    found = fidelity.run_row(_row(build), "s", 1.0)
    assert (found.failure, found.error) == ("ValueError: no such model", None)


def test_without_the_evidence_it_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert fidelity.main(["--evidence", str(tmp_path)]) == 0
    assert "nothing to compare with" in capsys.readouterr().err


def test_json_is_one_object(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("torch")
    (tmp_path / "published.csv").write_text("id,value_bytes_or_gb\nmemlab-linear-load,4.0\n")
    assert fidelity.main(["--evidence", str(tmp_path), "--only", "memlab-linear-load", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    (row,) = document["rows"]
    assert (row["id"], row["predicted"]) == ("memlab-linear-load", 4 * MiB + 4096)
