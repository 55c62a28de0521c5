"""The few facts about the host that reading devices depends on."""

from __future__ import annotations

import os
import platform as _platform
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from .na import NA

if TYPE_CHECKING:
    from .snapshot import Number, Text

_KERNEL_MODULE = re.compile(r"Kernel Module.*?\s(\d+(?:\.\d+)+)\s")


def is_wsl(environ: Mapping[str, str] = os.environ, *, release: str | None = None) -> bool:
    """True under the Windows Subsystem for Linux, where WDDM hides what each process holds.

    The kernel's release ends in "-microsoft-standard-WSL2" (WSL 1: "-Microsoft"); the variables are
    what WSL sets for every shell, and survive into containers whose kernel name was masked.
    """
    kernel = _platform.release() if release is None else release
    return "microsoft" in kernel.lower() or "WSL_DISTRO_NAME" in environ or "WSL_INTEROP" in environ


def host_memory() -> Number:
    """Bytes of physical memory of this machine, for devices that share it."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return NA


def kernel_module_version(path: Path = Path("/proc/driver/nvidia/version")) -> Text:
    """Version of the NVIDIA kernel module that is loaded now, "570.133.07"."""
    try:
        found = _KERNEL_MODULE.search(path.read_text(errors="replace"))
    except OSError:
        return NA
    return found.group(1) if found else NA
