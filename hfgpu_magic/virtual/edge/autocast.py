"""`torch.autocast("cuda")` on the virtual device: PyTorch's own lists, PyTorch's own weight cache rules.

The lists of operators are macros in a header that ships with every PyTorch
(ATen/autocast_mode.h), so they are read from there and are right for the installed version.
"""

from __future__ import annotations

import functools
import re
import weakref
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch._C import DispatchKey, DispatchKeySet

from .. import backend
from ..kernels import rules

if TYPE_CHECKING:
    from ..device import VirtualDevice
    from ..patches import Patches

Tensor = torch.Tensor
_KEY = "AutocastPrivateUse1"
_KEYS = DispatchKeySet(DispatchKey.AutocastPrivateUse1)  # type: ignore[attr-defined]
_Exclude = torch._C._ExcludeDispatchKeyGuard
_MACROS = {
    "LOWER_PRECISION_FP": "lower",
    "FP32": "fp32",
    "FP32_SET_OPT_DTYPE": "set_dtype",
    "PROMOTE": "promote",
}
_get_dtype = torch.get_autocast_dtype
_cache_enabled = torch.is_autocast_cache_enabled
_raw_to = backend.raw_to
_on_card = backend.on_card

# Weight casts kept until the outermost autocast block ends: id(weight) -> (weight, its cast).
_weights: dict[int, tuple[weakref.ref[Tensor], Tensor]] = {}


@functools.cache
def policies() -> dict[str, str]:
    """Operator (with overload) -> "lower", "fp32", "set_dtype", "promote", "norm" or "banned"."""
    header = Path(torch.__file__).parent / "include" / "ATen" / "autocast_mode.h"
    text = header.read_text(encoding="utf-8")
    found: dict[str, str] = {}
    for macro, policy in _MACROS.items():
        body = re.search(rf"#define AT_FORALL_{macro}\(_\)((?:[^\n]*\\\n)*[^\n]*)", text)
        if body is None:
            continue
        for op, variant in re.findall(r"_\((\w+)(?:,\s*(\w+))?\)", body.group(1)):
            found[f"{op}.{variant}" if variant else op] = policy
    # Not in the macros: registered by hand in autocast_mode.cpp.
    found["norm.Scalar"] = found["norm.ScalarOpt_dim"] = "norm"
    found["binary_cross_entropy"] = "banned"
    found["_cudnn_rnn"] = "lower"
    return found


def install(patches: Patches, device: VirtualDevice) -> None:
    _install_switches(patches)
    aten = torch.library.Library("aten", "IMPL")
    everything = torch.library.Library("_", "IMPL")
    patches.on_undo(aten._destroy)
    patches.on_undo(everything._destroy)
    patches.on_undo(_weights.clear)
    # The key has no fallthrough of its own in PyTorch: without this every other operator would fail.
    everything.fallback(torch.library.fallthrough_kernel, _KEY)
    for name, policy in policies().items():
        op = rules.overload(name)
        if op is not None:
            aten.impl(name, _KERNELS[policy](op, name), _KEY)


def _install_switches(patches: Patches) -> None:
    """Switching "cuda" switches the virtual device's key too."""
    set_enabled, set_dtype = torch.set_autocast_enabled, torch.set_autocast_dtype
    set_gpu_dtype, clear = torch.set_autocast_gpu_dtype, torch.clear_autocast_cache

    def set_autocast_enabled(*args: Any, **kwargs: Any) -> None:
        if len(args) == 1 and not kwargs:  # the old form, cuda implied
            set_enabled(backend.NAME, args[0])
            set_enabled("cuda", args[0])
            return
        kind: Any = args[0] if args else kwargs.get("device_type")
        enabled: Any = args[1] if len(args) > 1 else kwargs.get("enabled")
        if kind == "cuda":
            set_enabled(backend.NAME, enabled)
        set_enabled(kind, enabled)

    def set_autocast_dtype(device_type: str, dtype: torch.dtype) -> None:
        if device_type == "cuda":
            set_dtype(backend.NAME, dtype)
        set_dtype(device_type, dtype)

    def set_autocast_gpu_dtype(dtype: torch.dtype) -> None:
        set_dtype(backend.NAME, dtype)
        set_gpu_dtype(dtype)

    def clear_autocast_cache() -> None:
        _weights.clear()
        clear()

    for owner in (torch, torch._C):
        patches.set(owner, "set_autocast_enabled", set_autocast_enabled)
        patches.set(owner, "set_autocast_dtype", set_autocast_dtype)
        patches.set(owner, "set_autocast_gpu_dtype", set_autocast_gpu_dtype)
        patches.set(owner, "clear_autocast_cache", clear_autocast_cache)
    dtype = torch.get_autocast_dtype(backend.NAME)
    patches.on_undo(lambda: set_dtype(backend.NAME, dtype))
    patches.on_undo(lambda: set_enabled(backend.NAME, False))
    set_dtype(backend.NAME, torch.get_autocast_dtype("cuda"))
    set_enabled(backend.NAME, torch.is_autocast_enabled("cuda"))


# ---------------------------------------------------------------- casting


def _eligible(t: Tensor) -> bool:
    return t.is_floating_point() and t.dtype is not torch.float64 and _on_card(t)


