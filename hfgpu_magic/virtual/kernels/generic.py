"""One kernel for (almost) every operation: right shapes, right allocations, no arithmetic.

The shape of a result comes from PyTorch's own meta kernels and is remembered per operation and
argument shapes, so an operation costs microseconds from its second call on.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch

from .. import backend, roofline, state, values
from . import checks

if TYPE_CHECKING:
    from ..device import VirtualDevice

Tensor = torch.Tensor
_META = torch.device("meta")
_Parameter = torch.nn.Parameter

#: Run after an operation's outputs exist: `effect(device, args, kwargs, out)`.  Filled by `effects`.
EFFECTS: dict[str, Callable[..., None]] = {}
#: Asked once per operation and argument shapes: `chooser(args, kwargs, out)` gives the effect, or None.
#: Tensors in it are meta tensors.  Filled by `effects`.
CHOOSERS: dict[str, Callable[..., Callable[..., None] | None]] = {}
#: A float argument decides the size of these results, so its value belongs to the cache key.
_SIZED_BY_FLOATS = ("arange", "range", "linspace", "logspace", "upsample", "_upsample")


class Plan:
    """What an operator's schema says about where its results come from."""

    __slots__ = (
        "aliased", "entries", "floats_matter", "name", "op", "out_only", "overwrites", "random", "returns",
        "view", "writes",
    )  # fmt: skip

    def __init__(self, op: Any) -> None:
        schema = op._schema
        self.op = op
        #: What is remembered, by the shapes of the arguments.
        self.entries: dict[Any, Entry] = {}
        self.name: str = schema.name.split("::")[1]
        written: list[tuple[int, str, frozenset[str]]] = []
        for i, a in enumerate(schema.arguments):
            if a.alias_info is not None and a.alias_info.is_write:
                written.append((i, a.name, frozenset(a.alias_info.before_set)))
        #: Arguments the operator writes, as (position, name).
        self.writes = [(i, name) for i, name, _ in written]
        self.view = False
        #: Per return: the (position, name) of the argument handed back, or None for a new tensor.
        self.returns: list[tuple[int, str] | None] = []
        for r in schema.returns:
            if r.alias_info is None:
                self.returns.append(None)
            elif r.alias_info.is_write:
                before = frozenset(r.alias_info.before_set)
                self.returns.append(next((i, n) for i, n, s in written if s == before))
            else:
                self.view = True
                self.returns.append(None)
        self.aliased = bool(self.writes) and all(r is not None for r in self.returns)
        self.out_only = bool(written) and all(schema.arguments[i].kwarg_only for i, _, _ in written)
        self.overwrites = self.out_only or self.name in ("fill_", "zero_", "copy_")
        self.random = values.is_random(self.name)
        self.floats_matter = self.name.startswith(_SIZED_BY_FLOATS)


class Entry:
    """What is remembered for one operator on one combination of argument shapes."""

    __slots__ = ("effect", "resize", "seconds", "small", "spec")

    def __init__(self, spec: Any, small: bool, seconds: float, effect: Any, resize: Any) -> None:
        self.spec = spec
        self.small = small
        self.seconds = seconds
        self.effect = effect
        self.resize = resize


#: By the operator's identity: hashing one goes through Python.  A plan holds its operator, so none is reused.
plans: dict[int, Plan] = {}
_metas: dict[Any, Tensor] = {}


def clear() -> None:
    """Forget remembered shapes (estimates depend on the card, so each run starts afresh)."""
    for plan in plans.values():
        plan.entries.clear()
    _metas.clear()


def _key(x: Any) -> Any:
    if isinstance(x, Tensor):
        return (x.shape, x.stride(), x.dtype, x.is_cpu)
    if isinstance(x, (list, tuple)):
        return tuple([_key(y) for y in x])
    if x is True or x is False:
        return ("bool", x)
    if isinstance(x, float):
        return ("float", x)
    return x


def _keys(args: Any) -> tuple[Any, ...]:
    """The arguments as far as they can change a shape.  Written out: it runs for every operation."""
    parts: list[Any] = []
    for x in args:
        kind = x.__class__
        if kind is Tensor or kind is _Parameter:
            parts.append((x.shape, x.stride(), x.dtype, x.is_cpu))
        elif x is None or kind is int:
            parts.append(x)
        else:
            # A float given directly (a learning rate, an epsilon) never changes a shape: one entry for all.
            parts.append(float if isinstance(x, float) else _key(x))
    return tuple(parts)


