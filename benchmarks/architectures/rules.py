"""The known legitimate differences (`rules.toml`), applied to two records."""

from __future__ import annotations

import functools
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .recorder import Op


@dataclass(frozen=True)
class Group:
    """A run of real operations and the run of virtual ones that stands for it, with the reason."""

    name: str
    reason: str
    real: tuple[str, ...]
    virtual: tuple[str, ...]
    host_copy: bool = False

    def applies(self, real: Sequence[Op], i: int, virtual: Sequence[Op], j: int) -> bool:
        if tuple(op.name for op in real[i : i + len(self.real)]) != self.real:
            return False
        taken = virtual[j : j + len(self.virtual)]
        if tuple(op.name for op in taken) != self.virtual:
            return False
        return not self.host_copy or all(op.from_host or op.to_host for op in taken)


@dataclass(frozen=True)
class Rules:
    groups: tuple[Group, ...]
    loose_strides: frozenset[str]
    operand_copy: frozenset[str]
    composed: frozenset[str]

    def may_hide(self, op: Op) -> bool:
        """Whether the storages that `op` made beside its results are rightly there."""
        if op.name in self.composed:
            return True
        return op.name in self.operand_copy and op.operands.issuperset(op.inner)


@functools.cache
def _table() -> dict[str, list[dict[str, Any]]]:
    return tomllib.loads((Path(__file__).parent / "rules.toml").read_text(encoding="utf-8"))


def reasons() -> list[tuple[str, str]]:
    """Every allowed difference, named, with why it is right."""
    table = _table()
    return [
        *(
            (f"{g['name']}: {' '.join(g['real']) or '(nothing)'} / {' '.join(g['virtual'])}", g["reason"])
            for g in table["group"]
        ),
        *((f"inside {' '.join(row['operations'])}", row["reason"]) for row in table["composed"]),
        *((f"strides of {row['operation']}", row["reason"]) for row in table["loose_strides"]),
        *(
            (f"copied arguments of {' '.join(row['operations'])}", row["reason"])
            for row in table["operand_copy"]
        ),
    ]


@functools.cache
def rules() -> Rules:
    table = _table()
    groups = tuple(
        Group(g["name"], g["reason"], tuple(g["real"]), tuple(g["virtual"]), g.get("host_copy", False))
        for g in table["group"]
    )
    return Rules(
        groups,
        loose_strides=frozenset(row["operation"] for row in table["loose_strides"]),
        operand_copy=frozenset(name for row in table["operand_copy"] for name in row["operations"]),
        composed=frozenset(name for row in table["composed"] for name in row["operations"]),
    )
