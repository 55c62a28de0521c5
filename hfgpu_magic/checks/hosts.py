"""What kind of machine this is, from a few small files and environment variables."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path

from ..devices.na import NA, NotAvailable
from . import tables
from .facts import System


def system(env: Mapping[str, str]) -> System:
    names = {"linux": "Linux", "win32": "Windows", "darwin": "Darwin"}
    uname = os.uname() if hasattr(os, "uname") else None
    kernel = read("/proc/version")
    wsl = (2 if "WSL2" in kernel or "microsoft-standard" in kernel else 1) if "icrosoft" in kernel else 0
    machine = uname.machine if uname else env.get("PROCESSOR_ARCHITECTURE", "")
    return System(
        os=names.get(sys.platform, sys.platform),
        release=uname.release if uname else "",
        machine={"AMD64": "x86_64", "arm64": "aarch64"}.get(machine, machine),
        distribution=_distribution(),
        wsl=wsl,
        container=_container(env),
        hosted=_hosted(env),
        notebook="ipykernel" in sys.modules,
        python=sys.version_info[:3],
        c_compiler=_compiler(env),
        python_headers=_headers(),
        nvidia_pci=_nvidia_pci(),
        shared_memory=_shared_memory(),
    )


def _distribution() -> str:
    found = re.search(r'^PRETTY_NAME="?([^"\n]*)', read("/etc/os-release"), re.MULTILINE)
    return found[1] if found else ""


def _container(env: Mapping[str, str]) -> str:
    if env.get("KUBERNETES_SERVICE_HOST"):
        return "kubernetes"
    if Path("/.dockerenv").exists():
        return "docker"
    if Path("/run/.containerenv").exists():
        return "podman"
    control = read("/proc/1/cgroup")
    for word in ("docker", "containerd", "lxc", "kubepods"):
        if word in control:
            return word
    return ""


def _hosted(env: Mapping[str, str]) -> str:
    for row in tables.hosted():
        if row["variable"] in env:
            return str(row["name"])
    return ""


def _compiler(env: Mapping[str, str]) -> str:
    """The compiler triton picks: $CC, else clang or gcc on the PATH (triton/runtime/build.py)."""
    wanted = [env["CC"]] if env.get("CC") else ["clang", "gcc", "cc"]
    for name in wanted:
        if Path(name).is_absolute():
            return name if os.access(name, os.X_OK) else ""
        for folder in env.get("PATH", "").split(os.pathsep):
            # Plain strings: a PATH of twenty folders is walked three times.
            candidate = f"{folder}{os.sep}{name}"
            if folder and os.access(candidate, os.X_OK):
                return candidate
    return ""


def _headers() -> bool:
    include = Path(sys.base_prefix) / "include"
    if sys.platform != "win32":
        include /= f"python{sys.version_info[0]}.{sys.version_info[1]}{getattr(sys, 'abiflags', '')}"
    return (include / "Python.h").exists()


def _nvidia_pci() -> int:
    """Display controllers (class 03) of vendor 10de: shows a card whose driver is missing."""
    try:
        functions = list(Path("/sys/bus/pci/devices").iterdir())
    except OSError:
        return 0
    return sum(
        1
        for function in functions
        if read(function / "vendor").strip() == "0x10de" and read(function / "class").startswith("0x03")
    )


def _shared_memory() -> int | NotAvailable:
    try:
        stat = os.statvfs("/dev/shm")  # noqa: S108 - asked for its size, not written to
    except (OSError, AttributeError):
        return NA
    return stat.f_frsize * stat.f_blocks


def read(path: str | Path) -> str:
    """The text of a file, "" where it cannot be read."""
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
