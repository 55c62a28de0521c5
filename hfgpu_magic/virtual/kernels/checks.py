"""What CUDA refuses and a kernel without data would let pass: mixed devices, mixed dtypes.

Checked once per operator and combination of argument shapes, before anything is allocated.
"""

from __future__ import annotations

from typing import Any

import torch

from .. import backend

#: These take host tensors beside device ones by design.
_MIXED_DEVICES = frozenset({
    "index", "index_put_", "index_put", "_index_put_impl_", "_unsafe_index", "_unsafe_index_put",
    "copy_", "_copy_from", "_copy_from_and_resize", "set_", "_foreach_copy_", "resize_as_",
})  # fmt: skip

#: GEMM-like operators and the arguments that must agree in dtype.
_SAME_DTYPE = {
    "mm": (0, 1), "bmm": (0, 1), "mv": (0, 1), "dot": (0, 1),
    "addmm": (1, 2), "baddbmm": (1, 2), "addbmm": (1, 2), "addmv": (1, 2), "_addmm_activation": (1, 2),
    "convolution": (0, 1), "cudnn_convolution": (0, 1),
}  # fmt: skip

_C_NAMES = {
    torch.float16: "c10::Half", torch.bfloat16: "c10::BFloat16", torch.float32: "float",
    torch.float64: "double", torch.int64: "long", torch.int32: "int", torch.int16: "short",
    torch.int8: "signed char", torch.uint8: "unsigned char", torch.bool: "bool",
}  # fmt: skip


def _tensors(x: Any) -> list[torch.Tensor]:
    if isinstance(x, torch.Tensor):
        return [x]
    if isinstance(x, (list, tuple)):
        return [t for y in x for t in _tensors(y)]
    return []


def check(op: Any, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Raises `RuntimeError` in PyTorch's words where CUDA would."""
    if name not in _MIXED_DEVICES:
        for i, value in [*enumerate(args), *kwargs.items()]:
            for t in _tensors(value):
                if backend.on_card(t) or t.dim() == 0 or getattr(t, "is_paged", False):  # unified memory
                    continue
                argument = op._schema.arguments[i].name if isinstance(i, int) else i
                raise RuntimeError(
                    f"Expected all tensors to be on the same device, but got {argument} is on {t.device}, "
                    "different from other tensors on cuda:0 "
                    f"(when checking argument in method wrapper_CUDA_{_wrapper(op)})"
                )
    pair = _SAME_DTYPE.get(name)
    if pair is not None and len(args) > pair[1]:
        a, b = args[pair[0]], args[pair[1]]
        if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor) and a.dtype is not b.dtype:
            left, right = _C_NAMES.get(a.dtype, str(a.dtype)), _C_NAMES.get(b.dtype, str(b.dtype))
            if "convolution" in name:
                raise RuntimeError(f"Input type ({a.type()}) and weight type ({b.type()}) should be the same")
            raise RuntimeError(f"expected mat1 and mat2 to have the same dtype, but got: {left} != {right}")


def _wrapper(op: Any) -> str:
    overload = op._schema.overload_name
    name = op._schema.name.split("::")[1]
    return f"{name}_{overload}" if overload else f"_{name}" if not name.startswith("_") else name
