"""cuDNN's workspace: not allocated, because its size is cuDNN's choice, but bounded; the report says so."""

from __future__ import annotations

import torch
from torch import nn

from hfgpu_magic.virtual import VirtualGPU, state


def test_a_dense_convolution_states_a_bound() -> None:
    with VirtualGPU("A100") as gpu:
        x = torch.rand(32, 64, 112, 112, device="cuda")
        y = nn.Conv2d(64, 64, 3, padding=1, device="cuda")(x)
        assert state.current().libraries.convolution_bound == (x.nbytes + y.nbytes) * 36 // 16
    assert any("cuDNN's workspace" in note for note in gpu.report.notes)


def test_depthwise_and_pointwise_convolutions_need_none() -> None:
    with VirtualGPU("A100") as gpu:
        x = torch.rand(32, 64, 112, 112, device="cuda")
        nn.Conv2d(64, 64, 3, padding=1, groups=64, device="cuda")(x)
        nn.Conv2d(64, 256, 1, device="cuda")(x)
        assert state.current().libraries.convolution_bound == 0
    assert not any("cuDNN" in note for note in gpu.report.notes)
