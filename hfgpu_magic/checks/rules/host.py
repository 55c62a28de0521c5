"""Operating system, Python, WSL."""

from __future__ import annotations

from ..facts import Facts
from ..rule import Check, Status, Topic


def operating_system(facts: Facts) -> list[Check]:
    system = facts.system
    place = " ".join(x for x in (system.distribution or f"{system.os} {system.release}", system.machine) if x)
    inside = [x for x in (system.container and f"in a container ({system.container})", system.hosted) if x]
    if system.wsl:
        inside.insert(0, f"WSL{system.wsl}")
    status: Status = "pass" if system.os in ("Linux", "Darwin", "Windows") else "warn"
    why = "Linux is where every backend and quantizer exists"
    fix = None
    if system.os == "Windows":
        why = (
            "PyPI's Windows wheel of torch is CPU-only, triton comes as triton-windows, NCCL does not exist: "
            "WSL2 has all of them"
        )
        fix = "wsl --install"
    elif system.os == "Darwin":
        why = "there is no CUDA on macOS; torch uses the Apple GPU (MPS)"
    return [
        Topic(
            "system.os",
            "Operating system",
            "Linux (recommended), Windows or macOS",
            "requirement pages S1 and S2; torch wheels on PyPI",
        ).verdict(status, ", ".join([place, *inside]), why, fix),
    ]


def python(facts: Facts) -> list[Check]:
    version = facts.system.python
    fine = version[:2] >= (3, 11)
    return [
        Topic("system.python", "Python", ">= 3.11", "transformers 5.23 METADATA (Requires-Python)").verdict(
            "pass" if fine else "fail",
            ".".join(map(str, version)),
            "transformers 5 refuses to be imported by an older Python",
            None if fine else "install Python 3.11 or newer and make a new environment with it",
        ),
    ]


def wsl(facts: Facts) -> list[Check]:
    level = facts.system.wsl
    if not level:
        return []
    return [
        Topic(
            "system.wsl",
            "Windows Subsystem for Linux",
            "WSL2",
            "requirement page S1; NVIDIA CUDA on WSL user guide",
        ).verdict(
            "pass" if level == 2 else "fail",
            f"WSL{level}",
            (
                "CUDA works in WSL2 through the Windows driver; the driver tells no memory per process, "
                "and paged optimizers are slow"
                if level == 2
                else "WSL1 has no GPU access"
            ),
            None if level == 2 else "wsl --set-version <distribution> 2",
        ),
    ]


RULES = (operating_system, python, wsl)
