"""Which distribution stands behind `import pynvml`.

`nvidia-ml-py` is NVIDIA's own.  `nvidia-ml-py3` and old `pynvml` (before 12) install a module of the same
name and win or lose by the order of installation; `pynvml` from 12 on only depends on `nvidia-ml-py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import ModuleType
from typing import TYPE_CHECKING

from .na import NA

if TYPE_CHECKING:
    from .snapshot import Text

# Calls this package cannot do without; a binding that lacks one was written before MIG (2020).
_REQUIRED = ("nvmlDeviceGetMigMode", "nvmlDeviceGetCudaComputeCapability", "nvmlSystemGetCudaDriverVersion")
# The first `pynvml` release that carries no module of its own (12.0.0, December 2024).
_FIRST_THIN_PYNVML = 12


def installed_version(distribution: str) -> Text:
    """Version of an installed distribution by its metadata, without importing it."""
    # Imported here: `importlib.metadata` costs more than all of NVML does.
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(distribution) or NA
    except PackageNotFoundError:
        return NA


def nvml_package_version() -> Text:
    """Version of the installed `nvidia-ml-py`."""
    return installed_version("nvidia-ml-py")


def clashing_packages(
    module: ModuleType, installed: Callable[[str], Text] = installed_version
) -> Iterator[str]:
    """One sentence, with the command that repairs it, for what shadows or may shadow `nvidia-ml-py`."""
    clashing = []
    if version := installed("nvidia-ml-py3"):
        clashing.append(f"nvidia-ml-py3 {version}")
    if (version := installed("pynvml")) and int(str(version).split(".")[0]) < _FIRST_THIN_PYNVML:
        clashing.append(f"pynvml {version}")
    missing = [name for name in _REQUIRED if not hasattr(module, name)]
    repair = "pip uninstall -y pynvml nvidia-ml-py3 && pip install --force-reinstall nvidia-ml-py"
    if missing:
        culprit = " and ".join(clashing) or f"the file {module.__file__}"
        yield f"`import pynvml` gives an outdated module without {missing[0]}, from {culprit}: {repair}"
    elif clashing:
        yield f"{' and '.join(clashing)} installs the same module as nvidia-ml-py and may shadow it: {repair}"
