"""huggingface/transformers, docs perf_train_gpu_one.mdx: BERT-large under the Trainer, V100, January 2022.

The page reads the whole card's use from NVML and starts with the figure of an empty context, 1343 MB
(`torch.ones((1, 1)).to("cuda")`): 2 MiB of that are the small tensor's segment.  nvidia-smi beside it says
driver 460, CUDA 11.2, in January 2022, so PyTorch 1.10 (`_bert` says how softmax differed).  What else
differed in the Trainer of transformers 4.15:

* `zero_grad()` filled gradients with zeros and kept them, so they are alive in every later forward;
* AdamW was transformers' own, parameter by parameter; Adafactor too (no momentum, factored second moment);
* fp16 is torch.cuda.amp; activation checkpointing was the reentrant kind; dummy data of 512 tokens, batches
  of input_ids and labels only;
* cuBLAS's workspaces were not in PyTorch's allocator.

The page does not state the version of PyTorch.  The run in fp16 without checkpointing needs 3 % more than is
found here, in proportion to the layers: what autocast of that time kept besides is not known.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

from . import Measurement, MiB, Row, peaks

if TYPE_CHECKING:
    import torch

CONTEXT = (1343 - 2) * MiB
CONTEXT_SOURCE = "same page: 1343 MB after torch.ones((1, 1)).to('cuda'), whose segment is 2 MiB"
STEPS = 3

RUNS: dict[str, dict[str, Any]] = {
    "vanilla-bs4": {"batch": 4},
    "bs1-ga4": {"batch": 1, "accumulate": 4},
    "bs1-ga4-gc": {"batch": 1, "accumulate": 4, "checkpointing": True},
    "bs4-fp16": {"batch": 4, "fp16": True},
    "bs1-ga4-gc-fp16": {"batch": 1, "accumulate": 4, "checkpointing": True, "fp16": True},
    "bs4-adafactor": {"batch": 4, "adafactor": True},
    "bs1-ga4-gc-fp16-adafactor": {
        "batch": 1, "accumulate": 4, "checkpointing": True, "fp16": True, "adafactor": True,
    },
}  # fmt: skip


def rows() -> Iterator[Row]:
    yield _row("load", load)
    for name, settings in RUNS.items():
        yield _row(name, partial(train, **settings))


def _row(name: str, build: Any) -> Row:
    return Row(
        f"hfdoc-bertL-{name}", "V100 16GB", "device", unit=MiB, torch="1.10", build=build,
        context=CONTEXT, context_source=CONTEXT_SOURCE,
        missing="autocast of 1.10" if name == "bs4-fp16" else "",
    )  # fmt: skip


def _model(*, checkpointing: bool = False) -> torch.nn.Module:
    from . import _bert

    shape = _bert.Shape(24, 1024, 16, 4096, saves_softmax_input=True)
    return _bert.Classifier(shape, checkpointing=checkpointing).to("cuda")


def load() -> Measurement:
    model = _model()
    result = peaks()
    del model
    return result


def train(
    *,
    batch: int,
    accumulate: int = 1,
    checkpointing: bool = False,
    fp16: bool = False,
    adafactor: bool = False,
) -> Measurement:
    import contextlib

    import torch

    torch.ones((1, 1)).to("cuda")
    model = _model(checkpointing=checkpointing).train()
    parameters = list(model.parameters())
    states: dict[Any, Any] = {}
    scaler = torch.amp.GradScaler("cuda", enabled=fp16)
    optimizer = torch.optim.SGD(parameters)  # only for the scaler's unscale_
    for _ in range(STEPS):
        for _ in range(accumulate):
            ids = torch.zeros((batch, 512), dtype=torch.int64).cuda()
            labels = torch.zeros((batch,), dtype=torch.int64).cuda()
            with torch.autocast("cuda", torch.float16) if fp16 else contextlib.nullcontext():
                loss = model(ids, labels)
            if accumulate > 1:
                loss = loss / accumulate
            scaler.scale(loss).backward()
            loss = loss.detach()
        if fp16:
            scaler.unscale_(optimizer)
        torch.nn.utils.clip_grad_norm_(parameters, 1.0, foreach=False)
        with torch.no_grad():
            for p in parameters:
                if p.grad is not None:
                    (_adafactor if adafactor else _adamw)(p, p.grad, states)
        scaler.update() if fp16 else None
        for p in parameters:
            if p.grad is not None:
                p.grad.zero_()
    return peaks()


def _adamw(p: torch.Tensor, grad: torch.Tensor, states: dict[Any, Any]) -> None:
    """transformers.optimization.AdamW."""
    import torch

    if p not in states:
        states[p] = torch.zeros_like(p), torch.zeros_like(p)
    average, square = states[p]
    average.mul_(0.9).add_(grad, alpha=0.1)
    square.mul_(0.999).addcmul_(grad, grad, value=0.001)
    denominator = square.sqrt().add_(1e-8)
    p.addcdiv_(average, denominator, value=-1e-3)


def _adafactor(p: torch.Tensor, grad: torch.Tensor, states: dict[Any, Any]) -> None:
    """transformers.optimization.Adafactor without momentum."""
    import torch

    factored = grad.dim() >= 2
    if p not in states:
        states[p] = (
            [torch.zeros(grad.shape[:-1]).to(grad), torch.zeros(grad.shape[:-2] + grad.shape[-1:]).to(grad)]
            if factored
            else [torch.zeros_like(grad)]
        )
    update = (grad**2) + 1e-30
    if factored:
        row, column = states[p]
        row.mul_(0.9).add_(update.mean(dim=-1), alpha=0.1)
        column.mul_(0.9).add_(update.mean(dim=-2), alpha=0.1)
        r = (row / row.mean(dim=-1, keepdim=True)).rsqrt_().unsqueeze(-1)
        update = torch.mul(r, column.unsqueeze(-2).rsqrt())
        update.mul_(grad)
    else:
        (square,) = states[p]
        square.mul_(0.9).add_(update, alpha=0.1)
        update = square.rsqrt().mul_(grad)
    update.div_((update.norm(2) / (update.numel() ** 0.5)).clamp_(min=1.0))
    update.mul_(1e-3)
    p.add_(-update)
