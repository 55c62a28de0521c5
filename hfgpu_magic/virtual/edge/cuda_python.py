"""What `torch.cuda` keeps in Python: availability, properties, streams, events, random state, types."""

from __future__ import annotations

import importlib
import sys
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from .. import backend
from ..kernels import recurrent
from .names import CUDA0, gpu_index

if TYPE_CHECKING:
    from ..device import VirtualDevice
    from ..patches import Patches


@dataclass(frozen=True)
class Properties:
    """What `torch.cuda.get_device_properties` returns."""

    name: str
    major: int
    minor: int
    total_memory: int
    multi_processor_count: int
    L2_cache_size: int
    uuid: uuid.UUID
    regs_per_multiprocessor: int = 65536
    max_threads_per_multi_processor: int = 1024
    max_threads_per_block: int = 1024
    shared_memory_per_block: int = 49152
    warp_size: int = 32
    is_integrated: int = 0
    is_multi_gpu_board: int = 0
    pci_bus_id: int = 0
    pci_device_id: int = 0
    pci_domain_id: int = 0
    gcnArchName: str = ""


class _Runtime:
    """The few calls of `torch.cuda.cudart()` that programs make."""

    class cudaError:
        success = 0

    def __init__(self, device: VirtualDevice) -> None:
        self._device = device

    def cudaMemGetInfo(self, index: int) -> tuple[int, int]:
        return self._device.memory.free, self._device.memory.total

    def cudaGetErrorString(self, code: int) -> str:
        return f"CUDA error {code}"

    def __getattr__(self, name: str) -> Any:
        if not name.startswith("cuda"):
            raise AttributeError(name)
        return lambda *args: 0


class _TensorType(type):
    """`isinstance(x, torch.cuda.FloatTensor)` and `torch.cuda.FloatTensor([1., 2.])`."""

    dtype: torch.dtype

    def __instancecheck__(cls, instance: Any) -> bool:
        return backend.is_virtual(instance) and instance.dtype is cls.dtype

    def __call__(cls, *args: Any) -> torch.Tensor:
        if args and not isinstance(args[0], int):
            return torch.tensor(args[0], dtype=cls.dtype, device=CUDA0)
        return torch.empty(*args, dtype=cls.dtype, device=CUDA0)


_TENSOR_TYPES = ("Float", "Half", "BFloat16", "Double", "Long", "Int", "Short", "Char", "Byte", "Bool")


def install(patches: Patches, device: VirtualDevice) -> None:
    cuda = torch.cuda
    # These modules copy names out of torch.cuda or ask about it once, at import: they see the truth first.
    for name in (
        "torch.cuda.amp.common",
        "torch.utils.checkpoint",
        "torch.backends.cudnn",
        "torch.backends.cudnn.rnn",
        "torch.cuda.nvtx",
    ):
        importlib.import_module(name)
    gpu = device.gpu
    properties = Properties(
        name=gpu.driver_name,
        major=gpu.capability[0],
        minor=gpu.capability[1],
        total_memory=device.memory.total,
        multi_processor_count=gpu.sm_count,
        L2_cache_size=gpu.l2,
        uuid=uuid.uuid5(uuid.NAMESPACE_DNS, f"virtual-{gpu.name}"),
        max_threads_per_multi_processor=gpu.threads_per_sm,
    )

    def get_properties(index: Any = None) -> Properties:
        gpu_index(index)
        return properties

    runtime = _Runtime(device)
    python: dict[str, Any] = {
        "_initialized": True,
        "_cached_device_count": None,
        "_lazy_init": lambda: None,
        "_lazy_call": lambda call, **kwargs: call(),
        "is_available": lambda: True,
        "is_initialized": lambda: True,
        "_is_compiled": lambda: True,
        "_is_in_bad_fork": lambda: False,
        "_get_device_properties": get_properties,
        "_exchange_device": lambda index: gpu_index(index) * 0,
        "_maybe_exchange_device": lambda index: 0,
        "cudart": lambda: runtime,
        "is_bf16_supported": lambda including_emulation=True: (
            gpu.capability >= (8, 0) or bool(including_emulation)
        ),
        "is_tf32_supported": lambda: gpu.capability >= (8, 0),
        "_get_generator": lambda d: cuda.default_generators[0],
        "default_generators": (_default_generator(),),
        "utilization": lambda d=None: 0,
        "device_memory_used": lambda d=None: device.memory.total - device.memory.free,
        "temperature": lambda d=None: 0,
        "power_draw": lambda d=None: 0,
        "clock_rate": lambda d=None: 0,
    }
    for name, value in python.items():
        patches.set(cuda, name, value)
    for name in _TENSOR_TYPES:
        full = f"{name}Tensor"
        dtype = getattr(torch, full).dtype
        namespace = {
            "dtype": dtype,
            "is_cuda": True,
            "_tensor_type": f"torch.cuda.{full}",
            "__module__": "torch.cuda",
        }
        patches.set(cuda, full, _TensorType(full, (), namespace))
    patches.set(torch.backends.cuda, "is_built", lambda: True)
    patches.set(torch.backends.cudnn, "is_available", lambda: True)
    patches.set(torch.backends.cudnn, "version", lambda: 91002)
    patches.set(torch.backends.cudnn, "is_acceptable", _cudnn_takes)
    patches.set(torch.backends.cudnn.rnn, "get_cudnn_mode", recurrent.MODES.__getitem__)
    patches.set(torch, "_use_cudnn_rnn_flatten_weight", lambda: True)
    _install_version(patches)
    _install_random(patches)
    _install_history(patches, device)


