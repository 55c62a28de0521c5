"""lit-gpt's GPT of October 2023 in a few lines of our own: base, LoRA, Adapter and Adapter v2, 4-bit or not.

What decides memory and is kept as it was at commit 8641822 (lit_gpt/{model,lora,adapter,adapter_v2}.py):

* one Linear for q, k and v; heads are cut out by permute + split, rotary embedding on the first
  `rotary` elements with tables that promote to float32, then cast back; keys and values of multi-query
  attention are expanded to all heads;
* LoRA on q and v only: dropout -> A -> grouped conv1d with B -> zero-padded into the columns of q and v by
  index_copy with an index tensor built in every forward -> scaled -> added;
* Adapter: from layer 2 on, ten learned prompt rows go through the layer's own qkv projection and a second,
  masked attention, added through a gate; Adapter v2 adds a bias and a scale after every Linear and trains
  the norms too;
* RMSNorm computes in float32 (commit 6178c7c, of 24 October 2023: the resource table was published on the
  27th, after it);
* 4-bit layers are Lightning Fabric 2.1's: quantized from float16, so bitsandbytes 0.41's matmul dequantizes
  to float16 and casts to bfloat16 after.  One row of tokens outside autograd takes its gemv kernel instead,
  which needs no dequantized weight but works only where the row is a multiple of the block of 64.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

LORA_RANK, LORA_ALPHA, LORA_DROPOUT = 8, 16, 0.05  # finetune/lora.py
PROMPT_ROWS, PROMPT_FROM_LAYER = 10, 2  # lit_gpt/adapter.py


@dataclass(frozen=True)
class Shape:
    """The part of lit_gpt/config.py that memory depends on."""

    layers: int
    width: int
    heads: int
    vocabulary: int
    """Padded."""
    inner: int
    block: int
    rotary: float
    groups: int | None = None
    parallel: bool = True
    shared_norm: bool = False
    bias: bool = True
    head_bias: bool = False
    llama: bool = False
    """RMSNorm and a gated MLP; else LayerNorm and a GELU MLP."""
    gelu: str = "none"

    @property
    def head(self) -> int:
        return self.width // self.heads

    @property
    def rotated(self) -> int:
        return int(self.rotary * self.head)

    @property
    def query_groups(self) -> int:
        return self.groups or self.heads


SHAPES = {
    "phi-1.5-1.3B": Shape(
        24, 2048, 32, 51200, 8192, 2048, 0.5, shared_norm=True, head_bias=True, gelu="tanh"
    ),
    "phi-2": Shape(32, 2560, 32, 51200, 10240, 2048, 0.4, shared_norm=True, head_bias=True, gelu="tanh"),
    "StableLMAlpha-3B": Shape(16, 4096, 32, 50688, 16384, 4096, 0.25),
    "Llama2-7B": Shape(32, 4096, 32, 32000, 11008, 4096, 1.0, parallel=False, bias=False, llama=True),
    "Llama2-13B": Shape(40, 5120, 40, 32000, 13824, 4096, 1.0, parallel=False, bias=False, llama=True),
    "Llama2-70B": Shape(80, 8192, 64, 32000, 28672, 4096, 1.0, 8, parallel=False, bias=False, llama=True),
    "CodeLlama-34B": Shape(48, 8192, 64, 32000, 22016, 16384, 1.0, 8, parallel=False, bias=False, llama=True),
    "Falcon-7B": Shape(32, 4544, 71, 65024, 18176, 2048, 1.0, 1, bias=False, shared_norm=True),
    "Falcon-40B": Shape(60, 8192, 128, 65024, 32768, 2048, 1.0, 8, bias=False),
}


# ------------------------------------------------------------------------------------------- layers


class RMSNorm(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        full = x.float()
        normed = full * torch.rsqrt(torch.mean(full * full, dim=-1, keepdim=True) + 1e-5)
        return (self.weight * normed).to(x.dtype)


class _Matmul4Bit(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, packed: Tensor, bias: Tensor | None, state: Any) -> Tensor:
        from bitsandbytes.functional import dequantize_4bit

        out = functional.linear(x, dequantize_4bit(packed.t(), state).to(x.dtype).t(), bias)
        ctx.state = state
        if any(ctx.needs_input_grad[:2]):
            ctx.kept = (x, packed)  # 0.41 keeps the input too, past autograd's own bookkeeping
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        from bitsandbytes.functional import dequantize_4bit

        (grad,) = grads
        _, packed = ctx.kept
        if not ctx.needs_input_grad[0]:
            return None, None, None, None
        return torch.matmul(grad, dequantize_4bit(packed.t(), ctx.state).to(grad.dtype).t()), None, None, None


def matmul_4bit(x: Tensor, packed: Tensor, bias: Tensor | None, state: Any) -> Tensor:
    """As bitsandbytes 0.41: the gemv kernel for one row outside autograd, else dequantize and multiply."""
    if x.numel() != x.shape[-1] or x.requires_grad or x.shape[-1] % state.blocksize:
        out: Tensor = _Matmul4Bit.apply(x, packed, bias, state)  # type: ignore[no-untyped-call]
        return out
    if state.nested:
        from bitsandbytes.functional import dequantize_blockwise

        absmax = dequantize_blockwise(state.absmax, state.state2)
        absmax += state.offset
    out = x.new_empty((*x.shape[:-1], state.shape[0]))
    if bias is not None:
        out += bias
    return out


class Linear4Bit(nn.Module):
    """Quantized as soon as it is made, as Fabric's `init_module` does on a card."""

    def __init__(self, wide: int, out: int, bias: bool, double: bool) -> None:
        from bitsandbytes.functional import quantize_4bit

        super().__init__()
        full = nn.Linear(wide, out, bias=bias)
        self.bias = full.bias
        packed, self.state = quantize_4bit(
            full.weight.data.to(torch.half), blocksize=64, compress_statistics=double, quant_type="nf4"
        )
        self.packed = nn.Parameter(packed, requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        return matmul_4bit(x, self.packed, self.bias, self.state)


class ScaledLinear(nn.Module):
    """Adapter v2's Linear."""

    def __init__(self, linear: nn.Module, out: int) -> None:
        super().__init__()
        self.linear = linear
        self.adapter_bias = nn.Parameter(torch.zeros(out))
        self.adapter_scale = nn.Parameter(torch.ones(out))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.linear(x)
        return self.adapter_scale * (y + self.adapter_bias)


class LoRAQKV(nn.Module):
    def __init__(self, linear: nn.Module, shape: Shape) -> None:
        super().__init__()
        self.linear = linear
        wide = shape.width
        keys = shape.head * shape.query_groups
        self.parts = (wide, keys)  # q, v
        self.total = wide + 2 * keys
        self.columns = [*range(wide), *range(wide + keys, self.total)]
        self.grouped = shape.query_groups == shape.heads
        self.lora_A = nn.Parameter(torch.zeros(2 * LORA_RANK, wide))
        self.lora_B = nn.Parameter(torch.zeros(sum(self.parts), LORA_RANK))

    def forward(self, x: Tensor) -> Tensor:
        base: Tensor = self.linear(x)
        dropped = functional.dropout(x, LORA_DROPOUT, self.training)
        after_a = functional.linear(dropped, self.lora_A).transpose(-2, -1)
        del dropped
        weight = self.lora_B.unsqueeze(-1)
        if self.grouped:
            after_b = functional.conv1d(after_a, weight, groups=2)
        else:
            pieces = zip(after_a.chunk(2, dim=1), weight.split(self.parts), strict=True)
            after_b = torch.cat([functional.conv1d(a, b) for a, b in pieces], dim=1)
        update = after_b.transpose(-2, -1).transpose(0, 1)
        padded = update.new_zeros((*update.shape[:-1], self.total)).view(-1, self.total)
        columns = torch.tensor(self.columns, device=padded.device)
        padded = padded.index_copy(1, columns, update.reshape(-1, sum(self.parts)))
        padded = padded.view((*update.shape[:-1], self.total)).transpose(0, 1)
        return base + padded * (LORA_ALPHA / LORA_RANK)


# ------------------------------------------------------------------------------------------- the model


@dataclass(frozen=True)
class Variant:
    method: str = ""
    """"", "lora", "adapter" or "adapter_v2"."""
    quantized: str = ""
    """"", "nf4" or "nf4-dq"."""

    def linear(self, wide: int, out: int, bias: bool) -> nn.Module:
        layer: nn.Module
        if self.quantized:
            layer = Linear4Bit(wide, out, bias, double=self.quantized == "nf4-dq")
        else:
            layer = nn.Linear(wide, out, bias=bias)
        return ScaledLinear(layer, out) if self.method == "adapter_v2" else layer

    def trains(self, name: str) -> bool:
        if self.method == "lora":
            return "lora_" in name
        parts = ["adapter_wte", "gating_factor"] if "adapter" in self.method else []
        if self.method == "adapter_v2":
            parts += ["adapter_scale", "adapter_bias", "norm_1", "norm_2", "ln_f"]
        return any(part in name for part in parts)


def _rope(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    half = x.size(-1) // 2
    turned = torch.cat((-x[..., half:], x[..., :half]), dim=-1)
    return ((x * cos) + (turned * sin)).type_as(x)


class Attention(nn.Module):
    def __init__(self, shape: Shape, variant: Variant, layer: int) -> None:
        super().__init__()
        self.shape = shape
        total = (shape.heads + 2 * shape.query_groups) * shape.head
        self.attn: nn.Module = variant.linear(shape.width, total, shape.bias)
        if variant.method == "lora":
            self.attn = LoRAQKV(self.attn, shape)
        self.proj = variant.linear(shape.width, shape.width, shape.bias)
        self.cache: list[Tensor] | None = None
        self.prompted = "adapter" in variant.method and layer >= PROMPT_FROM_LAYER
        if self.prompted:
            self.adapter_wte = nn.Embedding(PROMPT_ROWS, shape.width)
            self.gating_factor = nn.Parameter(torch.zeros(1, 1, shape.heads, 1))
            self.prompt: tuple[Tensor, Tensor] | None = None

    def _split(self, qkv: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        s = self.shape
        batch, tokens, _ = qkv.size()
        each = s.heads // s.query_groups
        qkv = qkv.view(batch, tokens, s.query_groups, each + 2, s.head).permute(0, 2, 3, 1, 4)
        q, k, v = qkv.split((each, 1, 1), dim=2)
        if s.query_groups != 1:
            k = k.expand(batch, s.query_groups, each, tokens, s.head)
            v = v.expand(batch, s.query_groups, each, tokens, s.head)
        return (
            q.reshape(batch, -1, tokens, s.head),
            k.reshape(batch, -1, tokens, s.head),
            v.reshape(batch, -1, tokens, s.head),
        )

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        y = functional.scaled_dot_product_attention(
            q, k, v, attn_mask=mask, scale=1 / math.sqrt(self.shape.head), is_causal=mask is None
        )
        return y.transpose(1, 2)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, mask: Tensor | None, at: Tensor | None) -> Tensor:
        n = self.shape.rotated
        q, k, v = self._split(self.attn(x))
        q_roped, k_roped = _rope(q[..., :n], cos, sin), _rope(k[..., :n], cos, sin)
        q = torch.cat((q_roped, q[..., n:]), dim=-1)
        k = torch.cat((k_roped, k[..., n:]), dim=-1)
        if at is not None:
            assert self.cache is not None
            self.cache[0] = self.cache[0].to(k.dtype)
            self.cache[1] = self.cache[1].to(v.dtype)
            k, v = self.cache[0].index_copy_(2, at, k), self.cache[1].index_copy_(2, at, v)
        y = self._attend(q, k, v, mask)
        if self.prompted:
            if self.prompt is None:
                rows = self.adapter_wte.weight.reshape(1, PROMPT_ROWS, self.shape.width)
                _, pk, pv = self._split(self.attn(rows))
                self.prompt = (pk, pv)
            seen = torch.ones(q.size(2), PROMPT_ROWS, dtype=torch.bool, device=q.device)
            y = y + self.gating_factor * self._attend(q, *self.prompt, seen)
        return self.proj(y.reshape(x.shape))  # type: ignore[no-any-return]


class MLP(nn.Module):
    def __init__(self, shape: Shape, variant: Variant) -> None:
        super().__init__()
        self.shape = shape
        self.fc_1 = variant.linear(shape.width, shape.inner, shape.bias)
        if shape.llama:
            self.fc_2 = variant.linear(shape.width, shape.inner, shape.bias)
        self.proj = variant.linear(shape.inner, shape.width, shape.bias)

    def forward(self, x: Tensor) -> Tensor:
        if self.shape.llama:
            gate, up = self.fc_1(x), self.fc_2(x)
            x = functional.silu(gate) * up
            return self.proj(x)  # type: ignore[no-any-return]
        x = self.fc_1(x)
        x = functional.gelu(x, approximate=self.shape.gelu)
        return self.proj(x)  # type: ignore[no-any-return]


class Block(nn.Module):
    def __init__(self, shape: Shape, variant: Variant, layer: int) -> None:
        super().__init__()
        self.shape = shape
        norm = RMSNorm if shape.llama else nn.LayerNorm
        self.norm_1 = norm(shape.width)
        self.attn = Attention(shape, variant, layer)
        if not shape.shared_norm:
            self.norm_2 = norm(shape.width)
        self.mlp = MLP(shape, variant)

    def forward(self, x: Tensor, *rest: Any) -> Tensor:
        n_1 = self.norm_1(x)
        h = self.attn(n_1, *rest)
        if self.shape.parallel:
            n_2 = n_1 if self.shape.shared_norm else self.norm_2(x)
            return x + h + self.mlp(n_2)  # type: ignore[no-any-return]
        x = x + h
        return x + self.mlp(self.norm_2(x))  # type: ignore[no-any-return]


class GPT(nn.Module):
    def __init__(self, shape: Shape, variant: Variant) -> None:
        super().__init__()
        self.shape = shape
        self.lm_head = variant.linear(shape.width, shape.vocabulary, shape.head_bias)
        self.wte = nn.Embedding(shape.vocabulary, shape.width)
        self.h = nn.ModuleList(Block(shape, variant, i) for i in range(shape.layers))
        self.ln_f = (RMSNorm if shape.llama else nn.LayerNorm)(shape.width)
        self.mask: Tensor | None = None
        self.set_length(shape.block)
        for name, p in self.named_parameters():
            p.requires_grad_(variant.trains(name))

    def set_length(self, tokens: int) -> None:
        """Rotary tables for `tokens` positions: 16 bit where the default type is, on the default device."""
        n = self.shape.rotated
        device = self.wte.weight.device
        theta = 1.0 / (10000 ** (torch.arange(0, n, 2, device=device) / n))
        angles = torch.outer(torch.arange(tokens, device=device) / 1, theta).repeat(1, 2)
        cos, sin = torch.cos(angles), torch.sin(angles)
        short = torch.get_default_dtype() in (torch.float16, torch.bfloat16)
        self.tokens = tokens
        self.cos, self.sin = (cos.half(), sin.half()) if short else (cos, sin)

    def set_cache(self, tokens: int) -> None:
        """Keys and values of `tokens` positions, in the default type and on the default device."""
        s = self.shape
        heads = 1 if s.query_groups == 1 else s.heads
        size = (1, heads, tokens, s.head)
        for block in self.h:
            assert isinstance(block, Block)
            block.attn.cache = [torch.zeros(size), torch.zeros(size)]
        ones = torch.ones((tokens, tokens), dtype=torch.bool)
        self.mask = torch.tril(ones).unsqueeze(0).unsqueeze(0)

    def forward(self, idx: Tensor, at: Tensor | None = None, chunk: int = 0) -> Any:
        if at is None:
            cos, sin, mask = self.cos[: idx.size(1)], self.sin[: idx.size(1)], None
        else:
            assert self.mask is not None
            cos, sin = self.cos.index_select(0, at), self.sin.index_select(0, at)
            mask = self.mask.index_select(2, at)
        x = self.wte(idx)
        for block in self.h:
            x = block(x, cos, sin, mask, at)
        x = self.ln_f(x)
        if chunk:
            return [self.lm_head(piece) for piece in x.split(chunk, dim=1)]
        return self.lm_head(x)
