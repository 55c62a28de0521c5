"""Greedy generation with a growing key-value cache."""

import torch
from transformers import AutoModelForCausalLM, LlamaConfig

config = LlamaConfig(
    vocab_size=32000, hidden_size=2048, intermediate_size=5632,
    num_hidden_layers=12, num_attention_heads=32, num_key_value_heads=4,
)  # fmt: skip
model = AutoModelForCausalLM.from_config(config, dtype=torch.float16).cuda().eval()
prompt = torch.randint(3, 32000, (4, 512), device="cuda")
out = model.generate(
    prompt,
    attention_mask=torch.ones_like(prompt),
    max_new_tokens=64,
    min_new_tokens=64,
    do_sample=False,
    pad_token_id=0,
)
print(tuple(out.shape))
