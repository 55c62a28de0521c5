"""Several runs side by side: the ladder from the program that does not fit to the one that does."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ._result import Result, plain
from .errors import UsageError
from .virtual.report import RunReport


@dataclass(frozen=True)
class Comparison(Result):
    """Runs in the order given, each with its label."""

    rows: tuple[tuple[str, RunReport], ...]

    @property
    def total_memory(self) -> int:
        """Bytes of the (largest) card the runs were made for."""
        return max(report.total_memory for _, report in self.rows)

    def to_dict(self) -> dict[str, Any]:
        return {
            "total_memory": self.total_memory,
            "rows": [
                {
                    "label": label,
                    "gpu": report.gpu,
                    "outcome": report.outcome,
                    "needed": plain(report.needed),
                    "by_category_at_peak": dict(report.by_category_at_peak),
                    "estimated_seconds": report.estimated_seconds,
                }
                for label, report in self.rows
            ],
        }

    def to_text(self, *, color: bool = False, width: int = 88) -> str:
        from .views.compare import compare_text

        return compare_text(self, color=color, width=width)

    def to_html(self) -> str:
        from .views.compare import compare_html

        return compare_html(self)


def compare(runs: Mapping[str, RunReport]) -> Comparison:
    """Draw `runs` (label -> report) as bars of the same scale, with the card's limit marked.

    Raises `UsageError` when there is nothing to compare or something is not a report.
    """
    if not runs:
        raise UsageError("Nothing to compare yet: give a dictionary of label -> report.")
    for label, report in runs.items():
        if not isinstance(report, RunReport):
            raise UsageError(f"{label!r} is a {type(report).__name__}, not the report of a run.")
    return Comparison(tuple(runs.items()))
