"""Fixtures of the virtual GPU's tests.  Everything here needs PyTorch; without it the folder is skipped."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from hfgpu_magic.virtual import VirtualGPU

collect_ignore_glob = [] if find_spec("torch") else ["test_*.py"]


@pytest.fixture
def t4() -> Iterator[VirtualGPU]:
    """A virtual T4 (16 GB, capability 7.5: no bfloat16 units, no flash attention) for one test."""
    from hfgpu_magic.virtual import VirtualGPU

    with VirtualGPU("T4") as gpu:
        yield gpu


@pytest.fixture
def a100() -> Iterator[VirtualGPU]:
    """A virtual A100 40GB (capability 8.0) for one test."""
    from hfgpu_magic.virtual import VirtualGPU

    with VirtualGPU("A100 40GB") as gpu:
        yield gpu


@pytest.fixture(scope="session")
def evidence() -> Path:
    """The folder with recordings of real cards, which lives beside the checkout."""
    folder = Path(__file__).resolve().parents[3] / "shared" / "evidence"
    if not folder.is_dir():
        pytest.skip("../shared/evidence is absent: no recordings of real cards to compare with")
    return folder
