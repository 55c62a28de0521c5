"""Environment variables that change what torch and transformers do."""

from __future__ import annotations

import re

from ..facts import Facts
from ..rule import Check, Status, Topic
from ..versions import satisfies

_TRUE = {"1", "ON", "YES", "TRUE"}


def allocator(facts: Facts) -> list[Check]:
    old, new = facts.environ.get("PYTORCH_CUDA_ALLOC_CONF"), facts.environ.get("PYTORCH_ALLOC_CONF")
    source = "torch docs, CUDA semantics: memory management; pytorch issue 183387"
    title = "Allocator settings"
    if not old and not new:
        return []
    shown = ", ".join(
        f"{n}={v}" for n, v in (("PYTORCH_ALLOC_CONF", new), ("PYTORCH_CUDA_ALLOC_CONF", old)) if v
    )
    required = "option:value pairs PyTorch knows, in one variable"

    def warn(found: str, why: str, fix: str, *, fail: bool = False) -> list[Check]:
        return [
            Topic("settings.allocator", title, required, source).verdict(
                "fail" if fail else "warn", found, why, fix
            )
        ]

    if facts.allocator_problem:
        return warn(
            f"{shown}: {facts.allocator_problem}",
            "torch raises at the first CUDA call",
            "unset PYTORCH_ALLOC_CONF PYTORCH_CUDA_ALLOC_CONF",
            fail=True,
        )
    if old and new and old != new:
        return warn(
            shown,
            "two variables, two answers; which one wins depends on the torch release",
            "unset PYTORCH_CUDA_ALLOC_CONF",
        )
    release = facts.torch.version if facts.torch else ""
    if new and not old and release and not satisfies(release, ">=2.9"):
        return warn(
            shown, f"torch {release} does not read the new name", f"export PYTORCH_CUDA_ALLOC_CONF={new}"
        )
    if new and not old and release and satisfies(release, "==2.9.*"):
        return warn(
            shown, "torch 2.9.1 was seen to ignore the new name", f"export PYTORCH_CUDA_ALLOC_CONF={new}"
        )
    if "expandable_segments:True" in (new or old or "") and facts.system.os == "Windows":
        return warn(
            shown,
            "expandable segments do not exist on Windows; torch says so once and goes on without",
            "unset PYTORCH_ALLOC_CONF PYTORCH_CUDA_ALLOC_CONF",
        )
    return [
        Topic("settings.allocator", title, required, source).ok(
            shown, "read once, at the first CUDA call of a process"
        )
    ]


def cublas(facts: Facts) -> list[Check]:
    value = facts.environ.get("CUBLAS_WORKSPACE_CONFIG")
    if value is None:
        return []
    source = "cuBLAS documentation, CUBLAS_WORKSPACE_CONFIG"
    pairs = re.findall(r":(\d+):(\d+)", value)
    whole = "".join(f":{a}:{b}" for a, b in pairs) == value and pairs
    if not whole:
        return [
            Topic("settings.cublas", "cuBLAS workspace", ":SIZE:COUNT, e.g. :4096:8", source).warn(
                f"CUBLAS_WORKSPACE_CONFIG={value!r}",
                "cuBLAS ignores it; torch.use_deterministic_algorithms(True) then raises",
                "export CUBLAS_WORKSPACE_CONFIG=:4096:8",
            )
        ]
    kib = sum(int(a) * int(b) for a, b in pairs)
    return [
        Topic("settings.cublas", "cuBLAS workspace", ":SIZE:COUNT in KiB", source).ok(
            f"{value}: {kib / 1024:g} MiB a handle and stream",
            "cuBLAS takes it from torch's memory at the first matrix product",
        )
    ]


def offline(facts: Facts) -> list[Check]:
    names = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE")
    on = [n for n in names if facts.environ.get(n, "").upper() in _TRUE]
    if not on:
        return []
    return [
        Topic(
            "settings.offline",
            "Hub access",
            "unset, to download",
            "huggingface_hub 2.4 constants.py; datasets config.py",
        ).warn(
            f"{', '.join(on)} set",
            "models and data sets come from the local cache only",
            f"unset {' '.join(on)}",
        )
    ]


def blocking(facts: Facts) -> list[Check]:
    slow = {
        "CUDA_LAUNCH_BLOCKING": "every kernel waits for the one before: for debugging only",
        "PYTORCH_NO_CUDA_MEMORY_CACHING": "every tensor asks the driver for memory: for debugging only",
    }
    return [
        Topic(f"settings.{name.lower()}", name, "unset", "torch docs, CUDA environment variables").warn(
            f"{name}={facts.environ[name]}", why, f"unset {name}"
        )
        for name, why in slow.items()
        if facts.environ.get(name, "0") not in ("0", "")
    ]


def bitsandbytes(facts: Facts) -> list[Check]:
    value = facts.environ.get("BNB_CUDA_VERSION")
    if value is None or "bitsandbytes" not in facts.versions:
        return []
    fine = value.isdigit()
    return [
        Topic(
            "settings.bitsandbytes",
            "BNB_CUDA_VERSION",
            "digits only, e.g. 130",
            "bitsandbytes 0.50 cextension.py",
        ).verdict(
            "pass" if fine else "warn",
            value or "empty",
            "it overrides which CUDA library bitsandbytes loads",
            None if fine else "unset BNB_CUDA_VERSION",
        )
    ]


def mixed_precision(facts: Facts) -> list[Check]:
    value = facts.environ.get("ACCELERATE_MIXED_PRECISION")
    if not value:
        return []
    from .precision import generation

    rows = [row for capability in facts.capabilities if (row := generation(capability))]
    needed = {"bf16": "bf16", "fp8": "fp8", "fp16": "fp16"}.get(value)
    known = value in ("no", "fp16", "bf16", "fp8")
    weak = [row["name"] for row in rows if needed and row[needed] != "yes"]
    status: Status = "warn" if not known or weak else "pass"
    why = "TrainingArguments takes its mixed precision from it"
    if weak:
        why += f"; {', '.join(weak)} has no fast {value}" + (
            " and accelerate falls back to fp16" if value == "fp8" else ""
        )
    return [
        Topic(
            "settings.mixed_precision",
            "ACCELERATE_MIXED_PRECISION",
            "no, fp16, bf16 or fp8, as the card can",
            "accelerate 1.15 accelerator.py; transformers 5.23 training_args.py",
        ).verdict(status, value, why, None if status == "pass" else "export ACCELERATE_MIXED_PRECISION=fp16")
    ]


RULES = (allocator, cublas, offline, blocking, bitsandbytes, mixed_precision)
