"""What changed in transformers 5 that old tutorials get wrong.  One line each, for the task at hand."""

from __future__ import annotations

from ..facts import Facts
from ..rule import Check, Topic
from ..versions import satisfies


def _five(facts: Facts) -> bool:
    version = facts.version("transformers")
    return version is not None and satisfies(version, ">=5.0")


def names(facts: Facts) -> list[Check]:
    if not _five(facts):
        return []
    version = str(facts.version("transformers"))
    rows = (
        (
            "api.dtype",
            "dtype",
            'from_pretrained takes the checkpoint\'s dtype ("auto")',
            "ask for another with dtype=",
            "fp16=True on fp16 weights raises 'Attempting to unscale FP16 gradients': load in float32",
            "transformers 5.23 modeling_utils.py (run)",
            ("inference", "training", "distributed"),
        ),
        (
            "api.quantization_config",
            "quantization_config",
            "load_in_4bit= is gone from from_pretrained",
            "quantization_config=BitsAndBytesConfig(...)",
            "the old form raises TypeError: unexpected keyword argument 'load_in_4bit'",
            "transformers 5.23 (run)",
            ("quantization",),
        ),
        (
            "api.checkpointing",
            "activation checkpointing",
            "gradient_checkpointing is its old name",
            "activation_checkpointing where this transformers has it",
            "the old names warn and go away in version 6; pass use_reentrant=False either way",
            "transformers 5.23 modeling_utils.py, training_args.py",
            ("training", "distributed"),
        ),
    )
    return [
        Topic(ident, title, required, source).ok(f"transformers {version}: {found}", why)
        for ident, title, found, required, why, source, profiles in rows
        if facts.profile in profiles
    ]


RULES = (names,)
