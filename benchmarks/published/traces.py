"""Recordings of real allocators whose program is known, run again event by event.

Sources (the recordings are in the evidence folder, see its INDEX.csv; the programs are public):

* linear_forward_*: shreyansh26/MLSys-Experiments, model_memory_usage/profile_grad.py and profile_no_grad.py:
  nn.Linear(10_000, 50_000) on the card, three times a new (5_000, 10_000) input and a forward.  Recorded
  with torch 2.4 or so (cuBLASLt takes 1 MiB per call) on a Hopper card (32 MiB cuBLAS workspace).
* lm_medium_*: Wedsonlin/assignment2-systems, cs336_systems/nsys_profile.py on the course's model (Stanford
  CS336): 24 layers, d_model 1024, d_ff 4096, 16 heads, vocabulary 10,000, batch 4, RMSNorm written out,
  RoPE on interleaved halves, attention written out with a boolean causal mask, SwiGLU as x * sigmoid(x),
  a hand-written AdamW that keeps new moments each step.  Five warm-up steps, gradients dropped, then the
  recorder and one step.  Inference runs under inference_mode in eval().  torch 2.11+cu128.
* attention_fwd_bwd: silmont2000/assignment2-systems, cs336_systems/debug_memory.py: attention written out
  (scores, division, a softmax of max, exp, sum), B = 8, S = 4096, d = 16, fp32, torch 2.6.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Recording:
    """One recording and the program behind it.

    `program(record)` runs inside a virtual card, calls `record()` where the original started the recorder,
    and returns what is still alive when the snapshot is taken.
    """

    name: str
    gpu: str
    torch: str
    program: Callable[[Callable[[], None]], object]
    missing: str = ""


def _linear(record: Callable[[], None], grad: bool) -> object:
    import torch

    record()
    layer = torch.nn.Linear(10_000, 50_000, device="cuda")
    with torch.set_grad_enabled(grad):
        for _ in range(3):
            inputs = torch.randn(5_000, 10_000, device="cuda")
            outputs = layer(inputs)
    return layer, inputs, outputs


def _attention(record: Callable[[], None]) -> object:
    import torch

    record()
    q, k, v = (torch.randn(8, 4096, 16, device="cuda", requires_grad=True) for _ in range(3))

    def attention() -> torch.Tensor:
        scores = torch.einsum("bqd,bkd->bqk", q, k)
        scores = scores / 16**0.5

        def softmax(x: torch.Tensor) -> torch.Tensor:
            largest = x.max(dim=-1, keepdim=True).values
            numerator = torch.exp(x - largest)
            denominator = torch.sum(numerator, dim=-1, keepdim=True)
            return numerator / denominator

        weights = softmax(scores)
        return torch.einsum("bqk,bkd->bqd", weights, v)

    output = attention()
    output.register_hook(lambda grad: grad)
    loss = output.sum()
    loss.backward()
    return q, k, v, output, loss


def _language_model(
    context: int, layers: int = 24, width: int = 1024, heads: int = 16, hidden: int = 4096
) -> Any:
    """The course's decoder: its operations in its order."""
    import torch
    from torch import nn

    vocabulary = 10_000

    class Linear(nn.Module):
        def __init__(self, inputs: int, outputs: int) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.empty(outputs, inputs))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.einsum("...i,oi->...o", x, self.weight)

    class RMSNorm(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(width))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            dtype = x.dtype
            x = x.to(torch.float32)
            rms = torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-5)
            x = x * rms
            return (self.weight * x).to(dtype)

    class Rotary(nn.Module):
        cache: torch.Tensor

        def __init__(self) -> None:
            super().__init__()
            dimensions = width // heads
            angles = torch.outer(torch.arange(context).float(), torch.arange(0, dimensions, 2) / dimensions)
            self.register_buffer("cache", torch.stack((angles.cos(), angles.sin())), persistent=False)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x1, x2 = x.unflatten(-1, (-1, 2)).movedim(-1, 0).unbind(0)
            cos, sin = self.cache[:, : x.size(-2), :].unbind(0)
            first = cos * x1 - sin * x2
            second = sin * x1 + cos * x2
            return torch.concat((first, second), dim=-1)

    def softmax(x: torch.Tensor) -> torch.Tensor:
        shifted = x - torch.max(x, dim=-1, keepdim=True)[0]
        exponentials = torch.exp(shifted)
        return exponentials / torch.sum(exponentials, dim=-1, keepdim=True)

    def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        scores = torch.einsum("...qd,...kd->...qk", q, k) / math.sqrt(k.shape[-1])
        scores = torch.where(mask, scores, float("-inf"))
        weights = softmax(scores)
        return torch.einsum("...qk,...kd->...qd", weights, v)

    class Attention(nn.Module):
        def __init__(self, rotary: Rotary) -> None:
            super().__init__()
            self.q, self.k, self.v, self.out = (Linear(width, width) for _ in range(4))
            self.rotary = rotary

        def forward(self, x: torch.Tensor) -> Any:
            b, s, _ = x.size()
            q, k, v = self.q(x), self.k(x), self.v(x)
            q, k, v = (t.reshape(b, s, heads, -1).permute(0, 2, 1, 3) for t in (q, k, v))
            q = self.rotary(q)
            k = self.rotary(k)
            steps = torch.arange(s, device=x.device)
            mask = (steps.reshape(s, 1) >= steps.reshape(1, s))[None, ...]
            found = attend(q, k, v, mask)
            found = found.permute(0, 2, 1, 3).reshape(b, s, -1).contiguous()
            return self.out(found)

    class SwiGLU(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w1, self.w2, self.w3 = Linear(width, hidden), Linear(hidden, width), Linear(width, hidden)

        def forward(self, x: torch.Tensor) -> Any:
            return self.w2(_silu(self.w1(x)) * self.w3(x))

    def _silu(x: torch.Tensor) -> torch.Tensor:
        return x * torch.sigmoid(x)

    class Block(nn.Module):
        def __init__(self, rotary: Rotary) -> None:
            super().__init__()
            self.attention, self.ffn = Attention(rotary), SwiGLU()
            self.norm1, self.norm2 = RMSNorm(), RMSNorm()

        def forward(self, x: torch.Tensor) -> Any:
            x_attention = self.attention(self.norm1(x))
            between = x + x_attention
            x_ffn = self.ffn(self.norm2(between))
            return between + x_ffn

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding = nn.Parameter(torch.empty(vocabulary, width))
            self.rotary = Rotary()
            self.layers = nn.ModuleList([Block(self.rotary) for _ in range(layers)])
            self.norm = RMSNorm()
            self.head = Linear(width, vocabulary)

        def forward(self, tokens: torch.Tensor) -> Any:
            embedded = self.embedding[tokens, :]
            x = embedded
            for layer in self.layers:
                x = layer(x)
            x = self.norm(x)
            return self.head(x)

    return Model()


def _cross_entropy(logits: Any, targets: Any) -> Any:
    import torch

    def log_softmax(x: Any) -> Any:
        largest = torch.max(x, dim=-1, keepdim=True)[0]
        x = x - largest
        return x - torch.log(torch.sum(torch.exp(x), dim=-1, keepdim=True))

    negative = -log_softmax(logits)
    return torch.mean(torch.gather(negative, -1, targets.unsqueeze(-1)))


def _adamw(parameters: Iterable[Any]) -> Any:
    """The course's AdamW: no in-place moments, temporaries for each expression."""
    import torch

    class AdamW(torch.optim.Optimizer):
        def __init__(self) -> None:
            settings = {"lr": 1e-3, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.01}
            super().__init__(parameters, settings)

        def step(self, closure: Any = None) -> Any:  # noqa: ARG002 - torch's signature
            for group in self.param_groups:
                rate, (beta1, beta2), eps = group["lr"], group["betas"], group["eps"]
                for p in group["params"]:
                    if p.grad is None:
                        continue
                    grad = p.grad.data
                    state = self.state[p]
                    t = state.get("t", 1)
                    corrected = rate * (math.sqrt(1 - beta2**t) / (1 - beta1**t))
                    p.data -= rate * group["weight_decay"] * p.data
                    old_m = state.get("m", torch.zeros_like(grad))
                    old_v = state.get("v", torch.zeros_like(grad))
                    m = beta1 * old_m + ((1 - beta1) * grad)
                    v = beta2 * old_v + ((1 - beta2) * torch.square(grad))
                    p.data -= corrected * m / (torch.sqrt(v) + eps)
                    state["m"], state["v"], state["t"] = m, v, t + 1

    return AdamW()


def _training(record: Callable[[], None], context: int, autocast: bool, *, warm_up: int = 5) -> object:
    import torch

    model = _language_model(context).to("cuda")
    optimizer = _adamw(model.parameters())

    def tokens(steps: int) -> Any:
        return torch.randint(0, 10_000, (steps, 4, context), dtype=torch.long, device="cuda")

    warm_inputs, inputs, warm_targets, targets = tokens(warm_up), tokens(1), tokens(warm_up), tokens(1)
    model.train()
    for i in range(warm_up):
        with torch.autocast("cuda", dtype=torch.bfloat16, enabled=autocast):
            output = model(warm_inputs[i])
            loss = _cross_entropy(output, warm_targets[i])
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    torch.cuda.synchronize()
    del output, loss
    optimizer.zero_grad(set_to_none=True)
    torch.cuda.reset_peak_memory_stats()
    record()
    with torch.autocast("cuda", dtype=torch.bfloat16, enabled=autocast):
        output = model(inputs[0])
        loss = _cross_entropy(output, targets[0])
    loss.backward()
    optimizer.step()
    return model, optimizer, output, loss, warm_inputs, inputs, warm_targets, targets


def _inference(record: Callable[[], None], context: int, autocast: bool, *, warm_up: int = 5) -> object:
    import torch

    model = _language_model(context).to("cuda")
    optimizer = _adamw(model.parameters())
    warm_inputs = torch.randint(0, 10_000, (warm_up, 4, context), dtype=torch.long, device="cuda")
    inputs = torch.randint(0, 10_000, (1, 4, context), dtype=torch.long, device="cuda")
    model.eval()
    with torch.inference_mode():
        for i in range(warm_up):
            with torch.autocast("cuda", dtype=torch.bfloat16, enabled=autocast):
                model(warm_inputs[i])
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        record()
        with torch.autocast("cuda", dtype=torch.bfloat16, enabled=autocast):
            model(inputs[0])
            torch.cuda.synchronize()
    return model, optimizer, warm_inputs, inputs


def recordings() -> Iterable[Recording]:
    yield Recording("linear_forward_grad_from_empty", "H100 SXM", "2.4", lambda record: _linear(record, True))
    yield Recording(
        "linear_forward_no_grad_from_empty", "H100 SXM", "2.4", lambda record: _linear(record, False)
    )
    yield Recording("attention_fwd_bwd_from_empty", "RTX 4090", "2.6", _attention)
    # The scripts run with and without --autocast; which one a recording is, its sizes say (2 or 4 bytes).
    for context, autocast in ((128, False), (256, False), (1024, True)):
        yield _lm(f"lm_medium_ctx{context}_training", _training, context, autocast)
    for context, autocast in ((128, False), (256, False), (512, True), (1024, False)):
        yield _lm(f"lm_medium_ctx{context}_inference", _inference, context, autocast)


def _lm(name: str, program: Callable[..., object], context: int, autocast: bool) -> Recording:
    return Recording(name, "A100 SXM4 40GB", "2.11", lambda record: program(record, context, autocast))
