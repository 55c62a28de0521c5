"""A ResNet-shaped network, channels last, fp16 autocast: cuDNN's workspace is what cannot be known."""

import torch
from torch import nn


class Block(nn.Module):
    def __init__(self, channels: int, out: int, stride: int) -> None:
        super().__init__()
        self.a, self.an = nn.Conv2d(channels, out, 3, stride, 1, bias=False), nn.BatchNorm2d(out)
        self.b, self.bn = nn.Conv2d(out, out, 3, 1, 1, bias=False), nn.BatchNorm2d(out)
        self.skip = nn.Sequential(nn.Conv2d(channels, out, 1, stride, bias=False), nn.BatchNorm2d(out))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.relu(self.an(self.a(x)))
        return torch.relu(self.bn(self.b(y)) + self.skip(x))


sizes = [(64, 64, 1), (64, 128, 2), (128, 256, 2), (256, 512, 2)]
model = nn.Sequential(
    nn.Conv2d(3, 64, 7, 2, 3), nn.ReLU(), nn.MaxPool2d(3, 2, 1), *[Block(*s) for s in sizes],
    nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, 1000),
).cuda()  # fmt: skip
model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
images = torch.randn(32, 3, 224, 224, device="cuda").to(memory_format=torch.channels_last)
labels = torch.zeros(32, dtype=torch.long, device="cuda")
for _ in range(3):
    with torch.autocast("cuda", dtype=torch.float16):
        loss = nn.functional.cross_entropy(model(images), labels)
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
