"""huggingface/peft, method_comparison/MetaMathQA: Llama-3.2-3B on an L40S, one JSON file an experiment.

torch 2.13, transformers 5.13, peft 0.19, run on the real libraries as installed here (5.23, 0.21).  Facts
from run.py and utils.py beside the results:

* `from_pretrained(dtype=bfloat16, device_map=cuda)`, adapters in float32, no autocast, no checkpointing,
  AdamW of torch over all parameters, gradient norm clipped;
* the figure is the mean of `memory_allocated()` right after the optimizer step, over 250 steps of batch 4;
  at that moment `outputs` (logits, key-value cache) and the gradients are still there;
* from every reading run.py takes away what `nn.Linear(1, 1).to(device)` reserved at the start: one
  segment of the allocator's small pool;
* the batches' mean length follows from the file itself: tokens/s x training time / 250 steps = 833 tokens,
  4 x 208 here.  They vary in fact, and a key or value (1.7 MB) then keeps up to 1 MiB of a block that was
  made for a longer batch: this is what makes the rows differ by some 15 MiB either way.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

from . import Measurement, MiB, Row, current

BATCH, TOKENS = 4, 208
SMALL_SEGMENT = 2 * MiB  # c10/cuda/CUDACachingAllocator: kSmallBuffer

_QV = ["q_proj", "v_proj"]
METHODS: dict[str, dict[str, Any] | None] = {
    "full-finetuning-lr_0.00001": None,
    "ia3-default": {
        "peft_type": "IA3", "feedforward_modules": ["down_proj"],
        "target_modules": ["down_proj", "v_proj", "k_proj"],
    },
    "ln_tuning-default": {
        "peft_type": "LN_TUNING", "target_modules": ["input_layernorm", "norm", "post_attention_layernorm"],
    },
    "vera-default": {"peft_type": "VERA", "r": 256, "d_initial": 0.1, "target_modules": _QV},
    "loha-rank32": {"peft_type": "LOHA", "r": 32, "alpha": 64, "target_modules": _QV},
    "lora-rank10-target-mlp": {
        "peft_type": "LORA", "r": 10, "lora_alpha": 20,
        "target_modules": ["up_proj", "gate_proj", "down_proj"],
    },
    "lora-rank32": {"peft_type": "LORA", "r": 32, "lora_alpha": 64, "target_modules": _QV},
    "lora-rank32-dora": {
        "peft_type": "LORA", "r": 32, "lora_alpha": 64, "use_dora": True, "target_modules": _QV,
    },
    "lora-rank32-lorafa": {"peft_type": "LORA", "r": 32, "lora_alpha": 64, "target_modules": _QV},
    "lora-rank64": {"peft_type": "LORA", "r": 64, "lora_alpha": 128, "target_modules": _QV},
    "lora-rank64-rslora": {
        "peft_type": "LORA", "r": 64, "lora_alpha": 64, "use_rslora": True, "target_modules": _QV,
    },
    "oft-rank32": {"peft_type": "OFT", "r": 32, "oft_block_size": 0, "target_modules": _QV},
    "adalora-rank32": {
        "peft_type": "ADALORA", "init_r": 64, "target_r": 32, "lora_alpha": 8, "total_step": 5000,
        "target_modules": _QV,
    },
}  # fmt: skip


def rows() -> Iterator[Row]:
    for method in METHODS:
        yield Row(
            f"peft-{method}-alloc", "L40S", "allocated", unit=1, torch="2.13", build=partial(train, method),
            missing="linear algebra library" if method.endswith("lorafa") else "lengths of the batches",
        )  # fmt: skip


def train(method: str) -> Measurement:
    import dataclasses
    import tempfile

    import peft
    import torch
    from transformers import AutoModelForCausalLM, LlamaConfig

    config = LlamaConfig(
        hidden_size=3072, num_hidden_layers=28, num_attention_heads=24, num_key_value_heads=8,
        intermediate_size=8192, vocab_size=128256, tie_word_embeddings=True, head_dim=128,
        max_position_embeddings=131072,
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        config.save_pretrained(folder)
        model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16, device_map="cuda")
    settings = METHODS[method]
    if settings is not None:
        adapter = peft.get_peft_config({"task_type": "CAUSAL_LM", **settings})
        model = peft.get_peft_model(model, adapter)
    model.train()
    if method.endswith("lorafa"):
        from peft.optimizers import create_lorafa_optimizer

        optimizer = create_lorafa_optimizer(model, r=32, lora_alpha=64, lr=1e-4, weight_decay=0.1)
    else:
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    ids = torch.zeros((BATCH, TOKENS), dtype=torch.int64)
    for _ in range(2):
        batch = {"input_ids": ids.cuda(), "attention_mask": torch.ones_like(ids).cuda()}
        batch["labels"] = batch["input_ids"].clone()
        items = batch["attention_mask"].sum().item()
        optimizer.zero_grad()
        outputs = model(**batch, num_items_in_batch=items)
        outputs.loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    return dataclasses.replace(now := current(), allocated=now.allocated - SMALL_SEGMENT)
