"""Memory that operations take beside their results: library workspaces, kernel temporaries."""

from __future__ import annotations

from typing import Any

from .generic import EFFECTS


def _gemm(device: Any, args: Any, kwargs: Any, out: Any) -> None:
    device.libraries.cublas(device)


#: Operators that reach cuBLAS (and so need its workspace on first use).
GEMMS = (
    "mm", "bmm", "addmm", "baddbmm", "addbmm", "_addmm_activation", "mv", "addmv", "dot", "vdot",
    "_scaled_mm", "_grouped_mm", "_int_mm",
)  # fmt: skip


def install() -> None:
    for name in GEMMS:
        EFFECTS[name] = _gemm
