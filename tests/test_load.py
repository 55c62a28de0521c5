"""`%load_ext hfgpu_magic`: silent, light, repeatable, and gone without a trace."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
MAGICS = {"line": {"gpucheck", "gpuhelp", "gpus"}, "cell": {"gpumem", "gpurun"}}

#: Prints, as its last line, what loading did to a fresh shell.
CHILD = """
import contextlib, io, json, sys, time
from IPython.core.interactiveshell import InteractiveShell
shell = InteractiveShell.instance()
shell.history_manager.enabled = False
before = set(sys.modules)
out = io.StringIO()
with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
    started = time.perf_counter()
    shell.run_line_magic("load_ext", "hfgpu_magic")
    seconds = time.perf_counter() - started
print(json.dumps({"printed": out.getvalue(), "seconds": seconds, "new": sorted(set(sys.modules) - before)}))
"""


def load_once() -> dict[str, Any]:
    done = subprocess.run([sys.executable, "-c", CHILD], capture_output=True, text=True, check=True, cwd=ROOT)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def test_it_prints_nothing() -> None:
    assert load_once()["printed"] == ""


def test_it_imports_only_this_package_ipython_s_magics_and_the_standard_library() -> None:
    new = {name.split(".")[0] for name in load_once()["new"]}
    assert new <= {"hfgpu_magic", "IPython"} | set(sys.stdlib_module_names)


def test_it_takes_less_than_30_ms() -> None:
    # The fastest of several: another process's work is not this one's cost.
    assert min(load_once()["seconds"] for _ in range(5)) < 0.030


@pytest.fixture
def shell() -> Iterator[Any]:
    from IPython.core.interactiveshell import InteractiveShell

    InteractiveShell.clear_instance()
    made = InteractiveShell.instance()
    made.history_manager.enabled = False
    yield made
    InteractiveShell.clear_instance()


def tables(shell: Any) -> dict[str, set[str]]:
    return {kind: set(table) for kind, table in shell.magics_manager.magics.items()}


def test_every_magic_is_there_once_loaded(shell: Any) -> None:
    before = tables(shell)
    shell.run_line_magic("load_ext", "hfgpu_magic")
    assert {kind: names - before[kind] for kind, names in tables(shell).items()} == MAGICS


def test_unload_leaves_the_shell_as_it_was(shell: Any) -> None:
    before = tables(shell)
    shell.run_line_magic("load_ext", "hfgpu_magic")
    shell.run_line_magic("unload_ext", "hfgpu_magic")
    assert tables(shell) == before
    assert not [name for name in shell.magics_manager.registry if "hfgpu" in name.lower()]


def test_loading_twice_changes_nothing(shell: Any, capsys: pytest.CaptureFixture[str]) -> None:
    import hfgpu_magic

    hfgpu_magic.load_ipython_extension(shell)
    once = tables(shell)
    hfgpu_magic.load_ipython_extension(shell)
    assert tables(shell) == once
    hfgpu_magic.unload_ipython_extension(shell)
    assert not MAGICS["line"] & tables(shell)["line"]
    assert capsys.readouterr().out == ""


def test_unload_spares_a_magic_that_the_user_defined_since(shell: Any) -> None:
    shell.run_line_magic("load_ext", "hfgpu_magic")
    shell.register_magic_function(lambda line: "mine", "line", "gpus")
    shell.run_line_magic("unload_ext", "hfgpu_magic")
    assert shell.run_line_magic("gpus", "") == "mine"


def test_reload_works(shell: Any) -> None:
    shell.run_line_magic("load_ext", "hfgpu_magic")
    shell.run_line_magic("reload_ext", "hfgpu_magic")
    assert MAGICS["line"] <= tables(shell)["line"]
