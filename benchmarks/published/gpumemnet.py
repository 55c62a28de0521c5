"""itu-rad/GPUMemNet: perceptrons (Datasets/MLP) and networks (Test_Pipeline), A100, nvidia-smi.

From NeuroNetGen_scripts/MLP/mlp.py, Test_Pipeline/cnn_models/*.py and Data_Cleaner_scripts:

* perceptron: `torchsummary` sends a batch of two through the model, then Adam (foreach) on 4,096 random
  samples in batches moved to the card, the last one smaller; the highest `nvidia-smi memory.used` of the run
  is published, of the whole card;
* networks, torchvision's (`_networks`): the same with images of the stated size, after a fake forward on the
  host's side; a pass over validation data in batches of the same size under `no_grad` follows each epoch;
* neither PyTorch nor driver are stated.

Context: the catalog's, which is a lazily loaded one.  That machine's was far larger: the smallest network of
the same table (29 parameters) already takes 1443 MiB, so everything was loaded at the start there.  Neither
driver nor CUDA version is stated, so nothing but that table would say so, and the rows stay too low by it.

Missing for the networks besides: the code of cuDNN's kernels, which no perceptron loads, and cuDNN's
workspaces, which depend on the algorithms its heuristics take.  `device_high` ends the band that allows
for both: the bound of `Libraries.convolution`, and a context as far above this one as the catalog's
spread goes.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING

from . import Measurement, MiB, Row, peaks

if TYPE_CHECKING:
    import torch

A100 = "A100 SXM4 40GB"
SAMPLES = 4096

PERCEPTRONS = (
    "input3998_output986_depth10_archuniform_batch687",
    "input3911_output100_depth10_archuniform_batch886",
    "input3840_output725_depth10_archuniform_batch775",
    "input3918_output7_depth10_archuniform_batch337",
    "input3848_output138_depth10_archuniform_batch432",
    "input3829_output218_depth10_archuniform_batch843",
    "input3754_output841_depth8_archgradual_batch849",
    "input2776_output66_depth6_archuniform_batch689",
    "input2423_output91_depth8_archuniform_batch391",
    "input2443_output464_depth4_archgradual_batch23",
    "input3829_output335_depth6_archpyramid_batch239",
)
#: Side of the images; and whether dense convolutions carry the network (else depthwise ones).
NETWORKS = {
    "vgg16": (224, True),
    "resnet50": (224, True),
    "inception_v3": (299, True),
    "mobilenet_v2": (224, False),
    "efficientnet_b0": (224, False),
}


def rows() -> Iterator[Row]:
    for name in PERCEPTRONS:
        yield Row(
            f"gpumemnet-mlp-{name}", A100, "device", unit=MiB, build=partial(perceptron, name),
            missing="context of that machine",
        )  # fmt: skip
    for name, (side, dense) in NETWORKS.items():
        for batch in (32, 64, 128):
            yield Row(
                f"gpumemnet-{name}-bs{batch}", A100, "device", unit=MiB,
                build=partial(network, name, side, batch),
                dense_convolution=dense, missing="context, cuDNN kernels, workspaces",
            )  # fmt: skip


def perceptron(name: str) -> Measurement:
    import torch

    match = re.fullmatch(r"input(\d+)_output(\d+)_depth(\d+)_arch(\w+)_batch(\d+)", name)
    assert match is not None
    inputs, outputs, depth, batch = (int(match[i]) for i in (1, 2, 3, 5))
    layers: list[torch.nn.Module] = []
    width = inputs
    step = (inputs - outputs) // depth
    for _ in range(depth):
        narrower = {"uniform": width, "gradual": max(width - step, outputs)}
        wide = narrower.get(match[4], max(int(width * 0.5), outputs))
        layers += [torch.nn.Linear(width, wide), torch.nn.ReLU()]
        width = wide
    if match[4] == "bottleneck":
        wide = max(int(width * 0.5), outputs)
        layers += [torch.nn.Linear(width, wide), torch.nn.ReLU()]
        width = wide
    model = torch.nn.Sequential(*layers, torch.nn.Linear(width, outputs)).to("cuda")
    model(torch.rand(2, 1, inputs).cuda())
    whole, rest = divmod(SAMPLES, batch)
    _train(model, [(n, inputs) for n in (*[batch] * min(whole, 2), rest) if n], outputs)
    return peaks()


def network(name: str, side: int, batch: int) -> Measurement:
    import torch

    from hfgpu_magic.virtual import state

    from . import _networks

    model: torch.nn.Module = getattr(_networks, name)().to("cuda")
    model(torch.rand(2, 3, side, side).cuda())
    _train(model, [(batch, 3, side, side)] * 3, 1000)
    model.eval()
    with torch.no_grad():
        for _ in range(2):
            x, y = torch.rand(batch, 3, side, side).cuda(), torch.zeros(batch, dtype=torch.int64).cuda()
            outputs = model(x)
            torch.nn.functional.cross_entropy(outputs, y).item()
            torch.max(outputs.data, 1)
    found = peaks()
    device = state.current()
    spread = device.gpu.context_high - device.gpu.context
    high = found.device + device.libraries.convolution_bound + spread
    return dataclasses.replace(found, device_high=round(high))


def _train(model: torch.nn.Module, batches: list[tuple[int, ...]], classes: int) -> None:
    import torch

    loss_of = torch.nn.CrossEntropyLoss() if classes > 1 else torch.nn.BCEWithLogitsLoss()
    optimizer = torch.optim.Adam(model.parameters())
    model.train()
    for shape in (*batches, *batches):
        x = torch.rand(shape).cuda()
        y = (torch.zeros(shape[0], dtype=torch.int64) if classes > 1 else torch.zeros(shape[0], 1)).cuda()
        optimizer.zero_grad()
        outputs = model(x)
        loss = loss_of(outputs, y)
        loss.backward()
        optimizer.step()
        loss.item()
