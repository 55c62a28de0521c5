"""Which operators need a kernel by name, found by rule in PyTorch's own operator table.

Where an operator has both a CUDA kernel and a generic composite one, a device without a kernel of
its own silently gets the composite one, which allocates differently (silu_backward: six buffers
instead of one).  The rule: an operator that lists CUDA beside a Composite* entry, or that delegates
to a structured kernel beside one, is given our kernel.  The table ships with every PyTorch.
"""

from __future__ import annotations

import re
from pathlib import Path

import torch

_FUNC = re.compile(r"^- func: ([\w.]+)\(")
_DISPATCH = re.compile(r"^    ([\w, ]+): ")

#: Composite on paper, one kernel (cuDNN's or fused) on the card.
_FUSED_ON_CUDA = ("convolution", "convolution_backward", "_foreach_norm.Scalar")


def _operator_table() -> Path:
    import torchgen  # ships inside the torch wheel

    assert torchgen.__file__ is not None
    return Path(torchgen.__file__).parent / "packaged" / "ATen" / "native" / "native_functions.yaml"


def operators_with_own_cuda_kernel() -> list[str]:
    """Names (with overload) of the aten operators to register, for the installed PyTorch."""
    found: list[str] = []
    name = ""
    keys: set[str] = set()
    delegates = in_dispatch = False

    def settle() -> None:
        composite = any(k.startswith("Composite") for k in keys)
        if (
            (composite and ("CUDA" in keys or delegates))
            or name.startswith("_foreach_")
            or name in _FUSED_ON_CUDA
        ):
            found.append(name)

    for line in _operator_table().read_text(encoding="utf-8").splitlines():
        start = _FUNC.match(line)
        if start:
            if name:
                settle()
            name, keys, delegates, in_dispatch = start.group(1), set(), False, False
        elif line.startswith("  dispatch:"):
            in_dispatch = True
        elif line.startswith("  structured_delegate:"):
            delegates = True
            in_dispatch = False
        elif in_dispatch and (entry := _DISPATCH.match(line)):
            keys.update(k.strip() for k in entry.group(1).split(","))
        elif line.startswith("  ") and not line.startswith("    "):
            in_dispatch = False
    if name:
        settle()
    return found


def overload(name: str) -> object | None:
    """`torch.ops.aten.<name>` for "op" or "op.overload"; None when this build lacks it."""
    base, _, variant = name.partition(".")
    packet = getattr(torch.ops.aten, base, None)
    return getattr(packet, variant or "default", None) if packet is not None else None