def _cast(x: Any, dtype: torch.dtype, lower: bool) -> Any:
    if isinstance(x, Tensor):
        if x.dtype is dtype or not _eligible(x):
            return x
        # A leaf weight is cast once per autocast block (at::autocast::cached_cast).
        if (
            lower
            and x.dtype is torch.float32
            and x.requires_grad
            and x.is_leaf
            and not x._is_view()
            and _cache_enabled()
            and not torch.is_inference_mode_enabled()  # there every use casts anew (CPU autocast shows it)
        ):
            entry = _weights.get(id(x))
            if entry is not None and entry[0]() is x:
                return entry[1]
            cast = _raw_to(x, dtype)
            _weights[id(x)] = (weakref.ref(x), cast)
            return cast
        return _raw_to(x, dtype)
    if type(x) in (list, tuple):
        return [_cast(y, dtype, lower) for y in x]
    return x


def _cast_all(args: tuple[Any, ...], dtype: torch.dtype, lower: bool) -> list[Any]:
    # The casts are arguments of one C++ call, and g++ evaluates those from right to left: the order
    # decides where the allocator places them.
    cast = [_cast(a, dtype, lower) for a in reversed(args)]
    cast.reverse()
    return cast


def _call(op: Any, cast: list[Any], kwargs: dict[str, Any]) -> Any:
    """`op` on arguments that end with the call: the last first, of a list the first first, as in C++.

    Which block is freed first decides where the next tensor goes.
    """
    result = op(*cast, **kwargs)
    while cast:
        item = cast.pop()
        if type(item) is list:
            item.reverse()
            while item:
                item.pop()
    return result


def _widest(xs: Any, current: torch.dtype) -> torch.dtype:
    for x in xs:
        if isinstance(x, Tensor):
            if x.dtype is torch.float32 and _eligible(x):
                return torch.float32
        elif isinstance(x, (list, tuple)):
            current = _widest(x, current)
    return current


# ---------------------------------------------------------------- one kernel per policy


def _lower(op: Any, name: str) -> Any:
    def kernel(*args: Any, **kwargs: Any) -> Any:
        with _Exclude(_KEYS):
            dtype = _get_dtype(backend.NAME)
            kwargs = {k: _cast(v, dtype, True) for k, v in kwargs.items()}
            return _call(op, _cast_all(args, dtype, True), kwargs)

    return kernel


def _fp32(op: Any, name: str) -> Any:
    def kernel(*args: Any, **kwargs: Any) -> Any:
        with _Exclude(_KEYS):
            kwargs = {k: _cast(v, torch.float32, False) for k, v in kwargs.items()}
            return _call(op, _cast_all(args, torch.float32, False), kwargs)

    return kernel


def _promote(op: Any, name: str) -> Any:
    def kernel(*args: Any, **kwargs: Any) -> Any:
        with _Exclude(_KEYS):
            low = _get_dtype(backend.NAME)
            dtype = _widest(args, low)
            lower = dtype is low
            kwargs = {k: _cast(v, dtype, lower) for k, v in kwargs.items()}
            return _call(op, _cast_all(args, dtype, lower), kwargs)

    return kernel


def _set_dtype(op: Any, name: str) -> Any:
    position = [a.name for a in op._schema.arguments].index("dtype")

    def kernel(*args: Any, **kwargs: Any) -> Any:
        with _Exclude(_KEYS):
            x = args[0]
            given = args[position] if len(args) > position else kwargs.get("dtype")
            if (
                given is None
                and isinstance(x, Tensor)
                and _eligible(x)
                and x.dtype in (torch.float16, torch.bfloat16)
            ):
                args = args[:position]
                kwargs["dtype"] = torch.float32
            return op(*args, **kwargs)

    return kernel


def _norm(op: Any, name: str) -> Any:
    aten = torch.ops.aten

    def kernel(self: Tensor, p: Any = 2, *rest: Any, **kwargs: Any) -> Any:
        with _Exclude(_KEYS):
            if not (_eligible(self) and self.dtype in (torch.float16, torch.bfloat16)):
                return op(self, p, *rest, **kwargs)
            if name == "norm.Scalar":
                return aten.norm.ScalarOpt_dtype(self, p, dtype=torch.float32)
            dim = rest[0] if rest else kwargs["dim"]
            keepdim = rest[1] if len(rest) > 1 else kwargs.get("keepdim", False)
            return aten.norm.ScalarOpt_dim_dtype(self, p, dim, keepdim, dtype=torch.float32)

    return kernel


def _banned(op: Any, name: str) -> Any:
    def kernel(*args: Any, **kwargs: Any) -> Any:
        raise RuntimeError(
            "torch.nn.functional.binary_cross_entropy and torch.nn.BCELoss are unsafe to autocast.\n"
            "Many models use a sigmoid layer right before the binary cross entropy layer.\n"
            "In this case, combine the two layers using "
            "torch.nn.functional.binary_cross_entropy_with_logits\n"
            "or torch.nn.BCEWithLogitsLoss.  binary_cross_entropy_with_logits and BCEWithLogits are\n"
            "safe to autocast."
        )

    return kernel


_KERNELS = {
    "lower": _lower, "fp32": _fp32, "promote": _promote, "set_dtype": _set_dtype, "norm": _norm,
    "banned": _banned,
}  # fmt: skip
