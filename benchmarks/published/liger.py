"""Operator benchmarks of linkedin/Liger-Kernel, the "huggingface" side: plain PyTorch and transformers.

Facts (benchmark/scripts/benchmark_*.py at the tags the rows name): a benchmark calls the operation ten
times, resetting the peak before each call, and reports the median of `max_memory_allocated`; gradients
accumulate from call to call; `retain_graph=True` in the backward of all but cross_entropy and
fused_linear_cross_entropy.
layer_norm and rms_norm have both implementations' modules on the card (two sets of weights),
fused_linear_cross_entropy has two language-model heads.  The script measures speed before memory and goes
through the modes "forward", "backward", "full" in one process, so the libraries of both threads are warm
when a row is measured: a "forward" row carries the backward thread's cuBLAS workspace too.

torch is not stated: the rows of September 2024 (liger 0.2.1) were made with the release of that time, 2.4;
those of November 2025 (0.6.3) with 2.9, those of February 2026 (0.7.0) with 2.10.

Not rebuilt: the embedding rows, whose process held 12-14 GiB of earlier tensors.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING, Any

from . import Measurement, MiB, Row, peaks

if TYPE_CHECKING:
    import torch

_CALLS = 10


def _median(call: Callable[[], Any]) -> Measurement:
    import torch

    found = []
    for _ in range(_CALLS):
        torch.cuda.reset_peak_memory_stats()
        call()
        found.append(peaks())
    return sorted(found, key=lambda m: m.allocated)[_CALLS // 2]


def _cross_entropy(vocabulary: int) -> Measurement:
    import torch

    logits = torch.randn(8 * 2048, vocabulary, requires_grad=True, device="cuda")
    target = torch.randint(vocabulary, (8 * 2048, 1), dtype=torch.long, device="cuda").squeeze(1)
    loss = torch.nn.CrossEntropyLoss()
    return _median(lambda: loss(logits, target).backward())


def _mlp(mode: str, batch: int, tokens: int, hidden: int, intermediate: int, activation: str) -> Measurement:
    import torch
    from transformers import LlamaConfig
    from transformers.models.llama.modeling_llama import LlamaMLP

    config = LlamaConfig(hidden_size=hidden, intermediate_size=intermediate, hidden_act=activation)
    x = torch.randn(batch, tokens, hidden, device="cuda", dtype=torch.bfloat16, requires_grad=True)
    layer: torch.nn.Module = LlamaMLP(config)
    layer.to("cuda").to(torch.bfloat16)

    def full() -> None:
        y = layer(x)
        y.backward(torch.randn_like(y), retain_graph=True)

    if mode == "full":
        return _median(full)
    full()  # the earlier modes of the same process
    layer.zero_grad(set_to_none=True)
    x.grad = None
    return _median(lambda: layer(x))


def _norm(make: Callable[[], torch.nn.Module], rows: int, columns: int, dtype: torch.dtype) -> Measurement:
    import torch

    x = torch.randn(rows, columns, dtype=dtype, device="cuda")
    dy = torch.randn_like(x)
    x.requires_grad_(True)
    measured, _other = make().to("cuda"), make().to("cuda")

    def full() -> None:
        y = measured(x)
        y.backward(dy, retain_graph=True)

    return _median(full)


def _layer_norm(columns: int) -> Measurement:
    import torch

    return _norm(lambda: torch.nn.LayerNorm(columns, eps=1e-6), 4096, columns, torch.float32)


def _rms_norm(columns: int) -> Measurement:
    """LlamaRMSNorm of 2024: upcast, normalise, downcast, times an fp32 weight."""
    import torch

    class RMSNorm(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.ones(columns))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            dtype = x.dtype
            x = x.to(torch.float32)
            variance = x.pow(2).mean(-1, keepdim=True)
            x = x * torch.rsqrt(variance + 1e-6)
            return self.weight * x.to(dtype)

    return _norm(RMSNorm, 2048, columns, torch.bfloat16)


def _fused_linear_cross_entropy(tokens: int) -> Measurement:
    import torch

    hidden, vocabulary = 4096, 128256

    def head() -> torch.nn.Linear:
        return torch.nn.Linear(hidden, vocabulary, bias=False, dtype=torch.bfloat16).to("cuda")

    measured, _other = head(), head()
    x = torch.randn(tokens, hidden, requires_grad=True, dtype=torch.bfloat16, device="cuda")
    target = torch.randint(vocabulary, (tokens, 1), dtype=torch.long, device="cuda").squeeze(1)
    loss = torch.nn.CrossEntropyLoss()
    return _median(lambda: loss(measured(x), target).backward())


def _kl_div(vocabulary: int) -> Measurement:
    """torch.nn.KLDivLoss(reduction="batchmean") on log-probabilities that still belong to the graph."""
    import torch

    logits = torch.randn(8 * 2048, vocabulary, requires_grad=True, device="cuda")
    predicted = logits.log_softmax(dim=-1)
    target = torch.randn(8 * 2048, vocabulary, device="cuda").softmax(dim=-1)
    loss = torch.nn.KLDivLoss(reduction="batchmean")
    return _median(lambda: loss(predicted, target).backward(retain_graph=True))


def _group_norm(channels: int) -> Measurement:
    import torch

    x = torch.randn(128, channels, 512, dtype=torch.float32, device="cuda", requires_grad=True)
    layers = [torch.nn.GroupNorm(channels // 4, channels, eps=1e-6).to("cuda") for _ in range(2)]
    dy = torch.randn_like(x)

    def full() -> None:
        y = layers[0](x)
        y.backward(dy, retain_graph=True)

    return _median(full)


#: Card and PyTorch of the rows, by the end of their names.
_MACHINES = {
    "a100": ("A100 SXM4 80GB", "2.4"),
    "pcie": ("H100 PCIe", "2.4"),
    "4090": ("RTX 4090", "2.9"),
    "b200": ("B200", "2.10"),
}


def _row(name: str, build: Callable[[], Measurement]) -> Row:
    gpu, version = _MACHINES[name.rpartition("-")[2]]
    return Row(id=f"liger-{name}", gpu=gpu, metric="allocated", build=build, unit=MiB, torch=version)


def rows() -> Iterable[Row]:
    gelu = "gelu_pytorch_tanh"
    for v in (4096, 8192, 16384, 32768, 65536, 131072):
        yield _row(f"cross_entropy-full-V{v}-a100", partial(_cross_entropy, v))
    for t in (1024, 2048, 4096, 8192):
        yield _row(f"swiglu-full-T{t}-a100", partial(_mlp, "full", 4, t, 4096, 11008, "silu"))
        yield _row(f"geglu-full-T{t}-a100", partial(_mlp, "full", 8, t, 4096, 11008, gelu))
    for t in (1024, 8192):
        yield _row(f"geglu-forward-T{t}-a100", partial(_mlp, "forward", 8, t, 4096, 11008, gelu))
    for t in (1024, 4096, 16384):
        yield _row(f"tiled_swiglu-full-T{t}-4090", partial(_mlp, "full", 2, t, 2048, 4096, "silu"))
        yield _row(f"tiled_geglu-forward-T{t}-4090", partial(_mlp, "forward", 2, t, 2048, 4096, gelu))
    for n in (1024, 8192, 16384):
        yield _row(f"layer_norm-full-N{n}-a100", partial(_layer_norm, n))
    for h in (1024, 8192, 32768):
        yield _row(f"rms_norm-full-H{h}-a100", partial(_rms_norm, h))
    for bt in (4096, 8192, 16384, 32768):
        name = f"fused_linear_cross_entropy-full-BT{bt}-a100"
        yield _row(name, partial(_fused_linear_cross_entropy, bt))
    for v in (4096, 32768, 131072):
        yield _row(f"kl_div-full-V{v}-pcie", partial(_kl_div, v))
    for c in (32, 512, 2048):
        yield _row(f"group_norm-full-C{c}-b200", partial(_group_norm, c))
