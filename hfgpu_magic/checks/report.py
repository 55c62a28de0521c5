"""From facts to the report: evaluate the rules, weigh them for the task, sum up."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase

from .._result import Result
from ..devices.na import NotAvailable
from ..devices.snapshot import DeviceSnapshot
from .facts import Facts
from .rule import STATUSES, Check, Rule
from .tables import package_names, table


@dataclass(frozen=True)
class CheckReport(Result):
    """What `check` found.  `ok` is True while no check fails; memory in bytes."""

    ok: bool
    summary: str
    checks: tuple[Check, ...]
    devices: tuple[DeviceSnapshot, ...]
    versions: dict[str, str | None]
    profile: str = "general"
    gpu: str | None = None
    problems: tuple[str, ...] = ()

    def by_status(self, status: str) -> tuple[Check, ...]:
        return tuple(c for c in self.checks if c.status == status)

    def __getitem__(self, ident: str) -> Check:
        """The check of that id; KeyError when the rules had nothing to say about it."""
        for check in self.checks:
            if check.id == ident:
                return check
        raise KeyError(ident)

    def __contains__(self, ident: object) -> bool:
        return any(check.id == ident for check in self.checks)

    def to_text(self, *, color: bool = False, width: int = 88) -> str:
        from ..views.check_text import check_text

        return check_text(self, color=color, width=width)

    def to_html(self) -> str:
        from ..views.check_html import check_html

        return check_html(self)


def evaluate(facts: Facts, rules: Iterable[Rule] | None = None) -> tuple[Check, ...]:
    """Every check the rules make of these facts, worst first, weighed for the profile."""
    if rules is None:
        from .rules import RULES

        rules = RULES
    profile = table("profiles")[facts.profile]
    checks = []
    for rule in rules:
        for check in rule(facts):
            if any(fnmatchcase(check.id, pattern) for pattern in profile["leave_out"]):
                continue
            weight = profile["severity"].get(check.id)
            checks.append(check.at(weight) if weight and check.status in ("warn", "fail") else check)
    # Worst first; among equals, those with something to do.
    return tuple(sorted(checks, key=lambda check: (STATUSES.index(check.status), check.fix is None)))


def report(facts: Facts) -> CheckReport:
    checks = evaluate(facts)
    return CheckReport(
        ok=not any(c.status == "fail" for c in checks),
        summary=summary(facts, checks),
        checks=checks,
        devices=facts.devices,
        versions=_versions(facts),
        profile=facts.profile,
        gpu=facts.target.spec if facts.target else None,
        problems=facts.inventory.problems,
    )


def summary(facts: Facts, checks: tuple[Check, ...]) -> str:
    """One line: verdict, how many findings, what to fix first, on which card with which torch."""
    from .rules.devices import names

    failed = [c for c in checks if c.status == "fail"]
    warned = [c for c in checks if c.status == "warn"]
    verdict = "Not ready" if failed else "Ready"
    if facts.profile != "general":
        verdict += f" for {table('profiles')[facts.profile]['title']}"
    if not failed and not facts.usable:
        verdict += " on the CPU"
    found = ((failed, "problem"), (warned, "warning"))
    counts = ", ".join(f"{len(rows)} {word}{'s' * (len(rows) != 1)}" for rows, word in found if rows)
    first = f"; fix first: {failed[0].title}" if failed else ""
    device = names(facts.usable) if facts.usable else "No usable GPU" if facts.nvidia else "No GPU"
    torch = f"torch {facts.torch.version}" if facts.torch else "no torch"
    return f"{verdict}{': ' if counts else ''}{counts}{first}. {device}, {torch}"


def _versions(facts: Facts) -> dict[str, str | None]:
    versions: dict[str, str | None] = {"python": ".".join(map(str, facts.system.python))}
    versions |= {name: facts.version(name) for name in package_names()}
    versions |= {n: v for n, v in facts.versions.items() if n not in versions}
    if facts.torch:
        versions["torch"] = facts.torch.version
    versions["torch.cuda"] = facts.torch.cuda if facts.torch else None
    versions["torch.hip"] = facts.torch.hip if facts.torch else None
    driver = facts.driver
    versions["driver"] = None if isinstance(driver.version, NotAvailable) else driver.version
    cuda = driver.cuda
    versions["driver.cuda"] = None if isinstance(cuda, NotAvailable) else f"{cuda[0]}.{cuda[1]}"
    return versions
