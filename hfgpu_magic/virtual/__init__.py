"""The virtual GPU.  `VirtualGPU` is imported on first use: it needs torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from .session import VirtualGPU

__all__ = ["AUTO", "DEFAULT", "VirtualGPU"]

#: The GPU name that means this machine's own, measured; `DEFAULT`, virtually, where it has none.
AUTO: Final = "auto"
#: The card that Colab and Kaggle lend.
DEFAULT: Final = "T4"


def __getattr__(name: str) -> Any:
    if name == "VirtualGPU":
        from .session import VirtualGPU

        return VirtualGPU
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
