"""Devices that are not NVIDIA's: what drives them and what to know first."""

from __future__ import annotations

from ..facts import Facts
from ..rule import Check, Status, Topic
from ..tables import table
from ..versions import satisfies
from .devices import listing


def notes(facts: Facts) -> list[Check]:
    checks = []
    for row in table("backends")["backend"]:
        devices = tuple(d for d in facts.usable if d.backend == row["key"])
        package = row["package"]
        installed = bool(package) and package in facts.versions
        built = facts.torch is not None and bool(
            {"rocm": facts.torch.hip, "xpu": facts.torch.xpu}.get(row["key"])
        )
        if not devices and not installed and not built:
            continue
        found = listing(devices) if devices else f"no device seen, {package or 'torch'} is built for it"
        problem = ""
        fix: str | None = None
        if devices and package and not installed:
            problem, fix = f"{package} is not installed", row["install"] or None
        elif facts.torch and not satisfies(facts.torch.version, row["spec"]):
            problem, fix = f"torch {facts.torch.version} is too old", row["install"] or None
        elif row["key"] == "xla" and facts.environ.get("USE_TORCH_XLA", "1").upper() not in (
            "1",
            "ON",
            "YES",
            "TRUE",
        ):
            problem, fix = "USE_TORCH_XLA turns it off in transformers", "unset USE_TORCH_XLA"
        status: Status = "warn" if problem else "pass" if devices else "skip"
        checks.append(
            Topic(
                f"backend.{row['key']}",
                row["name"],
                f"torch {row['spec']}" + (f", {package}" if package else ""),
                row["source"],
            ).verdict(status, f"{found}; {problem}" if problem else found, row["note"], fix)
        )
    return checks


RULES = (notes,)
