"""Package versions, without importing any package.

Versions come from package metadata.  The installed-distribution directories name themselves
`{name}-{version}.dist-info` (PyPA "Recording installed projects"), so one listing per `sys.path` entry
answers every question; `importlib.metadata` would say the same after a 50 ms import, a third of what the
whole check may take.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

_PHASES = {"dev": -4, "a": -3, "alpha": -3, "b": -2, "beta": -2, "c": -1, "rc": -1, "pre": -1, "preview": -1}
_VERSION = re.compile(
    r"v?(?:\d+!)?(?P<release>\d+(?:\.\d+)*)"
    r"(?:[._-]?(?P<pre>alpha|beta|preview|pre|rc|a|b|c)[._-]?(?P<pre_n>\d*))?"
    r"(?P<post>[._-]?(?:post|rev|r)[._-]?\d*|-\d+)?"
    r"(?:[._-]?(?P<dev>dev)[._-]?(?P<dev_n>\d*))?"
    r"(?:\+(?P<local>[a-z0-9._-]+))?",
    re.IGNORECASE,
)
_CLAUSE = re.compile(r"(===|==|~=|!=|<=|>=|<|>)\s*([^\s,;()]+)")
_REQUIREMENT = re.compile(
    r"\s*([A-Za-z0-9][A-Za-z0-9._-]*)\s*(?:\[[^\]]*\])?\s*\(?([^;()]*)\)?\s*(?:;\s*(.*))?$"
)


def canonical(name: str) -> str:
    """`Flash_Attn` -> 'flash-attn' (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def sort_key(version: str) -> tuple[tuple[int, ...], int, int, int]:
    """Orders versions: dev < alpha < beta < rc < final < post.  The local tag does not count.

    A text that is no version sorts before everything.
    """
    match = _VERSION.match(version.strip())
    if match is None:
        return ((), 0, 0, 0)
    release = tuple(int(part) for part in match["release"].split("."))
    while len(release) > 1 and release[-1] == 0:
        release = release[:-1]
    phase, number = 0, 0
    if match["pre"]:
        phase, number = _PHASES[match["pre"].lower()], int(match["pre_n"] or 0)
    elif match["post"]:
        phase, number = 1, int(re.sub(r"\D", "", match["post"]) or 0)
    elif match["dev"]:
        phase = _PHASES["dev"]
    dev = int(match["dev_n"] or 0) if match["dev"] else sys.maxsize
    return (release, phase, number, dev)


def release_of(version: str) -> tuple[int, ...]:
    """`2.13.0+cu130` -> (2, 13, 0); () when the text is no version."""
    match = _VERSION.match(version.strip())
    return tuple(int(part) for part in match["release"].split(".")) if match else ()


def local_tag(version: str) -> str:
    """The build tag after the plus: `2.13.0+cu130` -> 'cu130', '' when there is none."""
    return version.partition("+")[2]


def satisfies(version: str, spec: str) -> bool:
    """Is `version` allowed by a comma-separated specifier such as '>=0.18.2,<0.19'?

    A pre-release counts by its place in the order, as installed software should; an empty specifier
    allows everything.
    """
    key = sort_key(version)
    for operator, wanted in _CLAUSE.findall(spec):
        if operator == "===":
            if version != wanted:
                return False
            continue
        if wanted.endswith(".*"):
            prefix = release_of(wanted[:-2])
            inside = release_of(version)[: len(prefix)] == prefix
            if inside != (operator == "=="):
                return False
            continue
        bound = sort_key(wanted)
        if operator == "~=":
            stem = release_of(wanted)[:-1]
            allowed = key >= bound and release_of(version)[: len(stem)] == stem
        elif operator == "==" and "+" in wanted:
            allowed = version == wanted
        else:
            allowed = {
                "==": key == bound,
                "!=": key != bound,
                "<=": key <= bound,
                ">=": key >= bound,
                "<": key < bound,
                ">": key > bound,
            }[operator]
        if not allowed:
            return False
    return True


@dataclass(frozen=True, slots=True)
class Requirement:
    """One `Requires-Dist` line: canonical `name`, `spec` ('' allows all), `extra` ('' unconditional)."""

    name: str
    spec: str
    extra: str = ""


def parse_requirement(line: str) -> Requirement | None:
    """None for a line whose marker is about something else than an extra (a platform, a Python)."""
    match = _REQUIREMENT.match(line)
    if match is None:
        return None
    marker = (match[3] or "").strip()
    extra = re.fullmatch(r"extra\s*==\s*['\"]([^'\"]+)['\"]", marker)
    if marker and extra is None:
        return None
    spec = ",".join(f"{operator}{version}" for operator, version in _CLAUSE.findall(match[2]))
    return Requirement(canonical(match[1]), spec, extra[1] if extra else "")


class Installed:
    """The distributions on a search path: name -> version, and their stated requirements."""

    def __init__(self, path: Iterable[str] | None = None) -> None:
        self._found: dict[str, tuple[str, str]] = {}
        for folder in sys.path if path is None else path:
            self._scan(folder or ".")

    def _scan(self, folder: str) -> None:
        try:
            entries = os.listdir(folder)  # noqa: PTH208 - names only, hundreds of them
        except OSError:
            return  # not a folder (a zip, a path that is gone): nothing pip installed is in it
        for entry in entries:
            stem, dot, kind = entry.rpartition(".")
            if not dot or kind not in ("dist-info", "egg-info"):
                continue
            name, dash, version = stem.partition("-")
            if kind == "egg-info":
                version = version.partition("-py")[0]
            where = f"{folder}{os.sep}{entry}"
            if not dash:
                version = next(iter(_header(Path(where), "Version")), "")
            if version:
                # The first entry of the path wins, as it does for an import.
                self._found.setdefault(canonical(name), (version, where))

    def version(self, name: str) -> str | None:
        found = self._found.get(canonical(name))
        return found[0] if found else None

    def names(self) -> frozenset[str]:
        return frozenset(self._found)

    def location(self, name: str) -> Path | None:
        """The folder that holds the distribution's modules."""
        found = self._found.get(canonical(name))
        return Path(found[1]).parent if found else None

    def requirements(self, name: str) -> tuple[Requirement, ...]:
        """What the distribution states it needs, extras included."""
        found = self._found.get(canonical(name))
        if found is None:
            return ()
        parsed = (parse_requirement(line) for line in _header(Path(found[1]), "Requires-Dist"))
        return tuple(requirement for requirement in parsed if requirement)


def _header(where: Path, field: str) -> list[str]:
    """Values of one field of the metadata header, which ends at the first empty line."""
    values: list[str] = []
    for name in ("METADATA", "PKG-INFO", ""):
        try:
            with (where / name).open(encoding="utf-8", errors="replace") as file:
                for line in file:
                    if not line.strip():
                        break
                    if line.startswith(field + ":"):
                        values.append(line.split(":", 1)[1].strip())
            return values
        except OSError:
            continue
    return values


def first_unmet(
    installed: Mapping[str, str], stated: Mapping[str, tuple[Requirement, ...]]
) -> list[tuple[str, Requirement]]:
    """(owner, requirement) pairs that the installed versions break.  Absent packages are not judged here."""
    broken = []
    for owner, requirements in stated.items():
        for requirement in requirements:
            version = installed.get(requirement.name)
            if version and not requirement.extra and not satisfies(version, requirement.spec):
                broken.append((owner, requirement))
    return broken
