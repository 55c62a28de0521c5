"""The same step without the recorder: which storages does the program make when nobody looks?

A `TorchDispatchMode` gives every tensor a Python object, and autograd then no longer adds gradients in place
where it holds the last reference.  So the storages are counted once more without it: on the host by
PyTorch's profiler, which hears of every allocation, on the card by the device itself.  On either side the
kernels' own temporaries are left out, and so are tensors of a few values (the host keeps Python's numbers
in tensors, too).
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterator
from typing import Any

import torch

from hfgpu_magic.runner import uncollected

from .program import Run, prepared, step
from .table import Architecture

#: Storages up to this many bytes are not counted.
SMALL = 64


def on_host(architecture: Architecture, watched: Run, attention: str = "eager") -> Counter[int]:
    """Size in bytes -> storages.  `watched` is the recorded run: its operations are the kernels."""
    from torch._C._profiler import _EventType
    from torch.autograd.profiler import profile

    class Profile(profile):
        def _parse_kineto_results(self, *result: Any, **limits: Any) -> list[Any]:  # noqa: ARG002
            return []  # its list of events is not used; making it takes longer than the step

    program = prepared(architecture, "cpu", attention)
    with uncollected(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with Profile(use_kineto=True, profile_memory=True) as seen:
            step(program)
    kernels = {"aten::" + op.name.split(".")[0] for op in watched.recorder.ops}

    def walk(nodes: Any, kernel: Any, parent: Any) -> Iterator[tuple[int, int, int, int]]:
        """(time, address, bytes or minus bytes, when the kernel around it ends; 0 for none)."""
        for node in nodes:
            if node.tag == _EventType.Allocation:
                end = kernel.start_time_ns + kernel.duration_time_ns if kernel is not None else 0
                yield node.start_time_ns, node.extra_fields.ptr, node.extra_fields.alloc_size, end
            elif kernel is None and node.name in kernels:
                yield from walk(node.children, node, node)
            else:
                # PyTorch copies a conjugated argument before any kernel sees it, on every device alike.
                conjugate = parent is kernel and node.name == "aten::clone"
                yield from walk(node.children, None if conjugate else kernel, node)

    events = sorted(walk(seen.kineto_results.experimental_event_tree(), None, None))
    alive: dict[int, tuple[int, int]] = {}
    made: Counter[int] = Counter()
    for time, address, nbytes, end in events:
        if nbytes > 0:
            alive[address] = (nbytes, end)
            made[nbytes] += nbytes > SMALL
        elif address in alive:
            size, kernel_end = alive.pop(address)
            if time <= kernel_end:
                made[size] -= size > SMALL
    return +made


def on_card(architecture: Architecture, watched: Run, attention: str = "eager") -> Counter[int]:
    """The same inside a `VirtualGPU` block; the kernels' temporaries are those of the recorded run."""
    from hfgpu_magic.virtual import backend, state

    program = prepared(architecture, "cuda", attention)
    device = state.current()
    made: Counter[int] = Counter()
    tensor = device.tensor

    def counted(size: Any, stride: Any, dtype: torch.dtype, *rest: Any) -> torch.Tensor:
        nbytes = backend.span(size, stride) * dtype.itemsize
        made[nbytes] += nbytes > SMALL
        return tensor(size, stride, dtype, *rest)

    device.tensor = counted  # type: ignore[method-assign, assignment]
    try:
        with uncollected(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            step(program)
    finally:
        del device.tensor
    made.subtract(nbytes for op in watched.recorder.ops for nbytes in op.inner if nbytes > SMALL)
    return +made
