"""Fixtures: a pretended site-packages, and a whole `hfgpu check` process."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from machines import Answer, run_check


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A folder for the front of the module path, where `install` puts pretended packages."""
    folder = tmp_path / "site"
    folder.mkdir()
    return folder


@pytest.fixture
def ask() -> Callable[..., Answer]:
    """Runs `python -m hfgpu_magic check --json ARGS` in an environment, `site` first on the path."""
    return run_check
