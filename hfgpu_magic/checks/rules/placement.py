"""Where weights would go: device_map and Trainer, on this machine."""

from __future__ import annotations

from ..facts import Facts
from ..rule import Check, Status, Topic
from ..versions import satisfies

_TORCH_NAMES = {"rocm": "cuda", "virtual": "cuda", "xla": "xla"}


def _first(facts: Facts) -> str:
    if not facts.driven:
        return "cpu"
    backend = facts.driven[0].backend
    return _TORCH_NAMES.get(backend, backend)


def device_map(facts: Facts) -> list[Check]:
    source = "transformers 5.23 integrations/accelerate.py"
    title = "device_map"
    device = _first(facts)
    count = len(facts.driven)
    accelerate = "accelerate" in facts.versions
    local = facts.environ.get("LOCAL_RANK")
    none = "None: weights load on the CPU, you move the model" if device != "cpu" else "None: CPU"
    if not accelerate:
        return [
            Topic("placement.device_map", title, "accelerate", source).warn(
                f"{none}; anything else raises ValueError",
                "device_map is carried out by accelerate",
                "pip install accelerate",
            )
        ]
    if device == "cpu":
        auto, cuda = '"auto": CPU, then disk', '"cuda": fails, torch sees no GPU'
    elif count == 1:
        auto, cuda = (
            f'"auto": {device}:0, what does not fit on the CPU, then disk',
            f'"{device}": {device}:{local or 0}',
        )
    else:
        spread = f"layers spread over {device}:0-{device}:{count - 1} (one works at a time)"
        auto = f'"auto": {spread}, then CPU, then disk'
        cuda = f'"{device}": {device}:{local or 0} only'
    status: Status = (
        "warn" if "WORLD_SIZE" in facts.environ and facts.environ["WORLD_SIZE"] not in ("", "1") else "pass"
    )
    why = "for training on one card use device_map={'': 0}; \"auto\" is for inference"
    fix = None
    if status == "warn":
        why = (
            "under a launcher, training a model loaded with device_map='auto' raises ValueError in accelerate"
        )
        fix = "device_map=None (Trainer places the model), or {'': int(os.environ['LOCAL_RANK'])}"
    return [
        Topic("placement.device_map", title, "accelerate", source).verdict(
            status, f"{none}; {auto}; {cuda}", why, fix
        )
    ]


def trainer(facts: Facts) -> list[Check]:
    source = "transformers 5.23 trainer.py, training_args.py"
    title = "Trainer"
    floor = facts.declared.get("accelerate") or ">=1.1.0"
    accelerate = facts.version("accelerate")
    if accelerate is None or not satisfies(accelerate, floor):
        return []  # package.accelerate says it
    device, count = _first(facts), len(facts.driven)
    world = facts.environ.get("WORLD_SIZE", "")
    if device == "cpu":
        found = "trains on the CPU (TrainingArguments with bf16=True or fp16=True is refused or slow there)"
    elif world not in ("", "1"):
        found = f"one process a GPU ({world} processes): DistributedDataParallel"
    elif count > 1 and device == "cuda":
        found = f"moves the model to cuda:0 and copies it to all {count} GPUs each step (DataParallel)"
    else:
        found = (
            f"moves the model to {device}:0, unless it is quantized by bitsandbytes or spread by device_map"
        )
    return [
        Topic("placement.trainer", title, f"accelerate {floor}", source).ok(
            found,
            "defaults: adamw_torch_fused, batch 8 a device, no activation checkpointing, no mixed precision",
        )
    ]


RULES = (device_map, trainer)
