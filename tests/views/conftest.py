"""Reports of runs that never were, with round numbers."""

from __future__ import annotations

import dataclasses

import pytest

from hfgpu_magic.virtual.report import DeviceUse, Holding, OutOfMemory, Peak, RunReport, TimelinePoint

GiB = 1 << 30


@pytest.fixture
def fits() -> RunReport:
    held = {
        "parameters": 3 * GiB, "gradients": 2 * GiB, "optimizer": 3 * GiB, "activations": 2 * GiB,
        "buffers": 1 << 20, "inputs": 100, "workspace": 64 << 20, "other": 0,
    }  # fmt: skip
    peak = Peak(allocated=sum(held.values()), reserved=11 * GiB, device=12 * GiB)
    return RunReport(
        gpu="T4",
        total_memory=16 * GiB,
        outcome="fits",
        peak=peak,
        devices=(DeviceUse(0, "Tesla T4", 16 * GiB, peak, held),),
        oom=None,
        by_category_at_peak=held,
        estimated_seconds=12.3,
        wall_seconds=3.2,
        operations=5000,
        notes=("A note with <b>markup</b> in it.",),
        largest_at_peak=(Holding("model.<i>embed</i>", "parameters", 2 * GiB),),
        timeline=tuple(
            TimelinePoint(i, 3 * GiB + (7 * GiB if i == 4999 else i), 11 * GiB) for i in range(5000)
        ),
    )


@pytest.fixture
def oom(fits: RunReport) -> RunReport:
    error = OutOfMemory(
        "CUDA out of memory. Tried to allocate 5.00 GiB. GPU 0 has a total capacity of 16.00 GiB of which "
        "4.00 GiB is free.",
        "/home/me/train.py", 31, 5 * GiB, "    loss.backward()  # <script>alert(1)</script>",
    )  # fmt: skip
    return dataclasses.replace(fits, outcome="oom", oom=error)


@pytest.fixture
def caught(oom: RunReport) -> RunReport:
    assert oom.oom is not None
    return dataclasses.replace(oom, outcome="fits", oom=dataclasses.replace(oom.oom, caught=True))


@pytest.fixture
def failed(fits: RunReport) -> RunReport:
    return dataclasses.replace(fits, outcome="error", error="ValueError: mine <script>")


@pytest.fixture
def two_devices(fits: RunReport) -> RunReport:
    second = DeviceUse(1, "Tesla T4", 16 * GiB, Peak(GiB, 2 * GiB, 3 * GiB), {"parameters": GiB})
    return dataclasses.replace(fits, devices=(*fits.devices, second))
