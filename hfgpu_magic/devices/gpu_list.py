"""What `hfgpu gpus` returns: the catalog, or the cards that one name means."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .._result import Result, plain
from .catalog import GPU, find_gpu, gpus


@dataclass(frozen=True)
class GPUList(Result):
    """Cards of the catalog; `detailed` when one was asked for by name."""

    gpus: tuple[GPU, ...]
    detailed: bool = False

    @classmethod
    def named(cls, name: str | None) -> GPUList:
        """The card that `name` means, or all of them.  Raises `UnknownGPUError`."""
        return cls((find_gpu(name),), detailed=True) if name else cls(gpus())

    def to_dict(self) -> dict[str, Any]:
        """`{"gpus": [...]}` with bytes, bytes/s and FLOP/s as numbers."""
        return {"gpus": plain(self.gpus)}

    def to_text(self, *, color: bool = False, width: int = 80) -> str:
        from ..views.gpus import gpus_text

        return gpus_text(self, color=color, width=width)

    def to_html(self) -> str:
        from ..views.gpus import gpus_html

        return gpus_html(self)
