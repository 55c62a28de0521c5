"""pytorch/tutorials, optimizer_step_in_backward_tutorial.py: ViT-L/16, one image, read off a picture.

torchvision's vit_l_16 (here in our own words: 24 blocks of LayerNorm, MultiheadAttention, LayerNorm, MLP) in
float32 on one image of 224 x 224, loss = sum of the outputs, three steps: with Adam (foreach), and with one
Adam(foreach=False) a parameter that steps in a post-accumulate hook and drops the gradient.  The page gives
"~6GB" and "~4GB", to one digit.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from . import GB, Measurement, Row, peaks

if TYPE_CHECKING:
    import torch

GPU = "A100 SXM4 40GB"  # not stated; nothing here depends on it
WIDTH, LAYERS, HEADS, INNER, PATCHES = 1024, 24, 16, 4096, 14 * 14


def rows() -> Iterator[Row]:
    note = "figure of one digit"
    yield Row("pt-tut-vitl-adam", GPU, "allocated", unit=GB, torch="2.1", build=whole, missing=note)
    yield Row(
        "pt-tut-vitl-opt-in-bwd", GPU, "allocated", unit=GB, torch="2.1", build=in_backward, missing=note
    )


def whole() -> Measurement:
    import torch

    model = _model()
    optimizer = torch.optim.Adam(model.parameters())
    image = torch.randn(1, 3, 224, 224).cuda()
    for _ in range(3):
        model(image).sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    return peaks()


def in_backward() -> Measurement:
    import torch

    model = _model()
    optimizers = {p: torch.optim.Adam([p], foreach=False) for p in model.parameters()}

    def step(parameter: torch.Tensor) -> None:
        optimizers[parameter].step()  # type: ignore[index]
        optimizers[parameter].zero_grad()  # type: ignore[index]

    for p in model.parameters():
        p.register_post_accumulate_grad_hook(step)
    image = torch.randn(1, 3, 224, 224).cuda()
    for _ in range(3):
        model(image).sum().backward()
    return peaks()


def _model() -> torch.nn.Module:
    import torch
    from torch import nn

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.ln_1, self.ln_2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
            self.attention = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True)
            self.mlp = nn.Sequential(nn.Linear(WIDTH, INNER), nn.GELU(), nn.Linear(INNER, WIDTH))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.ln_1(x)
            y, _ = self.attention(y, y, y, need_weights=False)
            y = y + x
            return y + self.mlp(self.ln_2(y))  # type: ignore[no-any-return]

    class ViT(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.patch = nn.Conv2d(3, WIDTH, 16, 16)
            self.token = nn.Parameter(torch.zeros(1, 1, WIDTH))
            self.position = nn.Parameter(torch.zeros(1, PATCHES + 1, WIDTH))
            self.blocks = nn.Sequential(*(Block() for _ in range(LAYERS)), nn.LayerNorm(WIDTH))
            self.head = nn.Linear(WIDTH, 1000)

        def forward(self, image: torch.Tensor) -> torch.Tensor:
            x = self.patch(image).reshape(1, WIDTH, -1).permute(0, 2, 1)
            x = torch.cat([self.token.expand(1, -1, -1), x], dim=1) + self.position
            return self.head(self.blocks(x)[:, 0])  # type: ignore[no-any-return]

    return ViT().cuda()
