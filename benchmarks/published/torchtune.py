"""pytorch/torchtune, docs e2e_flow.rst: what a LoRA recipe logs before the first step, Llama 3.2 3B.

December 2024.  `_setup_model` builds the model on the card in bfloat16 and loads the weights into it:
embedding tied to the head, adapters of rank 64 on q, v, output and the three matrices of the MLP, one
rotary table for all layers, built first: float32, 131,072 positions x 64 angles x (cosine, sine).
"""

from __future__ import annotations

from collections.abc import Iterator

from . import GiB, Measurement, Row, peaks

WIDTH, LAYERS, HEADS, KV_HEADS, HEAD, INNER, VOCABULARY = 3072, 28, 24, 8, 128, 8192, 128256
POSITIONS, RANK = 131072, 64


def rows() -> Iterator[Row]:
    yield Row("tt-3B-lora-init", "RTX 4090", "allocated", unit=GiB, torch="2.5", build=build)


def build() -> Measurement:
    import torch
    from torch import nn

    with torch.device("cuda"):
        theta = torch.rand(HEAD // 2, dtype=torch.float32)
        positions = torch.arange(POSITIONS, dtype=torch.float32)
        angles = torch.einsum("i, j -> ij", positions, theta).float()
        table = torch.stack([torch.cos(angles), torch.sin(angles)], dim=-1)
        del angles, positions

        def linear(wide: int, out: int, adapted: bool = True) -> nn.ModuleList:
            layers = nn.ModuleList([nn.Linear(wide, out, bias=False, dtype=torch.bfloat16)])
            if adapted:
                layers.append(nn.Linear(wide, RANK, bias=False, dtype=torch.bfloat16))
                layers.append(nn.Linear(RANK, out, bias=False, dtype=torch.bfloat16))
            return layers

        model = nn.ModuleList()
        for _ in range(LAYERS):
            model.append(linear(WIDTH, HEADS * HEAD))
            model.append(linear(WIDTH, KV_HEADS * HEAD, adapted=False))
            model.append(linear(WIDTH, KV_HEADS * HEAD))
            model.append(linear(HEADS * HEAD, WIDTH))
            model.extend([linear(WIDTH, INNER), linear(INNER, WIDTH), linear(WIDTH, INNER)])
            model.extend(nn.RMSNorm(WIDTH, dtype=torch.bfloat16) for _ in range(2))
        model.append(nn.RMSNorm(WIDTH, dtype=torch.bfloat16))
        model.append(nn.Embedding(VOCABULARY, WIDTH, dtype=torch.bfloat16))
    found = peaks()
    del table, model
    return found