def as_meta(t: Tensor) -> Tensor:
    """A meta tensor with `t`'s shape, strides and dtype (shared: never write to it)."""
    key = (t.shape, t.stride(), t.dtype)
    meta = _metas.get(key)
    if meta is None:
        meta = _metas[key] = torch.empty_strided(t.shape, t.stride(), dtype=t.dtype, device=_META)
    return meta


def to_meta(x: Any) -> Any:
    if isinstance(x, Tensor):
        return as_meta(x)
    if isinstance(x, (list, tuple)):
        return [to_meta(y) for y in x]
    if isinstance(x, torch.device):
        return _META
    return x


def _spec(x: Any) -> Any:
    if isinstance(x, Tensor):
        size, stride = x.shape, x.stride()
        return (size, stride, x.dtype, backend.span(size, stride) * x.dtype.itemsize)
    if isinstance(x, (list, tuple)):
        return [_spec(y) for y in x]
    return ("value", x)


def build(device: VirtualDevice, spec: Any) -> Any:
    """Allocate what a remembered result spec describes."""
    if type(spec) is tuple:
        return spec[1] if spec[0] == "value" else device.tensor(*spec)
    return tuple([build(device, s) for s in spec])


def _any_small(x: Any) -> bool:
    if isinstance(x, Tensor):
        nbytes = x.numel() * x.element_size()
        return nbytes <= values.SMALL_COMPUTED or (
            nbytes <= values.SMALL_INTEGER and not (x.dtype.is_floating_point or x.dtype.is_complex)
        )
    if isinstance(x, (list, tuple)):
        return any(_any_small(y) for y in x)
    return False


def _written(plan: Plan, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Any]:
    return [
        kwargs[name] if name in kwargs else args[i]
        for i, name in plan.writes
        if name in kwargs or i < len(args)
    ]


