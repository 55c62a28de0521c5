"""Operators of other libraries (bitsandbytes, torchao, ...): their fake kernels say the shapes.

A library that registers its operators through `torch.library` also registers a "fake" kernel for
`torch.compile`; that is all a device without data needs.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import torch

from .. import backend, hollow, state
from ..imports import when_imported
from ..patches import Patches
from . import generic

#: Namespaces whose operators are taken over once the library is imported.
NAMESPACES = ("bitsandbytes", "torchao", "quantized_decomposed", "torchvision")

_taken: set[str] = set()
_libraries: list[Any] = []


def _int8_vectorwise_quant(a: torch.Tensor, threshold: float = 0.0) -> tuple[Any, ...]:
    """Outlier columns are data-dependent; with none found they take no room."""
    rows = a.numel() // a.shape[-1]
    outliers = torch.empty(1, dtype=torch.int64, device=a.device) if threshold > 0 else None
    return (
        torch.empty(a.shape, dtype=torch.int8, device=a.device),
        torch.empty(rows, dtype=torch.float32, device=a.device),
        outliers,
    )


generic.SHAPES["bitsandbytes::int8_vectorwise_quant"] = _int8_vectorwise_quant


def watch(patches: Patches) -> None:
    """Take over the operators of every listed library that is loaded, or is imported during the run."""

    def take_over(module: ModuleType) -> None:
        register(module.__name__)
        if module.__name__ == "bitsandbytes":
            _page_without_a_driver(patches, module)
            # Code tables moved to the card are cached for good; those of this run must not reach the next.
            patches.set(module.functional, "name2qmap", dict(module.functional.name2qmap))

    when_imported(patches, dict.fromkeys(NAMESPACES, take_over), during=_truth_about_cuda)


def _page_without_a_driver(patches: Patches, bitsandbytes: ModuleType) -> None:
    """Paged optimizer states live in unified memory, which the CUDA driver hands out past the allocator."""
    functional = bitsandbytes.functional

    def get_paged(*shape: int, dtype: torch.dtype = torch.float32, device: Any = None) -> torch.Tensor:
        state.current().note(
            "Paged optimizer states are in unified memory: the card holds as much of them as there is "
            "room for, the host the rest, so they do not count as allocated."
        )
        paged: Any = hollow.empty(shape, dtype)
        paged.is_paged, paged.page_deviceid = True, 0
        return paged  # type: ignore[no-any-return]

    patches.set(functional, "get_paged", get_paged)
    patches.set(functional, "prefetch_tensor", lambda A, to_cpu=False: None)
    patches.set(functional, "fill", lambda A, value, device=None, prefetch=True: None)


@contextlib.contextmanager
def _truth_about_cuda() -> Iterator[None]:
    """While a library is imported it picks its native code: a machine without a GPU must load the CPU's."""
    saved = torch.cuda.is_available, torch.version.cuda
    torch.cuda.is_available = lambda: False
    if "+cpu" in torch.__version__:
        torch.version.cuda = None
    try:
        yield
    finally:
        torch.cuda.is_available, torch.version.cuda = saved


def register(namespace: str) -> None:
    if namespace in _taken:
        return
    _taken.add(namespace)
    library = torch.library.Library(namespace, "IMPL")
    _libraries.append(library)
    prefix = namespace + "::"
    for full in torch._C._dispatch_get_all_op_names():
        if not full.startswith(prefix):
            continue
        base, _, variant = full[len(prefix) :].partition(".")
        op = getattr(getattr(getattr(torch.ops, namespace), base), variant or "default")
        library.impl(full[len(prefix) :], generic.kernel_for(op), backend.KEY, allow_override=True)
