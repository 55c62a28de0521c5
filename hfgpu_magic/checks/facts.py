"""The facts a check is made of: plain frozen records, built once and then only read.

Rules see nothing but a `Facts`, so a test (or a lesson) can describe any machine by hand.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from ..devices.na import NA, NotAvailable
from ..devices.snapshot import DeviceSnapshot, DriverInfo, Inventory
from ..devices.system import UNASKED
from .tables import table
from .versions import Requirement, local_tag, release_of

Profile: TypeAlias = Literal["general", "inference", "training", "quantization", "distributed"]
PROFILES: tuple[Profile, ...] = ("general", "inference", "training", "quantization", "distributed")


@dataclass(frozen=True, slots=True)
class System:
    """The host.  `os` is 'Linux', 'Windows' or 'Darwin'; `wsl` 0, 1 or 2."""

    os: str = "Linux"
    release: str = ""
    machine: str = "x86_64"
    distribution: str = ""
    wsl: int = 0
    container: str = ""
    """'docker', 'podman', 'kubernetes', … or '' outside a container."""
    hosted: str = ""
    """'Colab', 'Kaggle', 'Binder', … or ''."""
    notebook: bool = False
    python: tuple[int, int, int] = (3, 12, 0)
    c_compiler: str = ""
    """Path of the compiler triton would call, '' when there is none."""
    python_headers: bool = True
    nvidia_pci: int = 0
    """NVIDIA functions the PCI bus shows, driver or not (0 where the bus cannot be read)."""
    shared_memory: int | NotAvailable = NA
    """Size of /dev/shm in bytes."""


@dataclass(frozen=True, slots=True)
class TorchBuild:
    """The installed torch, as its own version.py and metadata describe it."""

    version: str
    cuda: str | None = None
    """CUDA release it was built for ('13.0'), None for builds without."""
    hip: str | None = None
    xpu: str | None = None
    arch_list: tuple[str, ...] | None = None
    """What the binary itself lists ('sm_90', 'compute_120'); None unless torch was asked."""

    @property
    def tag(self) -> str:
        """'cu130', 'cpu', 'rocm7.2' … or '' where the wheel does not say."""
        return local_tag(self.version)

    @property
    def release(self) -> tuple[int, ...]:
        return release_of(self.version)

    @property
    def cuda_version(self) -> tuple[int, int] | None:
        if not self.cuda:
            return None
        major, _, minor = self.cuda.partition(".")
        return int(major), int(minor.partition(".")[0] or 0)


@dataclass(frozen=True, slots=True)
class TorchState:
    """What only an imported torch can tell.  Reading it never initialises CUDA."""

    matmul_fp32: str = ""
    """'ieee', 'tf32' or 'none' (= ieee) of CUDA matrix products; '' where it cannot be told."""
    conv_fp32: str = ""
    mixed_apis: bool = False
    """True when the program used both TF32 APIs, after which the old one raises when read."""
    cuda_initialized: bool = False
    default_device: str = "cpu"


@dataclass(frozen=True, slots=True)
class Target:
    """A catalog card judged instead of this machine's devices."""

    spec: str
    name: str
    count: int = 1


@dataclass(frozen=True)
class Facts:
    """Everything the rules may look at."""

    system: System = field(default_factory=System)
    environ: Mapping[str, str] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    """Canonical distribution name -> installed version; absent means not installed."""
    requirements: Mapping[str, tuple[Requirement, ...]] = field(default_factory=dict)
    """What the installed packages state they need."""
    declared: Mapping[str, str] = field(default_factory=dict)
    """Floors the installed transformers itself checks, e.g. {'bitsandbytes': '>=0.46.1'}."""
    torch: TorchBuild | None = None
    torch_state: TorchState | None = None
    inventory: Inventory = field(default_factory=lambda: Inventory(DriverInfo("no_library")))
    visible_problem: str = ""
    """What is wrong with CUDA_VISIBLE_DEVICES, in one sentence; '' when nothing is."""
    allocator_problem: str = ""
    """What is wrong with PYTORCH_ALLOC_CONF / PYTORCH_CUDA_ALLOC_CONF; '' when nothing is."""
    shadowing: tuple[str, ...] = ()
    """CUDA libraries on LD_LIBRARY_PATH that win over the ones torch brings."""
    target: Target | None = None
    profile: Profile = "general"

    @property
    def driver(self) -> DriverInfo:
        return self.inventory.driver

    @property
    def devices(self) -> tuple[DeviceSnapshot, ...]:
        return self.inventory.devices

    @property
    def usable(self) -> tuple[DeviceSnapshot, ...]:
        """The accelerators this process would be given, in its own order.

        Another vendor's device that only the operating system has shown counts where the installed torch
        is built for it.
        """
        numbered = tuple(d for d in self.inventory.visible if d.state == "ok")
        seen = (d for d in self.devices if d.cuda_index is None and d.state == "ok" and d.message == UNASKED)
        return numbered + tuple(d for d in seen if self.drives(d.backend))

    @property
    def driven(self) -> tuple[DeviceSnapshot, ...]:
        """The usable devices that the installed torch can drive.  A catalog card counts as driven: its torch
        is judged by a rule of its own.
        """
        return tuple(d for d in self.usable if self.target or self.drives(d.backend))

    def drives(self, backend: str) -> bool:
        """Is the installed torch, or a package beside it, built for this kind of device?"""
        if self.torch is None:
            return False
        if backend == "virtual":
            return True
        if backend in ("rocm", "xpu", "cuda"):
            return bool({"rocm": self.torch.hip, "xpu": self.torch.xpu, "cuda": self.torch.cuda}[backend])
        row = next((r for r in table("backends")["backend"] if r["key"] == backend), None)
        return row is not None and (not row["package"] or row["package"] in self.versions)

    @property
    def cuda(self) -> tuple[DeviceSnapshot, ...]:
        """The usable NVIDIA devices."""
        return tuple(d for d in self.usable if d.backend in ("cuda", "virtual"))

    @property
    def capabilities(self) -> list[tuple[int, int]]:
        """Compute capabilities of the usable NVIDIA devices, those that tell it."""
        return [d.capability for d in self.cuda if not isinstance(d.capability, NotAvailable)]

    @property
    def backends(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(d.backend for d in self.usable))

    def version(self, name: str) -> str | None:
        return self.versions.get(name)

    def on(self, *profiles: Profile) -> bool:
        return self.profile in profiles

    @property
    def nvidia(self) -> tuple[DeviceSnapshot, ...]:
        """The NVIDIA cards to judge: the usable ones, or all healthy ones while all are hidden."""
        healthy = tuple(d for d in self.devices if d.backend == "cuda" and d.state == "ok")
        return self.cuda or healthy
