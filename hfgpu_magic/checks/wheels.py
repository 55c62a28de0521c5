"""Which torch build runs on which card, and the command that installs it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from ..devices.na import NotAvailable
from ..devices.snapshot import DriverInfo
from .facts import System, TorchBuild
from .tables import Wheel, table, wheels
from .versions import sort_key

Capability = tuple[int, int]


def runs_on(capability: Capability, binary: int, cuda: tuple[int, int]) -> bool:
    """Does a GPU of `capability` run a binary for capability `binary`/10, built with CUDA `cuda`?"""
    data = table("wheels")
    card = 10 * capability[0] + capability[1]
    for alias in data["alias"]:
        if alias["binary"] == binary and alias["capability"] == card:
            return True
    for row in data["exception"]:
        if row["capability"] == card and binary in row["refuses"]:
            until = row.get("until_cuda")
            if until is None or cuda < tuple(int(n) for n in until.split(".")):
                return False
    if binary in data["one_chip"]["binaries"]:
        return card == binary
    return binary // 10 == capability[0] and binary % 10 <= capability[1]


def has_kernels(
    capability: Capability, sass: Iterable[int], ptx: Iterable[int], cuda: tuple[int, int]
) -> bool:
    """A binary that runs, or PTX the driver can translate for a newer card."""
    card = 10 * capability[0] + capability[1]
    return any(runs_on(capability, binary, cuda) for binary in sass) or any(code <= card for code in ptx)


def host_machine(system: System) -> str:
    return "aarch64" if system.machine in ("aarch64", "arm64") else "x86_64"


def built_for(build: TorchBuild, system: System) -> tuple[tuple[int, ...], tuple[int, ...], str] | None:
    """(SASS, PTX, source) of an installed build: from the binary if it was asked, else from the table."""
    if build.arch_list is not None:
        sass = tuple(_number(a) for a in build.arch_list if a.startswith("sm_"))
        ptx = tuple(_number(a) for a in build.arch_list if a.startswith("compute_"))
        return sass, ptx, "torch.cuda.get_arch_list() of the installed torch"
    if build.tag and build.tag != "cu" + (build.cuda or "").replace(".", ""):
        return None  # somebody's own build: the published list says nothing about it
    for row in wheels():
        if (
            row.torch == build.release[:2]
            and row.cuda == build.cuda_version
            and row.machine == host_machine(system)
        ):
            return row.sass, row.ptx, row.source
    return None


def _number(arch: str) -> int:
    return int("".join(c for c in arch.partition("_")[2] if c.isdigit()))


def floor_key(system: System) -> str:
    # Inside WSL2 the driver is the Windows one and carries Windows' version numbers.
    return "windows" if system.os == "Windows" or system.wsl else "linux"


def driver_floor(cuda_major: int, system: System) -> str | None:
    for row in table("drivers")["floor"]:
        if row["cuda"] == cuda_major:
            return str(row[floor_key(system)])
    return None


def driver_major(driver: DriverInfo, system: System) -> int | None:
    """Newest CUDA major this driver runs; None when the driver tells neither version."""
    if not isinstance(driver.cuda, NotAvailable):
        return driver.cuda[0]
    if isinstance(driver.version, NotAvailable):
        return None
    key = sort_key(driver.version)
    served = [r["cuda"] for r in table("drivers")["floor"] if key >= sort_key(r[floor_key(system)])]
    return max(served, default=0)


def choose(
    capabilities: Iterable[Capability],
    *,
    system: System,
    driver_cuda: int | None,
    prefer: tuple[int, ...] = (),
) -> Wheel | None:
    """The published build for these cards and this driver.

    The installed release if it has one (nothing else needs to move then), else the newest; within a
    release the one PyPI gives, else the newest CUDA.
    """
    cards = tuple(capabilities)
    newest = tuple(int(n) for n in str(table("wheels")["newest"]).split(".")[:2])
    fitting = [
        row
        for row in wheels()
        if row.machine == host_machine(system)
        and row.torch >= (2, 6)
        and row.torch <= newest
        and (driver_cuda is None or row.cuda[0] <= driver_cuda)
        and all(has_kernels(card, row.sass, row.ptx, row.cuda) for card in cards)
    ]
    if not fitting:
        return None
    return max(fitting, key=lambda row: (row.torch == prefer[:2], row.torch, row.pypi, row.cuda))


def install_command(wheel: Wheel, versions: Mapping[str, str], prefer: tuple[int, ...] = ()) -> str:
    """The pip line that puts exactly this build in place of whatever is installed.

    The local tag is spelled out: pip takes `2.15.0+cpu` as satisfying `torch==2.15.0`.
    """
    data = table("wheels")
    minor = f"{wheel.torch[0]}.{wheel.torch[1]}"
    if prefer[:2] == wheel.torch and len(prefer) >= 3:
        release = ".".join(str(n) for n in prefer[:3])
    else:
        release = data["patch"].get(minor, f"{minor}.0")
    companions = [name for name in ("torchvision", "torchaudio") if name in versions]
    force = ["--force-reinstall"] if companions else []
    words = ["pip install", *force, f'"torch=={release}+{wheel.tag}"', *companions]
    return " ".join([*words, "--index-url", f"{data['index']}/{wheel.tag}"])
