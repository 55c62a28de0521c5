"""BERT as transformers ran it before 2023: eager attention with an additive mask, always present.

`BertModel` made a mask of ones when none was given and added (1 - mask) x -10000 to the scores, in the
type of the parameters: under autocast that turns float16 scores into float32.  Written from
modeling_bert.py of transformers 2.11 to 4.15, whose layers do not differ in what they allocate.

`softmax` before PyTorch 1.11 kept its input for backward besides its output
(`_softmax_backward_data(grad, output, dim, self)`; transformers had a shim for the change of signature).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint


@dataclass(frozen=True)
class Shape:
    layers: int = 12
    width: int = 768
    heads: int = 12
    inner: int = 3072
    vocabulary: int = 30522
    token_types: int = 2
    """0 in DistilBERT, which has no pooler either."""
    saves_softmax_input: bool = False

    @property
    def pooler(self) -> bool:
        return self.token_types > 0


class _OldSoftmax(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        y = torch.softmax(x, dim=-1)
        ctx.save_for_backward(x, y)
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        x, y = ctx.saved_tensors
        return torch.ops.aten._softmax_backward_data(grads[0], y, -1, x.dtype)


_old_softmax: Callable[..., Any] = _OldSoftmax.apply


class Attention(nn.Module):
    def __init__(self, s: Shape) -> None:
        super().__init__()
        self.s = s
        self.query, self.key, self.value = (nn.Linear(s.width, s.width) for _ in range(3))
        self.dense = nn.Linear(s.width, s.width)
        self.norm = nn.LayerNorm(s.width)
        self.dropout, self.out_dropout = nn.Dropout(0.1), nn.Dropout(0.1)

    def _heads(self, x: Tensor) -> Tensor:
        return x.view(*x.shape[:-1], self.s.heads, -1).permute(0, 2, 1, 3)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        q = self.query(x)
        k, v = self._heads(self.key(x)), self._heads(self.value(x))
        q = self._heads(q)
        scores = torch.matmul(q, k.transpose(-1, -2))
        scores = scores / math.sqrt(q.size(-1))
        scores = scores + mask
        probs = _old_softmax(scores) if self.s.saves_softmax_input else torch.softmax(scores, dim=-1)
        probs = self.dropout(probs)
        context = torch.matmul(probs, v).permute(0, 2, 1, 3).contiguous()
        context = context.view(*context.shape[:-2], self.s.width)
        # transformers hands these back as a tuple: queries, keys, scores, ... end with the method,
        # before the output layer runs.
        del q, k, v, scores, probs
        return self._output(context, x)

    def _output(self, context: Tensor, x: Tensor) -> Tensor:
        y = self.dense(context)
        y = self.out_dropout(y)
        return self.norm(y + x)  # type: ignore[no-any-return]


class Layer(nn.Module):
    def __init__(self, s: Shape) -> None:
        super().__init__()
        self.attention = Attention(s)
        self.intermediate, self.output = nn.Linear(s.width, s.inner), nn.Linear(s.inner, s.width)
        self.norm = nn.LayerNorm(s.width)
        self.dropout = nn.Dropout(0.1)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        x = self.attention(x, mask)
        inner = self.intermediate(x)
        inner = functional.gelu(inner)
        y = self.output(inner)
        y = self.dropout(y)
        return self.norm(y + x)  # type: ignore[no-any-return]


class Bert(nn.Module):
    """The encoder, and the pooler where the shape has one: (sequence, pooled)."""

    def __init__(self, s: Shape, *, checkpointing: bool = False) -> None:
        super().__init__()
        self.checkpointing = checkpointing
        self.words = nn.Embedding(s.vocabulary, s.width, padding_idx=0)
        self.positions = nn.Embedding(512, s.width)
        self.types = nn.Embedding(s.token_types, s.width) if s.token_types else None
        self.norm, self.dropout = nn.LayerNorm(s.width), nn.Dropout(0.1)
        self.layers = nn.ModuleList(Layer(s) for _ in range(s.layers))
        self.pooler = nn.Linear(s.width, s.width) if s.pooler else None
        self.register_buffer("position_ids", torch.arange(512).expand((1, -1)))

    def forward(self, ids: Tensor) -> tuple[Tensor, Tensor | None]:
        tokens = ids.size(1)
        mask = torch.ones(ids.shape, device=ids.device)
        mask = mask[:, None, None, :].to(self.norm.weight.dtype)
        mask = (1.0 - mask) * -10000.0
        x = self.words(ids)
        if self.types is not None:
            x = x + self.types(torch.zeros_like(ids))
        x = x + self.positions(self.position_ids[:, :tokens])  # type: ignore[index]
        x = self.dropout(self.norm(x))
        for layer in self.layers:
            if self.checkpointing and self.training:
                x = checkpoint(layer, x, mask, use_reentrant=True)
            else:
                x = layer(x, mask)
        return x, None if self.pooler is None else torch.tanh(self.pooler(x[:, 0]))


class Classifier(nn.Module):
    """`BertForSequenceClassification` with two labels: gives the loss."""

    def __init__(self, s: Shape, *, checkpointing: bool = False) -> None:
        super().__init__()
        self.bert = Bert(s, checkpointing=checkpointing)
        self.dropout = nn.Dropout(0.1)
        self.classifier = nn.Linear(s.width, 2)

    def forward(self, ids: Tensor, labels: Tensor) -> Tensor:
        _, pooled = self.bert(ids)
        assert pooled is not None
        return functional.cross_entropy(self.classifier(self.dropout(pooled)), labels)