def _cudnn_takes(t: torch.Tensor) -> bool:
    """`torch.backends.cudnn.is_acceptable`, which would look for the library."""
    return torch.backends.cudnn.enabled and t.is_cuda and t.dtype in torch.backends.cudnn.CUDNN_TENSOR_DTYPES


def _default_generator() -> Any:
    from .generators import Generator

    return Generator("cuda")


def _install_version(patches: Patches) -> None:
    """A CPU build says `torch.version.cuda is None`, and libraries take that as "no GPU"."""
    if torch.version.cuda is None and getattr(torch.version, "hip", None) is None:
        patches.set(torch.version, "cuda", "13.0")


def _install_random(patches: Patches) -> None:
    """The card's random state, kept apart from the host's."""
    kept = {"state": torch.zeros(16, dtype=torch.uint8, device="cpu"), "seed": 0}

    def seed(value: int) -> None:
        kept["seed"] = int(value)

    def get_state(device: Any = "cuda") -> torch.Tensor:
        return kept["state"].clone()  # type: ignore[attr-defined, no-any-return]

    def set_state(new_state: torch.Tensor, device: Any = "cuda") -> None:
        kept["state"] = new_state.clone()

    def set_all(states: Any) -> None:
        for new_state in states:
            set_state(new_state)

    names = {
        "get_rng_state": get_state,
        "set_rng_state": set_state,
        "get_rng_state_all": lambda: [get_state()],
        "set_rng_state_all": set_all,
        "manual_seed": seed,
        "manual_seed_all": seed,
        "seed": lambda: None,
        "seed_all": lambda: None,
        "initial_seed": lambda: kept["seed"],
    }
    for name, function in names.items():
        patches.set(torch.cuda, name, function)
        patches.set(torch.cuda.random, name, function)


def _install_history(patches: Patches, device: VirtualDevice) -> None:
    """`torch.cuda.memory._record_memory_history`, in its present form and with its old `enabled=True`."""

    def record(
        enabled: Any = "all",
        context: Any = "all",
        stacks: Any = "all",
        max_entries: int = sys.maxsize,
        device_index: Any = None,
        clear_history: bool = False,
        **others: Any,
    ) -> None:
        history = device.history
        if not enabled:
            history.stop()
            return
        if clear_history:
            history.clear()
        if isinstance(enabled, bool):  # (enabled, record_context, trace_alloc_max_entries, ...) of old
            context, max_entries = (
                "all" if context else None,
                others.get("trace_alloc_max_entries", max_entries),
            )
        history.start(max_entries, stacks=context is not None, trace=enabled != "state")

    patches.set(torch.cuda.memory, "_record_memory_history", record)
