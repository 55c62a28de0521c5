"""huggingface/transformers, docs llm_tutorial_optimization.md: octocoder (15.5 B), `generate`, A100.

GPTBigCode with multi-query attention, the real class of the installed transformers, eager attention,
bfloat16, greedy.  The prompt is one sentence in a question-and-answer frame, about 25 tokens (the page does
not count them), and 60 tokens follow.  What 2023 did differently:

* the model kept a causal mask of n_positions^2 booleans as a buffer (modeling_gpt_bigcode.py, `bias`);
* 4 bit was asked for without any detail: fp4, from float16 weights, and float32 as compute type, so
  bitsandbytes 0.41 dequantized every weight to float16, then cast it to float32 (`_litgpt_model` has that
  version's matmul).
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

from . import GiB, Measurement, Row, peaks

PROMPT, NEW = 25, 60


def rows() -> Iterator[Row]:
    for kind in ("bf16", "int8", "int4"):
        yield Row(
            f"hfdoc-octo-{kind}", "A100 SXM4 40GB", "allocated", unit=GiB, torch="2.0",
            build=partial(generate, kind), missing="bitsandbytes 0.41 int8" if kind == "int8" else "",
        )  # fmt: skip


def generate(kind: str) -> Measurement:
    import tempfile

    import torch
    import transformers

    quantizer: Any = transformers.BitsAndBytesConfig

    config = transformers.GPTBigCodeConfig(
        vocab_size=49152, n_positions=8192, n_embd=6144, n_layer=40, n_head=48, n_inner=24576,
        multi_query=True, pad_token_id=0, eos_token_id=None, bos_token_id=None,
    )  # fmt: skip
    more: dict[str, Any] = {"dtype": torch.bfloat16}
    if kind != "bf16":
        quantization = quantizer(load_in_8bit=kind == "int8", load_in_4bit=kind == "int4")
        more = {"dtype": torch.float16, "quantization_config": quantization}
    with tempfile.TemporaryDirectory() as folder:
        config.save_pretrained(folder)
        model: Any = transformers.AutoModelForCausalLM.from_pretrained(
            folder, device_map="cuda", attn_implementation="eager", **more
        )
    model.eval()
    model.transformer.bias = torch.ones((8192, 8192), dtype=torch.bool, device="cuda")
    if kind == "int4":
        _old_linear4bit(model)
    ids = torch.ones((1, PROMPT), dtype=torch.int64).cuda()
    # Quantized, the peak is in the pass over the prompt, where weights are dequantized: a few tokens will do.
    new = NEW if kind == "bf16" else 4
    model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=new, do_sample=False)
    return peaks()


def _old_linear4bit(model: Any) -> None:
    """Give every 4-bit layer the forward of bitsandbytes 0.41 with its default compute type."""
    import torch
    from bitsandbytes.nn.modules import Linear4bit

    from ._litgpt_model import matmul_4bit

    kind: Any = Linear4bit

    def forward(layer: Any, x: torch.Tensor) -> torch.Tensor:
        bias = None if layer.bias is None else layer.bias.to(torch.float32)
        return matmul_4bit(x.to(torch.float32), layer.weight, bias, layer.weight.quant_state).to(x.dtype)

    for layer in model.modules():
        if isinstance(layer, kind):
            layer.forward = partial(forward, layer)
