"""Kernels written out: creating, viewing, copying, and reading values back to the host."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from .. import backend, hollow, state, values
from . import generic

if TYPE_CHECKING:
    from ..device import VirtualDevice

Tensor = torch.Tensor
_aten = torch.ops.aten
_CPU = backend.CPU_KEYS
_as_strided = _aten.as_strided.default._handle.redispatch_boxed

KERNELS: dict[str, Any] = {}


def _started(*tensors: Any) -> VirtualDevice:
    """The device, one operation later.  Raises when a tensor belongs to a run that has ended."""
    device = state.current()
    state.refuse_outlived(tensors)
    device.operations += 1
    return device


def kernel(name: str) -> Any:
    def register(f: Any) -> Any:
        KERNELS[name] = f
        return f

    return register


# ---------------------------------------------------------------- creation


@kernel("empty_strided")
def empty_strided(
    size: Any,
    stride: Any,
    *,
    dtype: Any = None,
    layout: Any = None,
    device: Any = None,
    pin_memory: Any = None,
) -> Tensor:
    return backend.make_tensor(size, stride, dtype or torch.get_default_dtype())


@kernel("empty.memory_format")
def empty(
    size: Any,
    *,
    dtype: Any = None,
    layout: Any = None,
    device: Any = None,
    pin_memory: Any = None,
    memory_format: Any = None,
) -> Tensor:
    dtype = dtype or torch.get_default_dtype()
    if memory_format is None or memory_format is torch.contiguous_format:
        return backend.make_tensor(size, backend.contiguous_strides(size), dtype)
    shape = torch.empty(size, dtype=dtype, device="meta", memory_format=memory_format)
    return backend.make_tensor(size, shape.stride(), dtype)


# ---------------------------------------------------------------- views: metadata only


def _redirect(op: Any) -> Any:
    handle = op._handle.redispatch_boxed

    def view(*args: Any, **kwargs: Any) -> Any:
        return handle(_CPU, *args, **kwargs)

    return view


for _name in ("view", "_reshape_alias", "unfold", "view_as_real", "view_as_complex"):
    KERNELS[_name] = _redirect(getattr(_aten, _name).default)
KERNELS["view.dtype"] = _redirect(_aten.view.dtype)


@kernel("as_strided")
def as_strided(self: Tensor, size: Any, stride: Any, storage_offset: Any = None) -> Tensor:
    result: Tensor = _as_strided(_CPU, self, size, stride, storage_offset)
    return result


@kernel("alias")
def alias(self: Tensor) -> Tensor:
    result: Tensor = _as_strided(_CPU, self, self.size(), self.stride(), self.storage_offset())
    return result


# ---------------------------------------------------------------- storages


@kernel("set_.source_Storage_storage_offset")
def set_storage_offset(self: Tensor, source: Any, offset: int, size: Any, stride: Any = ()) -> Tensor:
    return backend.set_storage(self, source, offset, size, stride or backend.contiguous_strides(size))


@kernel("set_.source_Tensor")
def set_tensor(self: Tensor, source: Tensor) -> Tensor:
    return backend.set_storage(
        self, source.untyped_storage(), int(source.storage_offset()), source.size(), source.stride()
    )


@kernel("set_.source_Storage")
def set_whole_storage(self: Tensor, source: Any) -> Tensor:
    return backend.set_storage(self, source, 0, (source.nbytes() // self.dtype.itemsize,), (1,))


@kernel("set_")
def set_nothing(self: Tensor) -> Tensor:
    return backend.set_storage(self, state.allocate(0), 0, (0,), (1,))


@kernel("resize_")
def resize_(self: Tensor, size: Any, *, memory_format: Any = None) -> Tensor:
    if tuple(self.size()) == tuple(size):
        return self
    stride = None
    if memory_format is not None and memory_format not in (torch.contiguous_format, torch.preserve_format):
        stride = torch.empty(size, device="meta", memory_format=memory_format).stride()
    return generic.resize(self, size, stride)


@kernel("is_pinned")
def is_pinned(self: Tensor, device: Any = None) -> bool:
    return False


@kernel("record_stream")
def record_stream(self: Tensor, stream: Any) -> None:
    state.current().record_stream(self, stream)


# ---------------------------------------------------------------- copies and host reads

#: Above this glibc always maps fresh pages, which read as zeros (largest M_MMAP_THRESHOLD, mallopt(3)).
_FRESH_PAGES = 32 << 20


@kernel("copy_")
def copy_(self: Tensor, src: Tensor, non_blocking: bool = False) -> Tensor:
    device = _started(self, src)
    if self.size() != src.size():
        torch.broadcast_shapes(self.size(), src.size())
    to_device = backend.on_card(self)
    on_device = backend.on_card(src)
    nbytes = src.numel() * src.element_size()
    # A copy inside the card reads and writes its memory once; one over PCIe waits for the bus (not modelled).
    device.seconds += max((2 if to_device and on_device else 1) * nbytes / device.gpu.bandwidth, 5e-6)
    mirrors = device.mirrors
    if to_device:
        if not on_device:
            device.host_copy(self)
        if values.keeps(self) if on_device else values.is_small(self):
            try:
                host, known = mirrors.read(src)
                if not on_device and hollow.is_hollow(src):
                    known = False
                mirrors.write(self, known).copy_(host)
            except values.Unmirrored:
                mirrors.assume(self)
        else:
            mirrors.forget(self)
        return self
    try:
        host, _ = mirrors.read(src)
        return self.copy_(host)
    except values.Unmirrored:
        pass
    if self.numel() * self.element_size() > _FRESH_PAGES:
        hollow.mark(self)  # a large read-back: pages stay untouched
        return self
    return self.fill_(1 if src.dtype.is_floating_point and src.numel() == 1 else 0)


@kernel("_local_scalar_dense")
def local_scalar(self: Tensor) -> Any:
    device = _started(self)
    try:
        return device.mirrors.read(self)[0].item()
    except values.Unmirrored:
        device.mirrors.assume(self)
        return device.mirrors.read(self)[0].item() if values.is_small(self) else 0


@kernel("equal")
def equal(self: Tensor, other: Tensor) -> bool:
    mirrors = _started(self, other).mirrors
    try:
        return torch.equal(mirrors.read(self)[0], mirrors.read(other)[0])
    except values.Unmirrored:
        return self.shape == other.shape


# ---------------------------------------------------------------- sizes that depend on data


_LARGEST = "{}: the size of its result depends on data that is not there; the largest size was used."


def _count_true(mask: Tensor, what: str) -> int:
    """How many elements of `mask` are nonzero: counted when its values are known, else all of them."""
    device = state.current()
    try:
        host, known = device.mirrors.read(mask)
        if known:
            return int(torch.count_nonzero(host))
    except values.Unmirrored:
        pass
    device.note(_LARGEST.format(what))
    return mask.numel()


@kernel("nonzero")
def nonzero(self: Tensor) -> Tensor:
    device = _started(self)
    n = _count_true(self, "nonzero")
    out = backend.make_tensor((n, self.dim()), (1, max(n, 1)), torch.int64)
    try:
        host, known = device.mirrors.read(self)
        if known and values.is_small(out):
            device.mirrors.write(out, True).copy_(torch.nonzero(host))
    except values.Unmirrored:
        pass
    return out


@kernel("masked_select")
def masked_select(self: Tensor, mask: Tensor) -> Tensor:
    _started(self, mask)
    shape = torch.broadcast_shapes(self.shape, mask.shape)
    n = _count_true(mask.expand(shape), "masked_select")
    return backend.make_tensor((n,), (1,), self.dtype)


def _unique(self: Tensor, inverse: bool, counts: bool) -> tuple[Tensor, Tensor, Tensor]:
    device = _started(self)
    n = self.numel()
    try:
        host, known = device.mirrors.read(self)
        if known:
            n = int(torch.unique(host).numel())
    except values.Unmirrored:
        device.note(_LARGEST.format("unique"))
    shape = self.shape if inverse else torch.Size((0,))
    return (
        backend.make_tensor((n,), (1,), self.dtype),
        backend.make_tensor(shape, backend.contiguous_strides(shape), torch.int64),
        backend.make_tensor((n if counts else 0,), (1,), torch.int64),
    )


@kernel("_unique2")
def unique2(
    self: Tensor, sorted: bool = True, return_inverse: bool = False, return_counts: bool = False
) -> tuple[Tensor, Tensor, Tensor]:
    return _unique(self, return_inverse, return_counts)


@kernel("unique_consecutive")
def unique_consecutive(
    self: Tensor, return_inverse: bool = False, return_counts: bool = False, dim: Any = None
) -> tuple[Tensor, Tensor, Tensor]:
    return _unique(self, return_inverse, return_counts)


@kernel("repeat_interleave.Tensor")
def repeat_interleave(repeats: Tensor, *, output_size: int | None = None) -> Tensor:
    device = _started(repeats)
    counts: Tensor | None = None
    try:
        host, known = device.mirrors.read(repeats)
        counts = host if known else None
    except values.Unmirrored:
        pass
    n = output_size
    if n is None and counts is not None:
        n = int(counts.sum())
    if n is None:
        device.note("repeat_interleave: the counts are data that is not there; each was taken to be one.")
        n = repeats.numel()
    out = backend.make_tensor((n,), (1,), repeats.dtype)
    if counts is not None and values.is_small(out):
        device.mirrors.write(out, True).copy_(torch.repeat_interleave(counts))
    return out


@kernel("bincount")
def bincount(self: Tensor, weights: Tensor | None = None, minlength: int = 0) -> Tensor:
    device = _started(self)
    n = minlength
    try:
        host, known = device.mirrors.read(self)
        if known and host.numel():
            n = max(n, int(host.max()) + 1)
    except values.Unmirrored:
        device.note("bincount: the largest value is not known; as many bins as elements were assumed.")
        n = max(n, self.numel())
    return backend.make_tensor((n,), (1,), weights.dtype if weights is not None else torch.int64)


@kernel("histc")
def histc(self: Tensor, bins: int = 100, min: Any = 0, max: Any = 0) -> Tensor:
    _started(self)
    return backend.make_tensor((bins,), (1,), self.dtype)


@kernel("index.Tensor")
def index(self: Tensor, indices: Any) -> Tensor:
    device = _started(self, indices)
    meta: list[Any] = []
    for i in indices:
        if i is None:
            meta.append(None)
        elif i.dtype in (torch.bool, torch.uint8):
            n = _count_true(i, "indexing with a mask")
            meta += [torch.empty(n, dtype=torch.int64, device="meta")] * i.dim()
        else:
            meta.append(torch.empty(i.shape, dtype=torch.int64, device="meta"))
    shape = _aten.index.Tensor(generic.as_meta(self), meta)
    out = backend.make_tensor(shape.shape, shape.stride(), shape.dtype)
    device.seconds += max(2 * out.numel() * out.element_size() / device.gpu.bandwidth, 5e-6)
    if values.keeps(out):
        mirrors = device.mirrors
        try:
            host, known = mirrors.read(self)
            where: list[Any] = []
            for i in indices:
                if i is None:
                    where.append(slice(None))
                else:
                    h, ok = mirrors.read(i)
                    where.append(h)
                    known = known and ok
            value = host[tuple(where)]
            if value.shape != out.shape:
                raise values.Unmirrored
            mirrors.write(out, known).copy_(value)
        except values.Unmirrored:
            mirrors.assume(out)
    return out
