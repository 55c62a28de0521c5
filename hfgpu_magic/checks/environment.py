"""Gathers the facts.  The one file of `checks` that looks at the machine.

Every look is cheap and harmless: directory listings, a few small files, environment variables.  Nothing
is imported that the process has not imported already (unless `deep`), and CUDA is never initialised.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ..devices.na import NA, NotAvailable
from ..devices.snapshot import DeviceSnapshot, DriverInfo, Inventory
from . import tables
from .facts import Facts, Profile, System, Target, TorchBuild, TorchState
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
    if deep:
        _import_torch()
    installed = Installed()
    versions = {name: v for name in tables.package_names() if (v := installed.version(name))}
    versions.update(_wheel_libraries(installed))
    target, inventory = None, None
    if gpu is not None:
        from ..devices.catalog import parse_gpus

        card, count = parse_gpus(gpu)
        target = Target(gpu, card.name, count)
        inventory = catalog_inventory(card, count)
    else:
        from ..devices.probe import inventory as probe

        inventory = probe(deep=deep, environ=env)
    torch_module = sys.modules.get("torch")
    return Facts(
        system=_system(env),
        environ={name: env[name] for name in tables.variable_names() if name in env},
        versions=versions,
        requirements={n: r for n in _STATES_REQUIREMENTS if (r := installed.requirements(n))},
        declared=_declared(installed),
        torch=_torch_build(installed, torch_module),
        torch_state=torch_state(torch_module) if torch_module is not None else None,
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


def _import_torch() -> None:
    try:
        import torch  # noqa: F401
    except Exception:
        # A broken torch is a finding, not a crash: the rules report what its metadata shows.
        return


# --- packages ---------------------------------------------------------------------------------------------


def _wheel_libraries(installed: Installed) -> dict[str, str]:
    """The CUDA libraries pip brought: `nvidia-cudnn-cu13` -> version, whatever the CUDA major is."""
    stems = ("cuda-toolkit", "nvidia-cuda-runtime", "nvidia-cudnn", "nvidia-nccl", "nvidia-cublas")
    pattern = re.compile(rf"^(?:{'|'.join(stems)})(?:-cu\d+)?$")
    return {n: v for n in installed.names() if pattern.match(n) and (v := installed.version(n))}


def _torch_build(installed: Installed, module: Any) -> TorchBuild | None:
    version = installed.version("torch")
    location = installed.location("torch")
    text = _read(os.path.join(location, "torch", "version.py")) if location else ""
    if not text and version:
        text = _read(_editable_version_file())

    def stated(name: str) -> str | None:
        found = re.search(rf"^{name}\s*(?::[^=\n]*)?=\s*['\"]([^'\"]+)['\"]", text, re.MULTILINE)
        return found[1] if found else None

    version = stated("__version__") or version
    if version is None:
        return None
    return TorchBuild(version, stated("cuda"), stated("hip"), stated("xpu"), _arch_list(module))


def _editable_version_file() -> str:
    # A source build installed in place: the finder knows where, without importing anything.
    import importlib.util

    try:
        spec = importlib.util.find_spec("torch")
    except (ImportError, ValueError):
        return ""
    return os.path.join(os.path.dirname(spec.origin), "version.py") if spec and spec.origin else ""


def _arch_list(module: Any) -> tuple[str, ...] | None:
    # torch.cuda.get_arch_list() asks the CUDA runtime first, which would poison a later fork.
    flags = getattr(getattr(module, "_C", None), "_cuda_getArchFlags", None)
    if flags is None:
        return None
    found = flags()
    return tuple(found.split()) if found else None


def _declared(installed: Installed) -> dict[str, str]:
    """Floors as the installed transformers checks them, so that an older release is judged by its own."""
    floors = {r.name: r.spec for r in installed.requirements("transformers") if r.spec and r.extra != "testing"}
    location = installed.location("transformers")
    if location is None:
        return {}
    text = _read(os.path.join(location, "transformers", "utils", "import_utils.py"))
    bounds: dict[str, dict[str, str]] = {}
    for name, edge, value in re.findall(r"^([A-Z0-9_]+)_(MIN|MAX)_VERSION = \"([^\"]+)\"", text, re.MULTILINE):
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

    return parse_visible(env.get("CUDA_VISIBLE_DEVICES"), inventory.devices).problem or ""


def _allocator_problem(env: Mapping[str, str]) -> str:
    if not env.get("PYTORCH_ALLOC_CONF") and not env.get("PYTORCH_CUDA_ALLOC_CONF"):
        return ""
    from ..virtual.settings import AllocatorSettings

    try:
        AllocatorSettings.from_environ(env)
    except (ValueError, RuntimeError) as problem:  # PyTorch's own wording
        return str(problem).splitlines()[0] if str(problem) else type(problem).__name__
    except Exception as problem:
        from ..errors import HfgpuError

        if isinstance(problem, HfgpuError):
            return str(problem)
        raise
    return ""


def _shadowing(env: Mapping[str, str]) -> tuple[str, ...]:
    """CUDA libraries in LD_LIBRARY_PATH folders: the loader takes them before torch's own."""
    found = []
    for folder in env.get("LD_LIBRARY_PATH", "").split(":"):
        try:
            names = os.listdir(folder) if folder else []
        except OSError:
            continue
        for stem in ("libcudnn.so", "libcublas.so", "libcudart.so", "libnccl.so"):
            if any(name.startswith(stem) for name in names):
                found.append(os.path.join(folder, stem))
    return tuple(found)


# --- the host ---------------------------------------------------------------------------------------------


def _system(env: Mapping[str, str]) -> System:
    names = {"linux": "Linux", "win32": "Windows", "darwin": "Darwin"}
    uname = os.uname() if hasattr(os, "uname") else None
    kernel = _read("/proc/version")
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
    found = re.search(r'^PRETTY_NAME="?([^"\n]*)', _read("/etc/os-release"), re.MULTILINE)
    return found[1] if found else ""


def _container(env: Mapping[str, str]) -> str:
    if env.get("KUBERNETES_SERVICE_HOST"):
        return "kubernetes"
    if os.path.exists("/.dockerenv"):
        return "docker"
    if os.path.exists("/run/.containerenv"):
        return "podman"
    control = _read("/proc/1/cgroup")
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
        if os.path.isabs(name):
            return name if os.access(name, os.X_OK) else ""
        for folder in env.get("PATH", "").split(os.pathsep):
            candidate = os.path.join(folder, name)
            if folder and os.access(candidate, os.X_OK):
                return candidate
    return ""


def _headers() -> bool:
    if sys.platform == "win32":
        return os.path.exists(os.path.join(sys.base_prefix, "include", "Python.h"))
    folder = f"python{sys.version_info[0]}.{sys.version_info[1]}{getattr(sys, 'abiflags', '')}"
    return os.path.exists(os.path.join(sys.base_prefix, "include", folder, "Python.h"))


def _nvidia_pci() -> int:
    """Display controllers (class 03) of vendor 10de: shows a card whose driver is missing."""
    root = "/sys/bus/pci/devices"
    try:
        entries = os.listdir(root)
    except OSError:
        return 0
    return sum(
        1
        for entry in entries
        if _read(f"{root}/{entry}/vendor").strip() == "0x10de"
        and _read(f"{root}/{entry}/class").startswith("0x03")
    )


def _shared_memory() -> int | NotAvailable:
    try:
        stat = os.statvfs("/dev/shm")
    except (OSError, AttributeError):
        return NA
    return stat.f_frsize * stat.f_blocks


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:
        return ""
