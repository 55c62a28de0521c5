"""The virtual GPU.  `VirtualGPU` and the runners are imported on first use: they need torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from .runner import run_cell, run_script
    from .session import VirtualGPU

__all__ = ["AUTO", "DEFAULT", "VirtualGPU", "run_cell", "run_script"]

#: The GPU name that means this machine's own, measured; `DEFAULT`, virtually, where it has none.
AUTO: Final = "auto"
#: The card that Colab and Kaggle lend.
DEFAULT: Final = "T4"


def __getattr__(name: str) -> Any:
    if name == "VirtualGPU":
        from .session import VirtualGPU

        return VirtualGPU
    if name in ("run_cell", "run_script"):
        from . import runner

        return getattr(runner, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
