"""The job that `virtual_speed.py` times: LoRA on a decoder, with activation checkpointing.

An ordinary training script: it says "cuda" (or, with `--device cpu`, runs for real) and knows nothing of
virtual GPUs.  The last line it prints is JSON: seconds of each step, of the imports and of building the
model.
"""

from __future__ import annotations

import time

STARTED = time.perf_counter()

import argparse  # noqa: E402
import json  # noqa: E402
from typing import Any  # noqa: E402

import torch  # noqa: E402
from peft import LoraConfig, get_peft_model  # noqa: E402
from transformers import AutoConfig, AutoModelForCausalLM  # noqa: E402

IMPORTED = time.perf_counter()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", required=True, help="folder with a config.json, or a preset's name")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--layers", type=int, help="instead of the config's")
    parser.add_argument("--hidden", type=int, help="a small model of this width, for a real run")
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--seq", type=int, default=1024)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--optimizer", choices=("adamw", "sgd"), default="adamw")
    parser.add_argument("--full", action="store_true", help="train all weights instead of LoRA's")
    parser.add_argument("--fake", action="store_true", help="in FakeTensorMode, which has no values to read")
    options = parser.parse_args()
    if options.fake:
        from torch._subclasses.fake_tensor import FakeTensorMode

        with FakeTensorMode():
            train(options)
    else:
        train(options)


def train(options: argparse.Namespace) -> None:
    torch.manual_seed(0)

    config = AutoConfig.from_pretrained(options.config)
    if options.layers:
        config.num_hidden_layers = options.layers
    if options.hidden:
        config.hidden_size, config.intermediate_size = options.hidden, 3 * options.hidden
        config.num_attention_heads, config.num_key_value_heads = options.hidden // 32, options.hidden // 64
        config.head_dim, config.vocab_size = 32, 8000
        config.pad_token_id = config.bos_token_id = config.eos_token_id = 0
    started = time.perf_counter()
    auto: Any = AutoModelForCausalLM
    with torch.device(options.device):
        model = auto.from_config(config, dtype=torch.float32 if options.hidden else torch.bfloat16)
    model.config.use_cache = False
    if not options.full:
        model = get_peft_model(model, LoraConfig(r=16, target_modules="all-linear", task_type="CAUSAL_LM"))
        model.enable_input_require_grads()
    model.gradient_checkpointing_enable()
    model.train()
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = (torch.optim.AdamW if options.optimizer == "adamw" else torch.optim.SGD)(trained, lr=1e-4)
    built = time.perf_counter() - started

    steps = []
    for _ in range(options.steps):
        started = time.perf_counter()
        tokens = torch.randint(0, config.vocab_size, (options.batch, options.seq)).to(options.device)
        with torch.autocast(options.device, dtype=torch.bfloat16):
            loss = model(input_ids=tokens, labels=tokens).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if not options.fake:
            loss.item()
        steps.append(time.perf_counter() - started)
    print(json.dumps({"steps": steps, "imports": IMPORTED - STARTED, "build": built}))


if __name__ == "__main__":
    main()
