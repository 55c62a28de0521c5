"""Which quantization methods this environment can use, and what is missing for the others."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from ...devices.na import NotAvailable
from ..facts import Facts
from ..rule import Check, Status, Topic
from ..tables import table
from ..versions import parse_requirement, satisfies


@dataclass(frozen=True, slots=True)
class Verdict:
    """`state`: usable now, after an install, or not on this device."""

    key: str
    state: Literal["usable", "installable", "impossible", "broken"]
    found: str
    missing: tuple[str, ...]
    row: dict[str, Any]


def judge(facts: Facts) -> list[Verdict]:
    return [_judge(facts, row) for row in table("quantizers")["method"]]


def _judge(facts: Facts, row: dict[str, Any]) -> Verdict:
    def verdict(state: Any, found: str, missing: tuple[str, ...] = ()) -> Verdict:
        return Verdict(row["key"], state, found, missing, row)

    if row["on_the_fly"] == "broken":
        return verdict("broken", "declared by transformers 5, fails at load")
    device = _device(facts, row)
    if device is None:
        wanted = "/".join(row["devices"])
        floor = row.get("capability")
        return verdict(
            "impossible", f"needs {wanted}" + (f", capability {floor[0]}.{floor[1]}" if floor else "")
        )
    missing = tuple(need for need in row["needs"] if not _met(facts, need))
    if missing:
        return verdict("installable", f"missing {', '.join(_shown(facts, m) for m in missing)}", missing)
    return verdict("usable", f"on {device}")


def _device(facts: Facts, row: dict[str, Any]) -> str | None:
    """Where the method would run here; None: nowhere."""
    floor = tuple(row.get("capability", (0, 0)))
    for device in facts.driven:
        backend = "cuda" if device.backend == "virtual" else device.backend
        if backend not in row["devices"]:
            continue
        capability = device.capability
        if backend == "cuda" and not isinstance(capability, NotAvailable) and capability < floor:
            continue
        return f"{device.name}"
    return "the CPU" if "cpu" in row["devices"] and not facts.driven else None


def _need(facts: Facts, need: str) -> tuple[tuple[str, ...], str]:
    names, spec = [], ""
    for part in need.split("|"):
        requirement = parse_requirement(part)
        assert requirement is not None, need
        names.append(requirement.name)
        spec = facts.declared.get(requirement.name) or requirement.spec
    return tuple(names), spec


def _met(facts: Facts, need: str) -> bool:
    names, spec = _need(facts, need)
    return any((v := facts.version(n)) is not None and satisfies(v, spec) for n in names)


def _shown(facts: Facts, need: str) -> str:
    names, spec = _need(facts, need)
    have = next((f" (found {facts.versions[n]})" for n in names if n in facts.versions), "")
    return " or ".join(names) + spec + have


def _install(facts: Facts, missing: tuple[str, ...]) -> str:
    words = []
    for need in missing:
        names, spec = _need(facts, need)
        words.append(f'"{names[0]}{spec}"' if spec else names[0])
    return "pip install -U " + " ".join(words)


def overview(facts: Facts) -> list[Check]:
    verdicts = judge(facts)

    def keys(*states: str) -> str:
        return ", ".join(v.key for v in verdicts if v.state in states)

    usable = keys("usable")
    on_the_fly = [
        v for v in verdicts if v.state == "usable" and v.row["on_the_fly"] in ("yes", "calibration")
    ]
    found = f"usable now: {usable or 'none'}"
    if keys("installable"):
        found += f"; after an install: {keys('installable')}"
    status: Status = "pass" if on_the_fly else "warn" if facts.on("quantization") else "skip"
    first = next((v for v in verdicts if v.state == "installable" and v.row["on_the_fly"] == "yes"), None)
    blocked = keys("impossible")
    why = "the methods transformers 5 can load here" + (f"; not on this device: {blocked}" if blocked else "")
    return [
        Topic(
            "quantization.backends",
            "Quantization",
            "one method that quantizes while loading",
            "transformers 5.23 quantizers/ (validate_environment of each)",
        ).verdict(status, found, why, _install(facts, first.missing) if first and not on_the_fly else None)
    ]


def methods(facts: Facts) -> list[Check]:
    if not facts.on("quantization"):
        return []
    checks = []
    words = {
        "yes": "quantizes a 16-bit checkpoint while loading",
        "calibration": "quantizes with a calibration data set",
        "no": "loads quantized checkpoints only",
        "broken": "cannot be used",
    }
    for verdict in judge(facts):
        row = verdict.row
        status: Status = "pass" if verdict.state == "usable" else "skip"
        size = f"{row['bytes']:g} bytes a parameter" if "bytes" in row else "size by checkpoint"
        why = "; ".join(
            x
            for x in (
                row["config"],
                words[row["on_the_fly"]],
                "LoRA on top" if row["trainable"] else "no training",
                size,
                row["note"],
            )
            if x
        )
        needs = list(row["needs"])
        if "capability" in row:
            needs.append(f"capability {row['capability'][0]}.{row['capability'][1]}")
        checks.append(
            Topic(
                f"quantization.method.{verdict.key}",
                row["key"],
                ", ".join(needs) or "nothing more",
                f"transformers 5.23 quantizers/{row['source']}",
            ).verdict(
                status, verdict.found, why, _install(facts, verdict.missing) if verdict.missing else None
            )
        )
    return checks


RULES = (overview, methods)
