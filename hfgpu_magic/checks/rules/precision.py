"""The truth about number formats on each card, whatever `is_bf16_supported()` says."""

from __future__ import annotations

from typing import Any

from ...devices.na import NotAvailable
from ...devices.snapshot import DeviceSnapshot
from ..facts import Facts
from ..rule import Check, Status, Topic
from ..tables import table
from ..versions import satisfies
from .devices import name

_FORMATS = {
    "fp16": ("fp16", "7.0 (tensor cores)"),
    "bf16": ("bf16", "8.0"),
    "fp8": ("FP8", "8.9"),
    "fp4": ("FP4", "10.0"),
}


def generation(capability: tuple[int, int]) -> dict[str, Any] | None:
    """The row of precision.toml for a capability; None for one the table does not know."""
    for row in table("precision")["generation"]:
        if tuple(row["from"]) <= capability < tuple(row["below"]):
            return dict(row)
    return None


def _groups(facts: Facts) -> list[tuple[dict[str, Any], list[DeviceSnapshot]]]:
    found: dict[str, tuple[dict[str, Any], list[DeviceSnapshot]]] = {}
    for device in facts.cuda:
        if isinstance(device.capability, NotAvailable):
            continue
        row = generation(device.capability)
        if row:
            found.setdefault(row["name"], (row, []))[1].append(device)
    return list(found.values())


_WORDS = {
    ("fp16", "yes"): "fast",
    ("fp16", "slow"): "slower than fp32",
    ("bf16", "yes"): "native",
    ("bf16", "emulated"): "emulated: slow, although torch.cuda.is_bf16_supported() says True",
}


def _said(key: str, value: str) -> str:
    return _WORDS.get((key, value), "in hardware" if value == "yes" else "not in hardware")


def _by_value(key: str, groups: list[tuple[dict[str, Any], list[DeviceSnapshot]]]) -> str:
    """'Tesla T4, Tesla V100: emulated…; NVIDIA A100: native'."""
    named: dict[str, list[str]] = {}
    for row, devices in groups:
        named.setdefault(_said(key, row[key]), []).extend(dict.fromkeys(name(d) for d in devices))
    return "; ".join(f"{', '.join(names)}: {said}" for said, names in named.items())


def formats(facts: Facts) -> list[Check]:
    groups = _groups(facts)
    if not groups:
        return []
    checks = []
    for key, (title, floor) in _FORMATS.items():
        values = {row[key] for row, _ in groups}
        found = _by_value(key, groups)
        status: Status = "pass"
        why, fix = _reason(key), None
        if key in ("fp8", "fp4"):
            status = "pass" if values == {"yes"} else "skip"
        elif values != {"yes"}:
            status = "warn"
            fix = min((row for row, _ in groups if row[key] != "yes"), key=lambda row: row["from"])["advice"]
        sources = "; ".join(dict.fromkeys(row["source"] for row, _ in groups))
        checks.append(
            Topic(f"precision.{key}", title, f"capability {floor}", sources).verdict(status, found, why, fix)
        )
    return checks


def _reason(key: str) -> str:
    return {
        "fp16": "half the memory of fp32; to train it needs fp32 weights and gradient scaling (fp16=True)",
        "bf16": "fp32's range in half the memory; Trainer and accelerate let it pass where it is emulated",
        "fp8": "half of 16-bit weights for inference; elsewhere transformers dequantizes them to bf16",
        "fp4": "NVFP4 and MXFP4 arithmetic; elsewhere 4-bit weights are stored in 4 bits and computed in 16",
    }[key]


def advice(facts: Facts) -> list[Check]:
    groups = _groups(facts)
    if not groups:
        return []
    rows = sorted((row for row, _ in groups), key=lambda row: row["from"])
    return [
        Topic(
            "precision.advice",
            "Precision to train with",
            "a format every visible card computes fast",
            rows[0]["source"],
        ).ok(f"{rows[0]['name']}: {rows[0]['advice']}", "the weakest visible card decides")
    ]


def tf32(facts: Facts) -> list[Check]:
    groups = _groups(facts)
    if not groups:
        return []
    source = "torch 2.13 backends (run); transformers 5.23 is_torch_tf32_available"
    title = "TF32"
    if not any(row["tf32"] == "yes" for row, _ in groups):
        return [
            Topic("precision.tf32", title, "capability 8.0", source).skip(
                "not on this card", "Trainer(tf32=True) raises 'requires Ampere or a newer GPU arch' here"
            )
        ]
    state = facts.torch_state
    if facts.environ.get("NVIDIA_TF32_OVERRIDE") == "0":
        found = "switched off everywhere by NVIDIA_TF32_OVERRIDE=0"
    elif state and state.matmul_fp32:
        words = {"tf32": "on", "ieee": "off", "none": "off"}
        found = (
            f"matrix products {words.get(state.matmul_fp32, state.matmul_fp32)}, "
            f"convolutions {words.get(state.conv_fp32, state.conv_fp32 or 'unknown')}"
        )
    else:
        found = "torch's default: matrix products off, convolutions on"
    new_api = facts.torch is not None and satisfies(facts.torch.version, ">=2.9")
    on = 'torch.backends.fp32_precision = "tf32"' if new_api else 'torch.set_float32_matmul_precision("high")'
    if state and state.mixed_apis:
        return [
            Topic("precision.tf32", title, "one interface", source).warn(
                found + "; set through both of torch's interfaces",
                (
                    "reading the old one (allow_tf32, get_float32_matmul_precision) now raises RuntimeError, "
                    "in libraries too"
                ),
                "use torch.backends.fp32_precision only, then restart the kernel",
            )
        ]
    return [
        Topic("precision.tf32", title, "capability 8.0", source).ok(
            found,
            (
                "fp32 matrix products several times faster with a 10-bit mantissa; it changes no memory. "
                f"On: {on}, or TrainingArguments(tf32=True)"
            ),
        )
    ]


def attention(facts: Facts) -> list[Check]:
    groups = _groups(facts)
    if not groups:
        return []
    slow = [row["name"] for row, _ in groups if row["flash"] != "yes"]
    return [
        Topic(
            "precision.attention",
            "Attention kernels",
            "capability 5.0; flash attention 8.0",
            "gates in torch 2.15 binaries: flash sm80-sm121, memory-efficient sm50-sm121",
        ).ok(
            (
                f"SDPA with memory-efficient kernels on {', '.join(slow)} (no flash attention)"
                if slow
                else "SDPA with flash attention kernels"
            ),
            'attn_implementation="sdpa", the default, needs no package and keeps no heads x length² matrix',
        )
    ]


RULES = (advice, formats, tf32, attention)
