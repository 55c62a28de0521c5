"""The parts live in `benchmarks/architectures`, beside the command that prints the table."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[3]))

collect_ignore_glob = [] if find_spec("torch") and find_spec("transformers") else ["test_*.py"]
