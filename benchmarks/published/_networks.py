"""torchvision's VGG-16, ResNet-50, MobileNetV2, EfficientNet-B0 and Inception v3 in a few lines each.

Layers, widths and what works in place are torchvision's (models/*.py); weights are whatever comes.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


def _conv(
    wide: int, out: int, kernel: int | tuple[int, int] = 3, stride: int = 1, groups: int = 1,
    act: type[nn.Module] | None = nn.ReLU, padding: int | tuple[int, int] | None = None,
) -> nn.Sequential:  # fmt: skip
    """Convolution, batch norm and, in place, an activation."""
    if padding is None:
        assert isinstance(kernel, int)
        padding = (kernel - 1) // 2
    layers: list[nn.Module] = [
        nn.Conv2d(wide, out, kernel, stride, padding, groups=groups, bias=False),
        nn.BatchNorm2d(out),
    ]
    if act is not None:
        layers.append(act(inplace=True))
    return nn.Sequential(*layers)


def vgg16() -> nn.Module:
    layers: list[nn.Module] = []
    wide = 3
    for out, count in ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)):
        for _ in range(count):
            layers += [nn.Conv2d(wide, out, 3, padding=1), nn.ReLU(inplace=True)]
            wide = out
        layers.append(nn.MaxPool2d(2, 2))
    head: list[nn.Module] = []
    for inputs in (512 * 7 * 7, 4096):
        head += [nn.Linear(inputs, 4096), nn.ReLU(inplace=True), nn.Dropout()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(7), nn.Flatten(), *head, nn.Linear(4096, 1000))


class _Bottleneck(nn.Module):
    def __init__(self, wide: int, planes: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.conv2 = _conv(wide, planes, 1), _conv(planes, planes, 3, stride)
        self.conv3 = _conv(planes, 4 * planes, 1, act=None)
        same = stride == 1 and wide == 4 * planes
        self.downsample = None if same else _conv(wide, 4 * planes, 1, stride, act=None)

    def forward(self, x: Tensor) -> Tensor:
        out = self.conv1(x)
        out = self.conv2(out)
        out = self.conv3(out)
        identity = x if self.downsample is None else self.downsample(x)
        out += identity
        return functional.relu(out, inplace=True)


def resnet50() -> nn.Module:
    layers: list[nn.Module] = [_conv(3, 64, 7, 2), nn.MaxPool2d(3, 2, 1)]
    wide = 64
    for planes, count, stride in ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2)):
        for i in range(count):
            layers.append(_Bottleneck(wide, planes, stride if i == 0 else 1))
            wide = 4 * planes
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(wide, 1000))


class _Residual(nn.Module):
    """`x + body(x)`, the sum left out where shapes differ; a row's body is dropped with `drop`."""

    def __init__(self, body: nn.Module, same: bool, drop: float = 0.0) -> None:
        super().__init__()
        self.body, self.same, self.drop = body, same, drop

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.body(x)
        if not self.same:
            return out
        if self.drop and self.training:
            keep = torch.empty((x.shape[0], 1, 1, 1), device=x.device).bernoulli_(1 - self.drop)
            keep.div_(1 - self.drop)
            out = out * keep
        return x + out


