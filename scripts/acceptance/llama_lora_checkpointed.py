"""A 1-billion-parameter Llama with LoRA adapters and activation checkpointing through the Trainer."""

import tempfile

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, LlamaConfig, Trainer, TrainingArguments

config = LlamaConfig(
    vocab_size=32000, hidden_size=2048, intermediate_size=5632, num_hidden_layers=22, num_attention_heads=32,
    num_key_value_heads=4,
)  # fmt: skip
half = torch.bfloat16 if torch.cuda.get_device_capability() >= (8, 0) else torch.float16
model = AutoModelForCausalLM.from_config(config, dtype=half)
model = get_peft_model(model, LoraConfig(r=16, target_modules="all-linear", task_type="CAUSAL_LM"))
rows = [{"input_ids": [i % 100] * 512, "labels": [i % 100] * 512} for i in range(16)]
fields = TrainingArguments.__dataclass_fields__
new = "activation_checkpointing"
checkpointing = new if new in fields else "gradient_checkpointing"
arguments = TrainingArguments(
    tempfile.mkdtemp(), per_device_train_batch_size=4, max_steps=3, bf16=half is torch.bfloat16,
    fp16=half is torch.float16, report_to=[], save_strategy="no", disable_tqdm=True, **{checkpointing: True},
)  # fmt: skip
Trainer(model, arguments, train_dataset=rows).train()