def _analyse(op: Any, plan: Plan, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Entry:
    checks.check(op, plan.name, args, kwargs)
    gpu = state.current().gpu
    # Choosers see meta tensors only: the effect they give is remembered, and must not keep anything alive.
    meta_args = tuple([to_meta(a) for a in args])
    meta_kwargs = {k: to_meta(v) for k, v in kwargs.items()}
    if plan.aliased:
        targets = _written(plan, meta_args, meta_kwargs)
        target = targets[0] if len(targets) == 1 else targets
        effect = _effect(plan.name, meta_args, meta_kwargs, target)
        resize = _out_shapes(op, plan, args, kwargs) if plan.out_only else None
        cost = roofline.seconds(gpu, op, meta_args, meta_kwargs, target)
        return Entry(None, _any_small(targets), cost, effect, resize)
    out = _shapes(op, meta_args, meta_kwargs)
    effect = _effect(plan.name, meta_args, meta_kwargs, out)
    cost = roofline.seconds(gpu, op, meta_args, meta_kwargs, out)
    return Entry(_spec(out), _any_small(out), cost, effect, None)


def _effect(name: str, args: Any, kwargs: Any, out: Any) -> Any:
    chooser = CHOOSERS.get(name)
    return EFFECTS.get(name) if chooser is None else chooser(args, kwargs, out)


def _shapes(op: Any, args: Any, kwargs: Any) -> Any:
    own = SHAPES.get(op._schema.name)
    if own is not None:
        return own(*args, **kwargs)
    try:
        return op(*args, **kwargs)
    except RuntimeError as error:
        if "data-dependent" not in str(error):
            raise
        return _upper_bound(op, args, kwargs)


def _upper_bound(op: Any, args: Any, kwargs: Any) -> Any:
    """Shapes of a custom operator whose fake kernel asks for a data-dependent size: its maximum."""
    from torch._library import fake_impl, simple_registry

    class Context:
        def new_dynamic_size(self, *, min: int = 0, max: int | None = None) -> int:
            return min if max is None else max

        create_unbacked_symint = new_dynamic_size

    kernel = simple_registry.singleton.find(op._schema.name).fake_impl.kernel
    state.current().note(f"{op._schema.name}: size of the result depends on data; its upper bound was used.")
    with fake_impl.set_ctx_getter(lambda: Context()):
        return kernel(*args, **kwargs)


#: Own shape functions by qualified operator name, where PyTorch's meta kernel is missing or too strict.
SHAPES: dict[str, Callable[..., Any]] = {}


def _out_shapes(op: Any, plan: Plan, args: Any, kwargs: Any) -> dict[str, Any] | None:
    """Shapes of `out=` tensors that are still empty and that the operator resizes."""
    outs = {name: kwargs[name] for _, name in plan.writes if isinstance(kwargs.get(name), Tensor)}
    if not any(t.numel() == 0 for t in outs.values()):
        return None
    meta_kwargs = {k: to_meta(v) for k, v in kwargs.items()}
    for name, t in outs.items():
        empty = t.numel() == 0
        meta_kwargs[name] = torch.empty(0, dtype=t.dtype, device=_META) if empty else as_meta(t).clone()
    op(*[to_meta(a) for a in args], **meta_kwargs)
    wanted = {n: (meta_kwargs[n].shape, meta_kwargs[n].stride()) for n in outs}
    changed = {n: s for n, s in wanted.items() if s[0] != outs[n].shape}
    return changed or None


def run(op: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Execute `op` on the virtual device."""
    device = state.current()
    state.refuse_outlived(args)
    plan = plans.get(id(op))
    if plan is None:
        plan = plans[id(op)] = Plan(op)
    key: Any
    if plan.floats_matter:
        key = (_key(args), _key(list(kwargs.items())))
    elif kwargs:
        key = (_keys(args), tuple(kwargs), _keys(kwargs.values()))
    else:
        key = _keys(args)
    try:
        entry = plan.entries.get(key)
    except TypeError:  # an unhashable argument (a generator, a list subclass)
        key = entry = None
    if entry is None:
        if plan.view:
            raise NotImplementedError(
                f"{op} returns a view and has no kernel on the virtual GPU. Please report this operation."
            )
        entry = _analyse(op, plan, args, kwargs)
        if key is not None:
            plan.entries[key] = entry
    device.operations += 1
    device.seconds += entry.seconds
    if plan.aliased:
        if entry.resize is not None:
            for name, (size, stride) in entry.resize.items():
                resize(kwargs[name], size, stride)
        returned = [kwargs[r[1]] if r[1] in kwargs else args[r[0]] for r in plan.returns if r is not None]
        out: Any = None if not returned else returned[0] if len(returned) == 1 else tuple(returned)
    else:
        out = build(device, entry.spec)
    if entry.effect is not None:
        entry.effect(device, args, kwargs, out)
    if entry.small:
        results = _written(plan, args, kwargs) if plan.aliased else out
        several = results if isinstance(results, (tuple, list)) else (results,)
        flat = [t for t in several if isinstance(t, Tensor)]
        if len(flat) <= 16:  # long _foreach lists of small tensors carry no decisions worth their price
            values.compute(
                device.mirrors,
                op,
                plan.writes,
                plan.aliased,
                plan.random,
                plan.overwrites,
                args,
                kwargs,
                flat,
            )
    return out


def resize(t: Tensor, size: Any, stride: Any = None) -> Tensor:
    """`resize_`: a larger storage when the present one is too small, as CUDA does it."""
    stride = backend.contiguous_strides(size) if stride is None else stride
    n = backend.span(size, stride)
    offset = int(t.storage_offset())
    needed = (n + offset) * t.dtype.itemsize if n else 0
    storage = t.untyped_storage()
    if storage.nbytes() < needed:
        storage = state.allocate(needed)
    return backend.set_storage(t, storage, offset, size, stride)


def kernel_for(op: Any) -> Callable[..., Any]:
    """A kernel function for `op`, to be registered by name."""

    def kernel(*args: Any, **kwargs: Any) -> Any:
        return run(op, args, kwargs)

    return kernel


def fallback(op: Any, *args: Any, **kwargs: Any) -> Any:
    """The boxed fallback of the device: reached by every operation without a kernel of its own."""
    return run(op, args, kwargs)
