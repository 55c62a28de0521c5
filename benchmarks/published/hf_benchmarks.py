"""huggingface/transformers: docs benchmarks.rst (TITAN RTX, NVML) and the first figures of pull request 4850.

transformers 2.11, torch 1.4, one forward pass in a process of its own (`PyTorchBenchmark`): `eval()` mode
under `torch.no_grad()`, random token ids made on the card, nothing else passed, so the model makes its own
mask (`_bert`).  PyTorch 1.4 had no cuBLAS workspace in its allocator.

benchmarks.rst reads the card's use from NVML and does not state the context's size on its own.  The pull
request's figures lie far below it: 274 MB for DistilBERT's 253 MiB of weights, so they exclude the context;
what was read (the allocator, or two readings of NVML) is not stated, reserved is taken.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from . import Measurement, MiB, Row, peaks

BATCH = 8
CONFIGS: dict[str, dict[str, int]] = {
    "bert-base-uncased": {},
    "bert-base": {},
    "bert-384-hid": {"width": 384},
    "bert-6-lay": {"layers": 6},
}
LENGTHS = (8, 32, 128, 512)
#: On the page twice with different figures (1227 and 1277 MB for one model): one is a slip.
DOUBTFUL = {("bert-base-uncased", 8), ("bert-base", 8)}


def rows() -> Iterator[Row]:
    for name, config in CONFIGS.items():
        for tokens in LENGTHS:
            if (name, tokens) not in DOUBTFUL:
                yield Row(
                    f"hfdoc-bench-{name}-s{tokens}", "TITAN RTX", "device", unit=MiB, torch="1.4",
                    build=partial(forward, config, tokens),
                )  # fmt: skip
    for tokens in LENGTHS:
        yield Row(
            f"hfpr4850-distilbert-base-uncased-s{tokens}", "TITAN RTX", "reserved", unit=MiB, torch="1.4",
            build=partial(forward, {"layers": 6, "token_types": 0}, tokens),
        )  # fmt: skip
        yield Row(
            f"hfpr4850-bert-base-cased-s{tokens}", "TITAN RTX", "reserved", unit=MiB, torch="1.4",
            build=partial(forward, {"vocabulary": 28996}, tokens),
        )  # fmt: skip


def forward(config: dict[str, int], tokens: int) -> Measurement:
    import torch

    from . import _bert

    model = _bert.Bert(_bert.Shape(**config)).eval().to("cuda")  # type: ignore[arg-type]
    ids = torch.randint(0, 1000, (BATCH, tokens), device="cuda")
    with torch.no_grad():
        model(ids)
    return peaks()
