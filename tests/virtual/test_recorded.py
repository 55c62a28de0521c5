"""Programs whose memory was recorded on real cards, run again on virtual ones: the same events in order.

The recordings lie beside the checkout (../shared/evidence, see its INDEX.csv); the programs behind them, with
their cards and PyTorch versions, are those of `benchmarks/published/traces.py`.  Nothing is fitted: what
differs is a mechanism that is missing.  The larger recordings are compared by `make fidelity`.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import trace_fidelity


@pytest.mark.parametrize(
    ("name", "events", "reserved"),
    [
        ("linear_forward_grad_from_empty", 33, 4_439_670_784),
        ("linear_forward_no_grad_from_empty", 33, 4_439_670_784),
        ("attention_fwd_bwd_from_empty", 97, 3_781_165_056),
    ],
)
def test_event_by_event(name: str, events: int, reserved: int, evidence: Path) -> None:
    (outcome,) = trace_fidelity.run(name, evidence / "traces")
    assert outcome.failure == ""
    assert outcome.first_divergence == ""
    assert outcome.events_predicted == outcome.events_recorded == events
    assert outcome.peak_reserved == (reserved, reserved)
