"""Python packages: floors, pairs, stated requirements, clashes."""

from __future__ import annotations

from typing import Any

from ..facts import Facts
from ..rule import Check, Status, Topic
from ..tables import table
from ..versions import first_unmet, release_of, satisfies


def _command(name: str, spec: str) -> str:
    # Quoted: an unquoted >= is a redirection for the shell.
    return f'pip install -U "{name}{spec}"' if spec else f"pip install -U {name}"


def _torch_command(facts: Facts, spec: str) -> str:
    return f'pip install -U "torch{spec}"' + (
        "" if "transformers" in facts.versions else " transformers accelerate"
    )


def floors(facts: Facts) -> list[Check]:
    checks = []
    for row in table("requirements")["package"]:
        name: str = row["name"]
        # An older transformers is judged by its own floors, not by today's.
        spec = facts.declared.get(name) or row["spec"]
        version = facts.torch.version if name == "torch" and facts.torch else facts.version(name)
        absent: dict[str, Status] = row.get("absent", {})
        required = spec or "any version"
        if version is None:
            status = absent.get(facts.profile) or absent.get("any")
            if status is None:
                continue
            fix = _torch_command(facts, spec) if name == "torch" else _command(name, spec)
            checks.append(_check(row, status, "not installed", required, fix))
        elif satisfies(version, spec):
            checks.append(_check(row, "pass", version, required, None))
        else:
            checks.append(_check(row, row.get("below", "fail"), version, required, _command(name, spec)))
    return checks


def _check(row: dict[str, Any], status: Status, found: str, required: str, fix: str | None) -> Check:
    return Topic(f"package.{row['name']}", row["name"], required, row["source"]).verdict(
        status, found, row["why"], fix
    )


def companions(facts: Facts) -> list[Check]:
    """Requirements that only another package or device brings; silent while they are met."""
    checks = []
    for row in table("requirements")["companion"]:
        other: str = row["with"]
        kind, _, backend = other.partition(":")
        here = backend in facts.backends if kind == "backend" else other in facts.versions
        version = facts.version(row["name"])
        if not here or (version is None and row["name"] not in ("accelerate", "gptqmodel", "torch")):
            continue
        if version is None or not satisfies(version, row["spec"]):
            label = backend.upper() if backend else other
            checks.append(
                Topic(
                    f"package.{row['name']}.for-{backend or other}",
                    f"{row['name']} for {label}",
                    row["spec"],
                    row["source"],
                ).verdict(
                    "fail" if facts.profile != "general" and version else "warn",
                    version or "not installed",
                    row["why"],
                    _command(row["name"], row["spec"]),
                )
            )
    return checks


def consistency(facts: Facts) -> list[Check]:
    """What the installed packages state about each other (torchvision pins its torch, for one)."""
    if not facts.requirements:
        return []
    installed = dict(facts.versions)
    if facts.torch:
        installed["torch"] = facts.torch.version
    floors_of = {row["name"] for row in table("requirements")["package"]}
    broken = [
        (owner, need)
        for owner, need in first_unmet(installed, facts.requirements)
        # transformers' own floors have checks of their own
        if not (owner == "transformers" and need.name in floors_of)
    ]
    title = "Packages agree"
    source = "Requires-Dist of the installed packages"
    if not broken:
        return [
            Topic("package.consistency", title, "what the installed packages state", source).ok(
                f"{len(facts.requirements)} packages state what they need; all of it holds",
                "mixed versions fail on import or later",
            )
        ]
    said = "; ".join(
        f"{o} {installed.get(o, '')} needs {n.name}{n.spec}, found {installed[n.name]}" for o, n in broken
    )
    owners = " ".join(dict.fromkeys(o for o, _ in broken))
    needs = " ".join(dict.fromkeys(f'"{n.name}{n.spec}"' for _, n in broken if n.name != "torch"))
    fix = f"pip install -U {owners} {needs}".strip()
    if any(n.name == "torch" for _, n in broken) and facts.torch and facts.torch.tag.startswith("cu"):
        fix += f" --extra-index-url {table('wheels')['index']}/{facts.torch.tag}"
    return [
        Topic("package.consistency", title, "what the installed packages state", source).fail(
            said, "they will fail on import or later", fix
        )
    ]


