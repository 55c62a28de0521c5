"""The public names: pinned, resolvable, and free to import."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from types import ModuleType

import pytest

import hfgpu_magic

PUBLIC = [
    "CheckReport",
    "Comparison",
    "GPU",
    "HfgpuError",
    "MissingPackageError",
    "NA",
    "RunReport",
    "UnknownGPUError",
    "UsageError",
    "VirtualGPU",
    "VirtualGPUError",
    "__version__",
    "check",
    "compare",
    "find_gpu",
    "gpus",
    "load_ipython_extension",
    "measure",
    "run_cell",
    "run_script",
    "unload_ipython_extension",
]

HEAVY = {
    "torch", "transformers", "accelerate", "peft", "numpy", "pandas", "matplotlib",
    "IPython", "ipywidgets", "anywidget", "rich", "pynvml", "asyncio",
}  # fmt: skip


def test_the_public_names_are_these() -> None:
    assert sorted(hfgpu_magic.__all__) == PUBLIC


@pytest.mark.parametrize("name", PUBLIC)
def test_every_public_name_resolves(name: str) -> None:
    assert not isinstance(getattr(hfgpu_magic, name), ModuleType | None)
    assert name in dir(hfgpu_magic)


def test_an_unknown_name_is_an_attribute_error_that_names_it() -> None:
    with pytest.raises(AttributeError, match=r"hfgpu_magic.*no attribute 'gpucheck'"):
        _ = hfgpu_magic.gpucheck


def test_exceptions_form_one_tree() -> None:
    for name in PUBLIC:
        if name.endswith("Error"):
            assert issubclass(getattr(hfgpu_magic, name), hfgpu_magic.HfgpuError)


@pytest.mark.parametrize(
    "statement", ["import hfgpu_magic", "import hfgpu_magic.cli", "from hfgpu_magic import find_gpu"]
)
def test_importing_brings_nothing_heavy(statement: str) -> None:
    code = f"import sys, json; {statement}; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-I", "-c", _from_checkout(code)], capture_output=True, text=True, check=True
    )
    assert not HEAVY & set(json.loads(done.stdout))


def _from_checkout(code: str) -> str:
    """`-I` hides the checkout; this brings back only that."""
    from pathlib import Path

    return f"import sys; sys.path.insert(0, {str(Path(hfgpu_magic.__file__).parents[1])!r}); {code}"


def test_the_version_is_the_distribution_s() -> None:
    try:
        installed = version("hfgpu-magic")
    except PackageNotFoundError:
        pytest.skip("the package is imported from a checkout that is not installed")
    assert hfgpu_magic.__version__ == installed
