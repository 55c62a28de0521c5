"""Lightning-AI/litgpt, tutorials/{resource-tables,quantize,python-api}.md: LoRA, Adapter, generation.

PyTorch 2.1, Fabric 2.1, bitsandbytes 0.41, commit 8641822 (model facts: `_litgpt_model`).  From
finetune/lora.py, finetune/adapter.py, generate/base.py and Fabric:

* weights, adapters and activations are bfloat16 ("bf16-true"); Fabric turns what the model returns into the
  default type of the caller, float32, so the logits exist twice;
* training's first micro-batch holds the longest sample, whose length the table states, and the head works on
  chunks of 128 tokens, as does the cross entropy; the optimizer has no state yet.  The later, shorter
  micro-batches stay below it;
* generation: prompt "Hello, my name is" (6 tokens for Llama, with the one that begins a text; 5 for the
  others), 50 new tokens, cache of exactly that length, top-k 200 of float32 logits;
* the Python API of August 2024 (commit 7581313): `distribute(fixed_kv_cache_size=500)` makes the cache
  outside Fabric's type context, hence in float32; each layer casts its own to bfloat16 when it first meets
  it.  The prompt is wrapped as "Instruct: ...\nOutput:", 13 tokens;
* bytes are printed as 10^9 with two decimals.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING

from . import GB, Measurement, Row, peaks

if TYPE_CHECKING:
    from ._litgpt_model import GPT

A100 = "A100 SXM4 40GB"
LONGEST = {"phi-1.5-1.3B": 1044, "StableLMAlpha-3B": 1034, "Llama2-7B": 1304, "Llama2-13B": 1304}
NEW_TOKENS = 50
CHUNK = 128

FINETUNED = [
    *(("phi-1.5-1.3B", "lora", "None", n) for n in (1, 2, 4)),
    *(("StableLMAlpha-3B", "lora", "None", n) for n in (1, 2, 4)),
    *(("Llama2-7B", "lora", "None", n) for n in (1, 2)),
    ("Llama2-13B", "lora", "None", 1),
    *((model, "lora", f"bnb.{kind}", 1) for model in LONGEST for kind in ("nf4", "nf4-dq")),
    *(
        (model, method, kind, 1)
        for model in ("StableLMAlpha-3B", "Llama2-7B")
        for method in ("adapter", "adapter_v2")
        for kind in ("None", "bnb.nf4", "bnb.nf4-dq")
    ),
]
GENERATED = [
    *((model, "None") for model in LONGEST),
    *((model, "bnb.nf4") for model in (*LONGEST, "CodeLlama-34B", "Falcon-40B")),
    *((model, "bnb.nf4-dq") for model in (*LONGEST, "CodeLlama-34B", "Falcon-40B")),
    ("Llama2-70B", "bnb.nf4-dq"),
]


def rows() -> Iterator[Row]:
    for model, method, kind, batch in FINETUNED:
        yield Row(
            f"litgpt-rt-{model}-{method}-{kind}-mbs{batch}", A100, "allocated", unit=GB, torch="2.1",
            build=partial(finetune, model, method, kind, batch),
        )  # fmt: skip
    for model, kind in GENERATED:
        yield Row(
            f"litgpt-rt-inf-{model}-{kind}", A100, "allocated", unit=GB, torch="2.1",
            build=partial(generate, model, kind, NEW_TOKENS),
        )  # fmt: skip
    for precision in ("32-true-none", "bf16-true-none", "bf16-true-bnb.nf4", "bf16-true-bnb.nf4-dq"):
        start, _, kind = precision.rpartition("-true-")
        yield Row(
            f"litgpt-falcon7b-gen-{precision}", A100, "allocated", unit=GB, torch="2.1",
            build=partial(generate, "Falcon-7B", kind.replace("none", "None"), 256, single=start == "32"),
        )  # fmt: skip
    yield Row("litgpt-phi2-api", "A10G", "allocated", unit=GB, torch="2.3", build=api)


def _model(name: str, method: str, kind: str, dtype: object) -> GPT:
    import torch

    from . import _litgpt_model as lit

    quantized = "" if kind == "None" else kind.removeprefix("bnb.")
    torch.set_default_dtype(dtype)  # type: ignore[arg-type]
    try:
        with torch.device("cuda"):
            return lit.GPT(lit.SHAPES[name], lit.Variant(method, quantized))
    finally:
        torch.set_default_dtype(torch.float32)


def finetune(name: str, method: str, kind: str, batch: int) -> Measurement:
    import torch
    from torch.nn import functional

    model = _model(name, method, kind, torch.bfloat16)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=3e-4)
    tokens = LONGEST[name]
    model.set_length(tokens)
    model.train()
    x = torch.zeros((batch, tokens), dtype=torch.int64).cuda()
    y = torch.zeros((batch, tokens), dtype=torch.int64).cuda()
    logits = [piece.float() for piece in model(x, chunk=CHUNK)]
    logits[-1] = logits[-1][..., :-1, :]
    pieces = [piece.reshape(-1, piece.size(-1)) for piece in logits]
    targets = [t.reshape(-1) for t in y[..., 1:].split(logits[0].size(1), dim=1)]
    losses = [
        functional.cross_entropy(p, t, ignore_index=-1, reduction="none")
        for p, t in zip(pieces, targets, strict=True)
    ]
    del pieces, targets
    loss = torch.cat(losses).mean()
    del losses
    (loss / (128 // batch)).backward()
    optimizer.step()
    return peaks()


def generate(name: str, kind: str, new: int, *, single: bool = False) -> Measurement:
    import torch

    dtype = torch.float32 if single else torch.bfloat16
    model = _model(name, "", kind, dtype).eval()
    tokens = 6 if "lama" in name else 5
    total = tokens + new
    torch.set_default_dtype(dtype)
    try:
        with torch.device("cuda"):
            model.set_length(total)
            model.set_cache(total)
    finally:
        torch.set_default_dtype(torch.float32)
    _sample(model, tokens, total, best=200)
    return peaks()


def api() -> Measurement:
    import torch

    model = _model("phi-2", "", "None", torch.bfloat16).eval()
    with torch.device("cuda"):
        model.set_cache(500)
    _sample(model, 13, 13 + 50, best=1)
    return peaks()


def _sample(model: GPT, tokens: int, total: int, *, best: int) -> None:
    import torch

    with torch.inference_mode():
        idx = torch.empty(total, dtype=torch.int64, device="cuda")
        idx[:tokens] = torch.zeros(tokens, dtype=torch.int64).cuda()
        at = torch.arange(0, tokens, device="cuda")
        for _ in range(4):  # every later step needs what the last of these does
            x = idx.index_select(0, at).view(1, -1)
            logits = model(x, at).float()
            logits = logits[0, -1] / 0.8
            top, _ = torch.topk(logits, best)
            logits = torch.where(logits < top[[-1]], -float("Inf"), logits)
            chosen = torch.multinomial(torch.nn.functional.softmax(logits, dim=-1), num_samples=1)
            at = at[-1:] + 1
            idx = idx.index_copy(0, at, chosen)
