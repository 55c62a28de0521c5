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


@dataclass(frozen=True, slots=True)
class Topic:
    """What a rule is about; each method is one verdict on it."""

    id: str
    title: str
    required: str
    source: str

    def verdict(self, status: Status, found: str, why: str, fix: str | None = None) -> Check:
        return Check(self.id, self.title, status, found, self.required, why, fix, self.source)

    def ok(self, found: str, why: str) -> Check:
        return self.verdict("pass", found, why)

    def warn(self, found: str, why: str, fix: str | None) -> Check:
        return self.verdict("warn", found, why, fix)

    def fail(self, found: str, why: str, fix: str | None) -> Check:
        return self.verdict("fail", found, why, fix)

    def skip(self, found: str, why: str, fix: str | None = None) -> Check:
        return self.verdict("skip", found, why, fix)


Rule: TypeAlias = Callable[["Facts"], list[Check]]
