"""Two records of one program, side by side: the same operations, storages, sizes and lives?

The records are walked together.  Operations with the same name form a step; where they differ, a group of
`rules.toml` may say why; what no rule covers is a mismatch.  A storage of one record belongs to the storage
of the other that appears in the same place of the same step, and then has to have its size, be aliased by
the same results, and die in the same step.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from .program import Run
from .recorder import Op, Storage, View
from .rules import Group, rules

#: How far the two records may drift apart before the walk gives up, and how many operations must then agree.
_WINDOW, _AGREE = 600, 4


@dataclass(frozen=True)
class Mismatch:
    """One difference that no rule explains."""

    kind: str
    where: str
    text: str

    def __str__(self) -> str:
        return f"{self.kind} at {self.where}: {self.text}"


@dataclass
class Comparison:
    """The result for one architecture."""

    name: str
    operations: int = 0
    storages_real: int = 0
    storages_virtual: int = 0
    equal: int = 0
    """Storages with the same size, birth and death in both records."""
    left_out: Counter[str] = field(default_factory=Counter)
    """Storages not compared, by the rule that says why."""
    mismatches: list[Mismatch] = field(default_factory=list)

    @property
    def left_out_virtual(self) -> int:
        """Storages of the virtual record that a rule leaves out."""
        return sum(n for key, n in self.left_out.items() if key.startswith("virtual"))

    @property
    def share(self) -> float:
        """Equal storages among those of the virtual record that no rule leaves out."""
        compared = self.storages_virtual - self.left_out_virtual
        return self.equal / compared if compared else 0.0


class _Walk:
    def __init__(self, name: str, real: Run, virtual: Run) -> None:
        self.real, self.virtual = real.recorder.ops, virtual.recorder.ops
        self.result = Comparison(
            name,
            storages_real=len(real.recorder.storages),
            storages_virtual=len(virtual.recorder.storages),
        )
        self.partner: dict[Storage, Storage] = {}
        self.paired: set[Storage] = set()
        self.loose: set[Storage] = set()
        self.spoiled: set[Storage] = set()
        #: Copies of host tensors, which the CPU uses as they are: dense, and the program's own.
        self.moved: set[Storage] = set()
        self.step_real: list[int] = []
        self.step_virtual: list[int] = []
        self.step = 0

    def mismatch(self, kind: str, op: Op, text: str) -> None:
        self.result.mismatches.append(Mismatch(kind, f"step {self.step} {op.name}", text))

    # ------------------------------------------------------------ operations

    def run(self) -> None:
        i = j = 0
        real, virtual = self.real, self.virtual
        while i < len(real) or j < len(virtual):
            if i < len(real) and j < len(virtual) and _alike(real[i], virtual[j]):
                self.pair(real[i], virtual[j])
                di, dj = 1, 1
            else:
                group = next((g for g in rules().groups if g.applies(real, i, virtual, j)), None)
                if group is not None:
                    di, dj = len(group.real), len(group.virtual)
                    self.group(group, real[i : i + di], virtual[j : j + dj])
                elif i < len(real) and j < len(virtual) and real[i].name == virtual[j].name:
                    self.pair(real[i], virtual[j])
                    di, dj = 1, 1
                else:
                    di, dj = _resume(real[i : i + _WINDOW], virtual[j : j + _WINDOW])
                    here = real[i] if i < len(real) else virtual[j]
                    self.mismatch(
                        "operations",
                        here,
                        f"real {[op.name for op in real[i : i + di]][:6]}, "
                        f"virtual {[op.name for op in virtual[j : j + dj]][:6]}",
                    )
            # What only one side has counts to the step before it, so that lives stay comparable.
            alone = not di or not dj
            self.step_real += [self.step - alone] * di
            self.step_virtual += [self.step - alone] * dj
            self.step += not alone
            i, j = i + di, j + dj

    def pair(self, a: Op, b: Op) -> None:
        self.result.operations += 1
        if a.name in rules().loose_strides:
            self.loose.update(v.storage for v in a.results)
        if len(a.results) != len(b.results):
            self.mismatch("results", b, f"{a.shown} != {b.shown}")
        for x, y in zip(a.results, b.results, strict=False):
            loose = x.storage in self.loose or (a.name == "unbind.int" and not x.storage.nbytes)
            moved = y.storage in self.moved and (x.shape, x.dtype) == (y.shape, y.dtype)
            if not moved and not _same_layout(x, y, loose):
                self.mismatch("layout", b, f"real {_shown(x)}, virtual {_shown(y)}")
            if x.storage in a.created and y.storage in b.created:
                self.marry(x.storage, y.storage, b)
            elif (
                x.storage.nbytes
                and self.partner.get(x.storage) is not y.storage
                and not (x.storage not in self.partner and y.storage not in self.paired)
            ):
                self.mismatch("aliasing", b, f"result {_shown(y)} lies in another storage than the real one")
        new_a = [s for s in a.created if s not in self.partner]
        new_b = [s for s in b.created if s not in self.paired]
        for s, t in zip(new_a, new_b, strict=False):
            self.marry(s, t, b)
        # A host tensor first seen where the card already has its copy.
        late = new_a[len(new_b) :] if any(t in self.moved and t not in self.paired for t in b.read) else []
        if len(new_a) - len(late) != len(new_b):
            self.mismatch("storages", b, f"{len(a.created)} created for real, {len(b.created)} virtually")
        self.alone(b)

    def group(self, group: Group, real: Sequence[Op], virtual: Sequence[Op]) -> None:
        """Storages of equal size still belong together; the rest is left out."""
        self.result.operations += len(virtual)
        for op in virtual:
            self.alone(op)
        if group.host_copy:
            self.host_copy(group, virtual)
            return
        # An empty storage holds nothing; which of two programs keeps one is of no interest.
        free = [s for op in reversed(real) for s in op.created]  # the last operation gives the result
        for t in [s for op in virtual for s in op.created]:
            match = next((s for s in free if s.nbytes == t.nbytes and t.nbytes), None)
            if match is None:
                self.leave_out("virtual", group, t)
            else:
                free.remove(match)
                self.marry(match, t, virtual[0])
        for s in free:
            self.leave_out("real", group, s)

    def host_copy(self, group: Group, virtual: Sequence[Op]) -> None:
        """Where the CPU goes on with the source, the card goes on with the copy."""
        partners = {b: a for a, b in self.partner.items()}
        for op in virtual:
            source, copy = op.read[0], op.results[0].storage
            self.moved.add(copy)
            if source in partners and copy in op.created:
                self.partner[partners[source]] = copy
                self.paired.add(copy)
                self.leave_out("virtual", group, source)
            else:
                for t in op.created:
                    self.leave_out("virtual", group, t)

    def leave_out(self, side: str, group: Group, storage: Storage) -> None:
        self.result.left_out[f"{side}: {group.name}"] += 1
        self.spoiled.add(storage)

    def alone(self, op: Op) -> None:
        """What only a device can do wrong: hidden storages, results that land on the host."""
        if op.inner and not rules().may_hide(op):
            self.mismatch("hidden storages", op, f"{op.inner} bytes that are in no result")
        if op.to_host and op.name not in ("_to_copy.default", "_local_scalar_dense.default"):
            self.mismatch("device", op, "its result is on the host though an argument is on the card")

    # ------------------------------------------------------------ storages

    def marry(self, a: Storage, b: Storage, op: Op) -> None:
        if a in self.partner or b in self.paired:
            return
        self.partner[a] = b
        self.paired.add(b)
        if a.nbytes != b.nbytes:
            self.mismatch("size", op, f"{a.nbytes} bytes for real, {b.nbytes} virtually")
            self.spoiled.add(b)

    def lives(self, real: Run, virtual: Run) -> None:
        """Deaths: each in the same step, and all in the same order."""

        def step_of(steps: list[int], died: int | None) -> int | None:
            return None if died is None else steps[died - 1] if died else -1

        for a, b in self.partner.items():
            x, y = step_of(self.step_real, a.died), step_of(self.step_virtual, b.died)
            if x is None and b in self.moved:  # the host keeps its tensor; the copy is the program's to drop
                self.result.left_out["virtual: copy between host and card"] += b not in self.spoiled
                self.spoiled.add(b)
            elif x != y:
                origin = self.virtual[b.born].name if b.born >= 0 else "the start"
                self.result.mismatches.append(
                    Mismatch(
                        "life",
                        f"storage of {b.nbytes} bytes from {origin}",
                        f"dies in step {x} for real, {y} virtually",
                    )
                )
                self.spoiled.add(b)
        self.result.equal = sum(1 for b in self.partner.values() if b not in self.spoiled)
        # Host tensors of the virtual run are real ones; theirs is no order that the card's allocator sees.
        followed = {b for b in self.partner.values() if b.on_card and b not in self.spoiled}
        partners = [self.partner.get(a) for a in real.recorder.deaths]
        order_real = [p for p in partners if p in followed]
        order_virtual = [s for s in virtual.recorder.deaths if s in followed]
        swapped = sum(1 for s, t in zip(order_real, order_virtual, strict=False) if s is not t)
        if swapped and not any(m.kind == "life" for m in self.result.mismatches):
            self.result.mismatches.append(
                Mismatch(
                    "order of frees",
                    "the whole step",
                    f"{swapped} of {len(order_real)} storages die in another order",
                )
            )


def compare(name: str, real: Run, virtual: Run) -> Comparison:
    """Everything about two runs of architecture `name` that has to be equal."""
    walk = _Walk(name, real, virtual)
    result = walk.result
    known = real.recorder.given, virtual.recorder.given
    if len(known[0]) != len(known[1]):
        result.mismatches.append(Mismatch("state", "the start", "not as many parameters, buffers and inputs"))
    for a, b in zip(*known, strict=False):
        # Views of one host storage are copied to the card one by one.
        if walk.partner.setdefault(a, b) is b:
            walk.paired.add(b)
            if a.nbytes != b.nbytes and known[0].count(a) == 1:
                result.mismatches.append(
                    Mismatch("state", "the start", f"{a.nbytes} bytes, {b.nbytes} virtually")
                )
        elif b not in walk.paired:
            result.left_out["virtual: copy between host and card"] += 1
            walk.paired.add(b)
    walk.run()
    walk.lives(real, virtual)
    for nbytes in virtual.recorder.unseen:
        result.mismatches.append(
            Mismatch("hidden storages", "outside operations", f"{nbytes} bytes never seen")
        )
    for key in {**real.state, **virtual.state}:
        x, y = real.state.get(key), virtual.state.get(key)
        if x is None or y is None:
            result.mismatches.append(Mismatch("state", key, "only one of the two runs has it"))
        elif not _same_layout(x, y, x.storage in walk.loose):
            result.mismatches.append(Mismatch("state", key, f"real {_shown(x)}, virtual {_shown(y)}"))
    return result


def _alike(a: Op, b: Op) -> bool:
    return a.name == b.name and [v.layout for v in a.results] == [v.layout for v in b.results]


def _resume(real: Sequence[Op], virtual: Sequence[Op]) -> tuple[int, int]:
    """The nearest place where the two agree again for a few operations."""
    a, b = [op.name for op in real], [op.name for op in virtual]
    for distance in range(1, len(a) + len(b)):
        for i in range(max(0, distance - len(b)), min(distance, len(a)) + 1):
            j = distance - i
            if i < len(a) and j < len(b) and a[i : i + _AGREE] == b[j : j + _AGREE]:
                return i, j
    return len(a), len(b)


def _same_layout(x: View, y: View, loose: bool) -> bool:
    if not loose:
        return x.layout == y.layout
    if 0 in x.shape:
        return (x.shape, x.dtype) == (y.shape, y.dtype)
    strides = [tuple(step for n, step in zip(v.shape, v.stride, strict=True) if n > 1) for v in (x, y)]
    return (x.shape, x.dtype, x.offset, strides[0]) == (y.shape, y.dtype, y.offset, strides[1])


def _shown(v: View) -> Any:
    return f"{list(v.shape)} strides {list(v.stride)} {str(v.dtype)[6:]}"
