"""Does the installed torch fit the card and the driver, and which one would?"""

from __future__ import annotations

from ...devices.na import NotAvailable
from ..facts import Facts
from ..rule import Check, Topic
from ..tables import table
from ..wheels import Capability, built_for, choose, driver_floor, driver_major, has_kernels, install_command


def _capabilities(facts: Facts) -> list[Capability]:
    return sorted({d.capability for d in facts.nvidia if not isinstance(d.capability, NotAvailable)})


def _fix(facts: Facts) -> tuple[str | None, str]:
    """(command, CUDA release it brings) for the judged cards and driver."""
    limit = None if facts.target else driver_major(facts.driver, facts.system)
    release = facts.torch.release if facts.torch else ()
    wheel = choose(_capabilities(facts), system=facts.system, driver_cuda=limit, prefer=release)
    if wheel is None:
        return None, ""
    return install_command(wheel, facts.versions, release), f"{wheel.cuda[0]}.{wheel.cuda[1]}"


def build(facts: Facts) -> list[Check]:
    """A CPU or ROCm build next to an NVIDIA card is the most common reason for "no GPU"."""
    if facts.torch is None:
        return []
    torch = facts.torch
    kind = (
        f"built for CUDA {torch.cuda}"
        if torch.cuda
        else f"built for ROCm {torch.hip}"
        if torch.hip
        else "built for Intel XPU"
        if torch.xpu
        else "built for the CPU"
    )
    found = f"torch {torch.version}, {kind}"
    source = "torch/version.py of the installed torch"
    title = "torch build"
    if facts.nvidia and not torch.cuda:
        command, _ = _fix(facts)
        why = "torch.cuda.is_available() is False whatever the driver is"
        if facts.target:
            why = "on a machine with that card this build would not use it (for a virtual GPU it is enough)"
        return [
            Topic("torch.build", title, "a CUDA build, since there is an NVIDIA GPU", source).fail(
                found, why, command
            )
        ]
    if any(d.backend == "rocm" for d in facts.usable) and not torch.hip:
        rocm = next(b for b in table("backends")["backend"] if b["key"] == "rocm")
        return [
            Topic("torch.build", title, "a ROCm build, since there is an AMD GPU", source).fail(
                found, "torch.cuda.is_available() is False", rocm["install"]
            )
        ]
    return [
        Topic("torch.build", title, "a build for the device at hand", source).ok(
            found, "the build decides which devices torch can use"
        )
    ]


def driver(facts: Facts) -> list[Check]:
    if facts.torch is None or facts.torch.cuda_version is None or not facts.nvidia:
        return []
    cuda = facts.torch.cuda_version
    floor = driver_floor(cuda[0], facts.system)
    source = "docs.nvidia.com/deploy/cuda-compatibility, minor version compatibility"
    required = f">= {floor} for CUDA {cuda[0]}.x" if floor else f"one that runs CUDA {cuda[0]}.x"
    title = "Driver for this torch"
    if facts.target:
        return [
            Topic("driver.floor", title, required, source).skip(
                "not judged: the card is from the catalog",
                "the machine that has the card must have such a driver",
            )
        ]
    served = driver_major(facts.driver, facts.system)
    if served is None:
        return [
            Topic("driver.floor", title, required, source).skip(
                "the driver tells no version", "an older driver cannot run this torch", "nvidia-smi"
            )
        ]
    found = f"driver {facts.driver.version}"
    if not isinstance(facts.driver.cuda, NotAvailable):
        found += f" (runs CUDA up to {facts.driver.cuda[0]}.{facts.driver.cuda[1]})"
    if served >= cuda[0]:
        return [
            Topic("driver.floor", title, required, source).ok(
                found, "a driver runs every CUDA of its own major and of older ones"
            )
        ]
    command, instead = _fix(facts)
    why = (
        f"torch {facts.torch.version} brings CUDA {facts.torch.cuda}; it says the driver is too old and sees "
        f"no GPU. A newer driver, or a torch with CUDA {instead or f'{served}.x'}, ends that"
    )
    if not command:
        command = f"install NVIDIA driver {floor} or newer"
    return [Topic("driver.floor", title, required, source).fail(found, why, command)]


def kernels(facts: Facts) -> list[Check]:
    """The SASS rule: a card runs binaries of its own major capability and no newer minor."""
    if facts.torch is None or facts.torch.cuda_version is None or not _capabilities(facts):
        return []
    cuda = facts.torch.cuda_version
    known = built_for(facts.torch, facts.system)
    title = "GPU kernels in this torch"
    if known is None:
        return [
            Topic(
                "torch.kernels",
                title,
                "kernels for capability " + ", ".join(f"{a}.{b}" for a, b in _capabilities(facts)),
                "torch.cuda.get_arch_list()",
            ).skip(
                f"torch {facts.torch.version}: not a published build",
                "only the binary itself can tell",
                "hfgpu check --deep",
            )
        ]
    sass, ptx, source = known
    missing = [c for c in _capabilities(facts) if not has_kernels(c, sass, ptx, cuda)]
    has = "capability " + ", ".join(f"{n // 10}.{n % 10}" for n in sass)
    source = f"{source}; {table('wheels')['compatibility_source']}"
    wanted = "kernels for capability " + ", ".join(f"{a}.{b}" for a, b in missing or _capabilities(facts))
    if not missing:
        return [
            Topic("torch.kernels", title, wanted, source).ok(
                has, "a card runs kernels built for its own major capability, up to its minor"
            )
        ]
    names = sorted({str(d.name) for d in facts.nvidia if d.capability in missing})
    command, instead = _fix(facts)
    if command is None and len(_capabilities(facts)) > 1:
        why = (
            "no published torch has kernels for all these cards together; hide one with CUDA_VISIBLE_DEVICES"
        )
    elif command is None:
        why = "no published torch has kernels for this card and this driver; update the driver first"
    else:
        why = (
            f"the first operation on {', '.join(names)} would stop with 'no kernel image is available for "
            f"execution on the device'; the build for CUDA {instead} has them"
        )
    return [Topic("torch.kernels", title, wanted, source).fail(has, why, command)]


def libraries(facts: Facts) -> list[Check]:
    """The wheel brings CUDA, cuDNN and NCCL; no system toolkit is needed, and one in the way hurts."""
    if facts.torch is None or not facts.torch.cuda:
        return []
    brought = [
        f"{n} {v}"
        for n, v in sorted(facts.versions.items())
        if n.startswith(("nvidia-c", "nvidia-n")) and n not in ("nvidia-ml-py", "nvidia-ml-py3")
    ]
    found = ", ".join([f"CUDA {facts.torch.cuda}", *brought])
    source = "torch wheel METADATA; torch/backends/cudnn/__init__.py"
    required = "the libraries torch brings; no system CUDA toolkit or cuDNN"
    if facts.shadowing:
        return [
            Topic("torch.libraries", "CUDA libraries", required, source).warn(
                f"LD_LIBRARY_PATH offers {', '.join(facts.shadowing)}",
                "the loader takes them before torch's own: cuDNN version incompatibility, missing symbols",
                "unset LD_LIBRARY_PATH",
            )
        ]
    return [
        Topic("torch.libraries", "CUDA libraries", required, source).ok(
            found, "pip installs them with torch; only the driver comes from the system"
        )
    ]


RULES = (build, driver, kernels, libraries)
