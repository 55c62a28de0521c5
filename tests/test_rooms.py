"""Dependencies point one way: which room of the package may know which."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "hfgpu_magic"

#: Modules that know no room, so that every room may know them.
GROUND = {"errors", "_result", "_version", "units", "devices.na"}

#: Room -> the rooms its code may use.  A room that is missing here is the front door: it may use everything.
MAY_USE: dict[str, set[str]] = {
    "devices": set(),
    "presets": set(),
    "virtual": {"devices", "presets"},
    "checks": {"devices", "virtual"},
    "views": {"checks", "devices", "virtual", "comparison", "parsers"},  # the results, and the parsers' help
}

#: A result draws itself: its `to_text` and `to_html` import their view when called.
DRAWS_ITSELF = {"devices.gpu_list", "checks.report", "virtual.replay", "virtual.report"}


def _modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def _name(path: Path) -> str:
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _imported(path: Path) -> Iterator[tuple[str, bool]]:
    """Modules of the package that `path` imports, and whether that happens at load."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for_types = {
        child
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for child in ast.walk(node)
    }
    home = ("hfgpu_magic", *path.relative_to(PACKAGE).parts[:-1])
    for node in ast.walk(tree):
        if node in for_types:
            continue
        if isinstance(node, ast.Import):
            names = [a.name for a in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = home[: len(home) + 1 - node.level] if node.level else ()
            stem = ".".join((*base, *((node.module,) if node.module else ())))
            names = [f"{stem}.{a.name}" for a in node.names] if not node.module else [stem]
        else:
            continue
        for name in names:
            if name.startswith("hfgpu_magic."):
                yield name.removeprefix("hfgpu_magic."), node in tree.body


@pytest.mark.parametrize("path", [p for p in _modules() if _name(p).split(".")[0] in MAY_USE], ids=_name)
def test_a_room_uses_only_the_rooms_below_it(path: Path) -> None:
    name = _name(path)
    room = name.split(".")[0]
    for target, at_load in _imported(path):
        other = target.split(".")[0]
        if other == room or target in GROUND or other in MAY_USE[room]:
            continue
        assert name in DRAWS_ITSELF, f"{name} imports {target}"
        assert other == "views"
        assert not at_load


def test_the_ground_knows_no_room() -> None:
    for name in GROUND:
        path = PACKAGE / f"{name.replace('.', '/')}.py"
        assert {target for target, _ in _imported(path)} <= GROUND


def test_every_exception_is_needed() -> None:
    for name in DRAWS_ITSELF:
        path = PACKAGE / f"{name.replace('.', '/')}.py"
        assert any(target.startswith("views.") for target, _ in _imported(path)), name
