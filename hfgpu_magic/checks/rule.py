"""What a rule is: a pure function from facts to checks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, TypeAlias

if TYPE_CHECKING:
    from .facts import Facts

Status: TypeAlias = Literal["pass", "warn", "fail", "skip"]

#: Worst first: the order in which reports show them.
STATUSES: tuple[Status, ...] = ("fail", "warn", "pass", "skip")


@dataclass(frozen=True, slots=True)
class Check:
    """One verdict.

    `found` is what this machine has, `required` what the task needs, `why` what happens otherwise,
    `fix` a command or line to paste (None when there is nothing to do), `source` where the requirement
    comes from.  "skip" means: does not apply here, or cannot be told.
    """

    id: str
    title: str
    status: Status
    found: str
    required: str
    why: str
    fix: str | None
    source: str

    def at(self, status: Status) -> Check:
        return replace(self, status=status)


Rule: TypeAlias = Callable[["Facts"], list[Check]]