def mobilenet_v2() -> nn.Module:
    layers: list[nn.Module] = [_conv(3, 32, 3, 2, act=nn.ReLU6)]
    wide = 32
    for expand, out, count, stride in (
        (1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2),
        (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1),
    ):  # fmt: skip
        for i in range(count):
            step, hidden = stride if i == 0 else 1, wide * expand
            body: list[nn.Module] = [_conv(wide, hidden, 1, act=nn.ReLU6)] if expand > 1 else []
            body += [_conv(hidden, hidden, 3, step, hidden, act=nn.ReLU6), _conv(hidden, out, 1, act=None)]
            layers.append(_Residual(nn.Sequential(*body), step == 1 and wide == out))
            wide = out
    layers += [_conv(wide, 1280, 1, act=nn.ReLU6), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return nn.Sequential(*layers, nn.Dropout(0.2), nn.Linear(1280, 1000))


class _Squeeze(nn.Module):
    def __init__(self, wide: int, inner: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Conv2d(wide, inner, 1), nn.Conv2d(inner, wide, 1)

    def forward(self, x: Tensor) -> Tensor:
        scale = functional.silu(self.fc1(functional.adaptive_avg_pool2d(x, 1)), inplace=True)
        scale = torch.sigmoid(self.fc2(scale))
        return scale * x


def efficientnet_b0() -> nn.Module:
    settings = (
        (1, 3, 1, 16, 1), (6, 3, 2, 24, 2), (6, 5, 2, 40, 2), (6, 3, 2, 80, 3),
        (6, 5, 1, 112, 3), (6, 5, 2, 192, 4), (6, 3, 1, 320, 1),
    )  # fmt: skip
    layers: list[nn.Module] = [_conv(3, 32, 3, 2, act=nn.SiLU)]
    wide, block, blocks = 32, 0, sum(s[4] for s in settings)
    for expand, kernel, stride, out, count in settings:
        for i in range(count):
            step, hidden = stride if i == 0 else 1, wide * expand
            body: list[nn.Module] = [_conv(wide, hidden, 1, act=nn.SiLU)] if expand > 1 else []
            body += [
                _conv(hidden, hidden, kernel, step, hidden, act=nn.SiLU),
                _Squeeze(hidden, max(1, wide // 4)),
                _conv(hidden, out, 1, act=None),
            ]
            layers.append(_Residual(nn.Sequential(*body), step == 1 and wide == out, 0.2 * block / blocks))
            wide, block = out, block + 1
    layers += [_conv(wide, 1280, 1, act=nn.SiLU), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return nn.Sequential(*layers, nn.Dropout(0.2, inplace=True), nn.Linear(1280, 1000))


class _Branches(nn.Module):
    """Branches side by side; a list at a branch's end forks once more."""

    def __init__(self, *branches: nn.Module) -> None:
        super().__init__()
        self.branches = nn.ModuleList(branches)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([branch(x) for branch in self.branches], 1)


def _pooled(wide: int, out: int) -> nn.Module:
    return nn.Sequential(nn.AvgPool2d(3, 1, 1), _conv(wide, out, 1))


def _inception_a(wide: int, pool: int) -> nn.Module:
    return _Branches(
        _conv(wide, 64, 1),
        nn.Sequential(_conv(wide, 48, 1), _conv(48, 64, 5)),
        nn.Sequential(_conv(wide, 64, 1), _conv(64, 96, 3), _conv(96, 96, 3)),
        _pooled(wide, pool),
    )


def _inception_c(c: int) -> nn.Module:
    across, down = {"kernel": (1, 7), "padding": (0, 3)}, {"kernel": (7, 1), "padding": (3, 0)}
    return _Branches(
        _conv(768, 192, 1),
        nn.Sequential(_conv(768, c, 1), _conv(c, c, **across), _conv(c, 192, **down)),  # type: ignore[arg-type]
        nn.Sequential(
            _conv(768, c, 1),
            _conv(c, c, **down), _conv(c, c, **across), _conv(c, c, **down),  # type: ignore[arg-type]
            _conv(c, 192, **across),  # type: ignore[arg-type]
        ),
        _pooled(768, 192),
    )  # fmt: skip


def _inception_e(wide: int) -> nn.Module:
    def fork() -> nn.Module:
        return _Branches(_conv(384, 384, (1, 3), padding=(0, 1)), _conv(384, 384, (3, 1), padding=(1, 0)))

    return _Branches(
        _conv(wide, 320, 1),
        nn.Sequential(_conv(wide, 384, 1), fork()),
        nn.Sequential(_conv(wide, 448, 1), _conv(448, 384, 3), fork()),
        _pooled(wide, 192),
    )


def inception_v3() -> nn.Module:
    across, down = {"kernel": (1, 7), "padding": (0, 3)}, {"kernel": (7, 1), "padding": (3, 0)}
    return nn.Sequential(
        _conv(3, 32, 3, 2, padding=0), _conv(32, 32, 3, padding=0), _conv(32, 64, 3), nn.MaxPool2d(3, 2),
        _conv(64, 80, 1), _conv(80, 192, 3, padding=0), nn.MaxPool2d(3, 2),
        _inception_a(192, 32), _inception_a(256, 64), _inception_a(288, 64),
        _Branches(
            _conv(288, 384, 3, 2, padding=0),
            nn.Sequential(_conv(288, 64, 1), _conv(64, 96, 3), _conv(96, 96, 3, 2, padding=0)),
            nn.MaxPool2d(3, 2),
        ),
        *(_inception_c(c) for c in (128, 160, 160, 192)),
        _Branches(
            nn.Sequential(_conv(768, 192, 1), _conv(192, 320, 3, 2, padding=0)),
            nn.Sequential(
                _conv(768, 192, 1), _conv(192, 192, **across), _conv(192, 192, **down),  # type: ignore[arg-type]
                _conv(192, 192, 3, 2, padding=0),
            ),
            nn.MaxPool2d(3, 2),
        ),
        _inception_e(1280), _inception_e(2048),
        nn.AdaptiveAvgPool2d(1), nn.Dropout(), nn.Flatten(), nn.Linear(2048, 1000),
    )  # fmt: skip
