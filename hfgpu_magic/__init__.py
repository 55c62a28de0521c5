"""GPU checks and a virtual GPU for people who train and run Hugging Face models in notebooks.

In a notebook: ``%load_ext hfgpu_magic``, then ``%gpuhelp``.  In a terminal: ``hfgpu help``.
Importing this package imports nothing heavy: each name below is fetched when it is first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ._version import __version__

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell

    from .checks import CheckReport, check
    from .comparison import Comparison, compare
    from .devices.catalog import GPU, find_gpu, gpus
    from .devices.na import NA
    from .errors import HfgpuError, MissingPackageError, UnknownGPUError, UsageError, VirtualGPUError
    from .measured import measure
    from .runner import run_cell, run_script
    from .virtual import VirtualGPU
    from .virtual.report import RunReport

__all__ = [
    "GPU",
    "NA",
    "CheckReport",
    "Comparison",
    "HfgpuError",
    "MissingPackageError",
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

#: Where each lazily fetched name lives.
_HOMES = {
    "GPU": "devices.catalog",
    "NA": "devices.na",
    "CheckReport": "checks",
    "Comparison": "comparison",
    "HfgpuError": "errors",
    "MissingPackageError": "errors",
    "RunReport": "virtual.report",
    "UnknownGPUError": "errors",
    "UsageError": "errors",
    "VirtualGPU": "virtual",
    "VirtualGPUError": "errors",
    "check": "checks",
    "compare": "comparison",
    "find_gpu": "devices.catalog",
    "gpus": "devices.catalog",
    "measure": "measured",
    "run_cell": "runner",
    "run_script": "runner",
}


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(f".{home}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})


def load_ipython_extension(ipython: InteractiveShell) -> None:
    """Called by ``%load_ext hfgpu_magic``: adds the magics, prints nothing."""
    from .magics import register

    register(ipython)


def unload_ipython_extension(ipython: InteractiveShell) -> None:
    """Called by ``%unload_ext hfgpu_magic``: removes every magic this package added."""
    from .magics import unregister

    unregister(ipython)
