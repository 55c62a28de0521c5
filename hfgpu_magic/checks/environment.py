"""Gathers the facts.  The one file of `checks` that looks at the machine.

Every look is cheap and harmless: directory listings, a few small files, environment variables.  Nothing
is imported that the process has not imported already (unless `deep`), and CUDA is never initialised.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..devices.snapshot import DeviceSnapshot, DriverInfo, Inventory
from . import tables
from .facts import Facts, Profile, Target, TorchBuild, TorchState
from .hosts import read, system
from .versions import Installed

if TYPE_CHECKING:
    from ..devices.catalog import GPU

#: Packages whose stated requirements are compared with what is installed.
_STATES_REQUIREMENTS = (
    "transformers", "accelerate", "peft", "trl", "bitsandbytes", "torchao", "torchvision", "torchaudio",
    "optimum", "gptqmodel", "deepspeed", "sentence-transformers", "diffusers", "huggingface-hub",
)  # fmt: skip


def collect(
    *,
    gpu: str | None = None,
    profile: Profile = "general",
    deep: bool = False,
    environ: Mapping[str, str] | None = None,
) -> Facts:
    """The facts of this machine; with `gpu`, of this environment as if it had that card."""
    env = os.environ if environ is None else environ
    installed = Installed()
    versions = {name: v for name in tables.package_names() if (v := installed.version(name))}
    versions.update(_wheel_libraries(installed))
    target = None
    if gpu is not None:
        from ..devices.catalog import parse_gpus

        card, count = parse_gpus(gpu)
        target = Target(gpu, card.name, count)
        inventory = catalog_inventory(card, count)
        if deep:
            # A broken torch is a finding, not a crash: the rules report what its metadata shows.
            with contextlib.suppress(Exception):
                importlib.import_module("torch")
    else:
        from ..devices.probe import inventory as probe

        inventory = probe(deep=deep, environ=env)
    torch = sys.modules.get("torch")
    if not hasattr(torch, "version"):
        torch = None  # its import failed, or is still under way in another thread
    return Facts(
        system=system(env),
        environ={name: env[name] for name in tables.variable_names() if name in env},
        versions=versions,
        requirements={n: r for n in _STATES_REQUIREMENTS if (r := installed.requirements(n))},
        declared=_declared(installed),
        torch=_torch_build(installed, torch),
        torch_state=torch_state(torch) if torch is not None else None,
        inventory=inventory,
        visible_problem=_visible_problem(env, inventory) if target is None else "",
        allocator_problem=_allocator_problem(env),
        shadowing=_shadowing(env),
        target=target,
        profile=profile,
    )


def catalog_inventory(card: GPU, count: int = 1) -> Inventory:
    """What NVML would list on a machine with `count` of these cards and a driver new enough."""
    backend: Any = "cuda" if card.vendor.upper() == "NVIDIA" else "virtual"
    devices = tuple(
        DeviceSnapshot(
            uuid=f"{card.name}:{n}", index=n, cuda_index=n, backend=backend, name=card.driver_name,
            capability=card.capability, total=card.memory_total, sm_count=card.sm_count,
        )
        for n in range(count)
    )  # fmt: skip
    return Inventory(DriverInfo("ok", message="judged from the catalog"), devices)


# --- packages ---------------------------------------------------------------------------------------------


def _wheel_libraries(installed: Installed) -> dict[str, str]:
    """The CUDA libraries pip brought: `nvidia-cudnn-cu13` -> version, whatever the CUDA major is."""
    stems = ("cuda-toolkit", "nvidia-cuda-runtime", "nvidia-cudnn", "nvidia-nccl", "nvidia-cublas")
    pattern = re.compile(rf"^(?:{'|'.join(stems)})(?:-cu\d+)?$")
    return {n: v for n in installed.names() if pattern.match(n) and (v := installed.version(n))}


def _torch_build(installed: Installed, module: Any) -> TorchBuild | None:
    version = installed.version("torch")
    location = installed.location("torch")
    text = read(location / "torch" / "version.py") if location else ""
    if not text and version:
        text = read(_editable_version_file())

    def stated(name: str) -> str | None:
        found = re.search(rf"^{name}\s*(?::[^=\n]*)?=\s*['\"]([^'\"]+)['\"]", text, re.MULTILINE)
        return found[1] if found else None

    version = stated("__version__") or version
    if version is None:
        return None
    return TorchBuild(version, stated("cuda"), stated("hip"), stated("xpu"), _arch_list(module))


def _editable_version_file() -> str:
    # A source build installed in place: the finder knows where, without importing anything.
    from importlib.util import find_spec

    try:
        spec = find_spec("torch")
    except (ImportError, ValueError):
        return ""
    return str(Path(spec.origin).with_name("version.py")) if spec and spec.origin else ""


def _arch_list(module: Any) -> tuple[str, ...] | None:
    # torch.cuda.get_arch_list() asks the CUDA runtime first, which would poison a later fork.
    flags = getattr(getattr(module, "_C", None), "_cuda_getArchFlags", None)
    if flags is None:
        return None
    found = flags()
    return tuple(found.split()) if found else None


def _declared(installed: Installed) -> dict[str, str]:
    """Floors as the installed transformers checks them, so that an older release is judged by its own."""
    floors = {
        r.name: r.spec for r in installed.requirements("transformers") if r.spec and r.extra != "testing"
    }
    location = installed.location("transformers")
    if location is None:
        return {}
    text = read(location / "transformers" / "utils" / "import_utils.py")
    bounds: dict[str, dict[str, str]] = {}
    for name, edge, value in re.findall(
        r"^([A-Z0-9_]+)_(MIN|MAX)_VERSION = \"([^\"]+)\"", text, re.MULTILINE
    ):
        bounds.setdefault(name, {})[edge] = value
    for constant, dist in tables.constants().items():
        edges = bounds.get(constant)
        if edges:
            clauses = [f">={edges['MIN']}"] if "MIN" in edges else []
            clauses += [f"<{edges['MAX']}"] if "MAX" in edges else []
            floors[dist] = ",".join(clauses)
    return floors


# --- torch, when the process has it -----------------------------------------------------------------------


def torch_state(torch: Any) -> TorchState | None:
    """Reads precision settings through whichever API the program used; initialises nothing.

    Since torch 2.9 there are two APIs, and once the new one was used, reading the old one raises.  So the
    new one is read first, and an old read that raises only means "mixed".
    """
    backends = getattr(torch, "backends", None)
    if backends is None:
        return None
    mixed = False
    matmul = _precision(getattr(getattr(backends, "cuda", None), "matmul", None))
    conv = _precision(getattr(getattr(backends, "cudnn", None), "conv", None))
    if matmul in ("", "none"):
        everywhere = _precision(backends)
        if everywhere == "tf32":
            matmul = everywhere
    try:
        legacy_matmul = bool(backends.cuda.matmul.allow_tf32)
        legacy_conv = bool(backends.cudnn.allow_tf32)
        matmul = matmul or ("tf32" if legacy_matmul else "ieee")
        conv = conv or ("tf32" if legacy_conv else "ieee")
    except RuntimeError:
        mixed = True
    except AttributeError:
        pass
    initialized = getattr(getattr(torch, "cuda", None), "is_initialized", None)
    default = getattr(torch, "get_default_device", None)
    return TorchState(
        matmul_fp32=matmul,
        conv_fp32=conv,
        mixed_apis=mixed,
        cuda_initialized=bool(initialized()) if initialized else False,
        default_device=str(default()) if default else "cpu",
    )


def _precision(owner: Any) -> str:
    try:
        return str(getattr(owner, "fp32_precision", "") or "")
    except RuntimeError:
        return ""


# --- environment variables --------------------------------------------------------------------------------


def _visible_problem(env: Mapping[str, str], inventory: Inventory) -> str:
    from ..devices.visible import parse_visible

    return (
        parse_visible(
            env.get("CUDA_VISIBLE_DEVICES"), inventory.devices, order=env.get("CUDA_DEVICE_ORDER")
        ).problem
        or ""
    )


def _allocator_problem(env: Mapping[str, str]) -> str:
    if not env.get("PYTORCH_ALLOC_CONF") and not env.get("PYTORCH_CUDA_ALLOC_CONF"):
        return ""
    from ..virtual.settings import AllocatorSettings, AllocatorSettingsError

    try:
        AllocatorSettings.from_environ(env)
    except AllocatorSettingsError as problem:  # in PyTorch's own words
        return str(problem)
    return ""


def _shadowing(env: Mapping[str, str]) -> tuple[str, ...]:
    """CUDA libraries in LD_LIBRARY_PATH folders: the loader takes them before torch's own."""
    found: list[str] = []
    for folder in env.get("LD_LIBRARY_PATH", "").split(":"):
        try:
            names = [entry.name for entry in Path(folder).iterdir()] if folder else []
        except OSError:
            continue
        found += [
            f"{folder.rstrip('/')}/{stem}"
            for stem in ("libcudnn.so", "libcublas.so", "libcudart.so", "libnccl.so")
            if any(name.startswith(stem) for name in names)
        ]
    return tuple(found)
