"""The differential test of one architecture: a training step for real on the host and on a virtual card."""

from __future__ import annotations

import time
from dataclasses import dataclass

from hfgpu_magic.virtual import VirtualGPU

from . import program, unwatched
from .compare import Comparison, Mismatch, compare
from .table import Architecture

#: The card: roomy, and of a capability at which nothing is emulated.
CARD = "A100 80GB"


@dataclass(frozen=True)
class Outcome:
    """Both comparisons of one architecture, and what they took."""

    comparison: Comparison
    seconds_real: float
    seconds_virtual: float


def differential(architecture: Architecture, *, dropout: bool = False) -> Outcome:
    """Run and compare.  Without dropout the storages are also counted with nobody looking."""
    started = time.perf_counter()
    real = program.on_host(architecture, dropout=dropout)
    counted_real = None if dropout else unwatched.on_host(architecture, real)
    half = time.perf_counter()
    with VirtualGPU(CARD):
        virtual = program.on_card(architecture, dropout=dropout)
        counted_virtual = None if dropout else unwatched.on_card(architecture, virtual)
    ended = time.perf_counter()
    comparison = compare(architecture.name, real, virtual)
    if counted_real != counted_virtual:
        assert counted_real is not None
        assert counted_virtual is not None
        more, fewer = dict(counted_virtual - counted_real), dict(counted_real - counted_virtual)
        comparison.mismatches.append(
            Mismatch("unwatched", "the whole step", f"bytes: storages too many {more}, too few {fewer}")
        )
    return Outcome(comparison, half - started, ended - half)


def without_scores(architecture: Architecture) -> program.Run | None:
    """The step with scaled_dot_product_attention on the card; None where the model has no such form.

    The host's fused kernels are others than the card's: nothing to compare operation by operation.
    """
    if not architecture.model_class()._supports_sdpa:
        return None
    with VirtualGPU(CARD):
        return program.on_card(architecture, "sdpa")