def kernels_hub(facts: Facts) -> list[Check]:
    """Presence is not enough: transformers takes a narrow window of `kernels` versions."""
    version = facts.version("kernels")
    if version is None:
        return []
    spec = facts.declared.get("kernels") or ">=0.18.2,<0.19"
    fine = satisfies(version, spec)
    return [
        Topic(
            "package.kernels", "kernels", spec, "transformers 5.23 utils/import_utils.py is_kernels_available"
        ).verdict(
            "pass" if fine else "warn",
            version,
            (
                "it brings the kernels of EETQ, MXFP4, NVFP4, FP8, Metal and packed GGUF"
                if fine
                else "transformers treats this version as not installed: EETQ, MXFP4, NVFP4, FP8, Metal and "
                "packed GGUF stay unavailable or dequantize to 16 bit (newest on PyPI on 2026-11-22: 0.17.2)"
            ),
            None if fine else _command("kernels", spec),
        )
    ]


def flash_attention(facts: Facts) -> list[Check]:
    checks = []
    source = (
        "transformers 5.23 utils/import_utils.py is_flash_attn_2_available; modeling_flash_attention_utils.py"
    )
    version = facts.version("flash-attn")
    lowest = min(facts.capabilities, default=None)
    rows = (("flash-attn", ">=2.3.3", (8, 0)), ("flash-attn-3", "", (8, 0)), ("flash-attn-4", "", (9, 0)))
    for name, spec, floor in rows:
        version = facts.version(name)
        if version is None:
            continue
        required = ", ".join(x for x in (spec, f"capability {floor[0]}.{floor[1]}") if x)
        status: Status = "pass"
        why = 'attn_implementation="flash_attention_2" and its successors use it'
        fix = None
        if not satisfies(version, spec):
            status, why, fix = "warn", "transformers does not use an older one", _command(name, spec)
        elif lowest and lowest < floor:
            status = "warn"
            why = "it stops with 'FlashAttention only supports Ampere GPUs or newer' on this card"
            fix = 'attn_implementation="sdpa"'
        checks.append(Topic(f"package.{name}", name, required, source).verdict(status, version, why, fix))
    return checks


def nvml_binding(facts: Facts) -> list[Check]:
    """Three distributions ship a module called pynvml; two of them are outdated."""
    clash = []
    repair = "pip uninstall -y pynvml nvidia-ml-py3 && pip install --force-reinstall nvidia-ml-py"
    if "nvidia-ml-py3" in facts.versions:
        clash.append("nvidia-ml-py3")
    old = facts.version("pynvml")
    if old and release_of(old) < (12,):
        clash.append("pynvml")
    found = ", ".join(f"{n} {facts.version(n)}" for n in ("nvidia-ml-py", *clash) if n in facts.versions)
    source = "PyPI pages of nvidia-ml-py and pynvml; pynvml 12 only points to nvidia-ml-py"
    problem = next((p for p in facts.inventory.problems if "pynvml" in p), "")
    if not clash and problem:
        return [
            Topic("package.nvidia-ml-py", "nvidia-ml-py", "a module pynvml of its own", source).warn(
                problem, "without a working one nobody can ask the driver", repair
            )
        ]
    if not clash:
        if "nvidia-ml-py" not in facts.versions:
            return [
                Topic("package.nvidia-ml-py", "nvidia-ml-py", "installed", source).warn(
                    "not installed",
                    "without it nobody can ask the driver before CUDA starts",
                    "pip install nvidia-ml-py",
                )
            ]
        return [
            Topic("package.nvidia-ml-py", "nvidia-ml-py", "the only one of its kind", source).ok(
                found, "it tells memory, processes and temperature"
            )
        ]
    return [
        Topic("package.nvidia-ml-py", "nvidia-ml-py", "no nvidia-ml-py3, no pynvml below 12", source).warn(
            found,
            (
                "they overwrite the module pynvml of nvidia-ml-py with an old one; which wins depends on the "
                "order of installation"
            ),
            repair,
        )
    ]


RULES = (floors, companions, consistency, kernels_hub, flash_attention, nvml_binding)
