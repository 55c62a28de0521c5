"""Ordinary models, as people write them for `cuda`, train and generate on a virtual card.

Where a CPU can tell the truth about shapes, it is asked: the same model runs there with data.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from hfgpu_magic.virtual import VirtualGPU

transformers = pytest.importorskip("transformers")
transformers.logging.set_verbosity_error()

VOCAB = 128
Model = nn.Module
Batch = dict[str, torch.Tensor]


def _gpt2() -> Model:
    return transformers.GPT2LMHeadModel(
        transformers.GPT2Config(n_layer=2, n_embd=32, n_head=4, vocab_size=VOCAB)
    )  # type: ignore[no-any-return]


def _llama(attention: str = "sdpa", dtype: torch.dtype = torch.float32) -> Model:
    config = transformers.LlamaConfig(
        num_hidden_layers=2, hidden_size=32, intermediate_size=64, num_attention_heads=4,
        num_key_value_heads=2, vocab_size=VOCAB,
    )  # fmt: skip
    return transformers.AutoModelForCausalLM.from_config(config, attn_implementation=attention, dtype=dtype)  # type: ignore[no-any-return]


def _bert() -> Model:
    return transformers.BertForSequenceClassification(  # type: ignore[no-any-return]
        transformers.BertConfig(
            hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64, vocab_size=VOCAB
        )
    )


def _t5() -> Model:
    return transformers.T5ForConditionalGeneration(  # type: ignore[no-any-return]
        transformers.T5Config(
            d_model=32, d_ff=64, num_layers=2, num_heads=4, d_kv=8, vocab_size=VOCAB, decoder_start_token_id=0
        )
    )


def _vit() -> Model:
    return transformers.ViTForImageClassification(  # type: ignore[no-any-return]
        transformers.ViTConfig(
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=4,
            intermediate_size=64,
            image_size=32,
            patch_size=8,
        )
    )


def _qwen3_moe() -> Model:
    return transformers.Qwen3MoeForCausalLM(  # type: ignore[no-any-return]
        transformers.Qwen3MoeConfig(
            hidden_size=32, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, head_dim=8,
            intermediate_size=64, moe_intermediate_size=16, num_experts=4, num_experts_per_tok=2,
            vocab_size=VOCAB,
        )
    )  # fmt: skip


class _Residual(nn.Module):
    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, after, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(after)
        self.conv2 = nn.Conv2d(after, after, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(after)
        self.skip = nn.Sequential(nn.Conv2d(before, after, 1, stride, bias=False), nn.BatchNorm2d(after))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = F.relu(self.norm1(self.conv1(x)), inplace=True)
        return F.relu(self.norm2(self.conv2(out)) + self.skip(x), inplace=True)


def _resnet() -> Model:
    return nn.Sequential(
        nn.Conv2d(3, 16, 7, 2, 3, bias=False), nn.BatchNorm2d(16), nn.ReLU(True), nn.MaxPool2d(3, 2, 1),
        _Residual(16, 16, 1), _Residual(16, 32, 2), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10),
    )  # fmt: skip


def _encoder() -> Model:
    return nn.TransformerEncoder(
        nn.TransformerEncoderLayer(32, 4, 64, batch_first=True), 2, enable_nested_tensor=False
    )


def _tokens(device: str) -> Batch:
    ids = torch.randint(0, VOCAB, (2, 16), device=device)
    return {"input_ids": ids, "labels": ids}


def _padded(device: str) -> Batch:
    ids = torch.randint(0, VOCAB, (2, 16))
    mask = torch.ones(2, 16, dtype=torch.long)
    mask[1, 10:] = 0
    return {
        "input_ids": ids.to(device), "attention_mask": mask.to(device),
        "labels": torch.zeros(2, dtype=torch.long, device=device),
    }  # fmt: skip


def _pixels(device: str) -> Batch:
    return {
        "pixel_values": torch.randn(2, 3, 32, 32).to(device),
        "labels": torch.zeros(2, dtype=torch.long, device=device),
    }


def _image(device: str) -> Batch:
    return {"input": torch.randn(2, 3, 32, 32, device=device)}


def _sequence(device: str) -> Batch:
    return {"src": torch.randn(2, 8, 32, device=device)}


ARCHITECTURES: dict[str, tuple[Callable[[], Model], Callable[[str], Batch]]] = {
    "gpt2": (_gpt2, _tokens),
    "llama sdpa": (_llama, _tokens),
    "llama eager": (lambda: _llama("eager"), _tokens),
    "bert padded": (_bert, _padded),
    "t5": (_t5, _tokens),
    "vit": (_vit, _pixels),
    "qwen3 moe": (_qwen3_moe, _tokens),
    "resnet": (_resnet, _image),
    "transformer encoder": (_encoder, _sequence),
}


def _run(model: Model, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    """Output (logits where there are any) and loss."""
    if "labels" in batch:
        out = model(**batch)
        return out.logits, out.loss
    out = model(*batch.values())
    return out, out.float().square().mean()


Layout = tuple[tuple[int, ...], tuple[int, ...], torch.dtype]


def _layout(t: torch.Tensor) -> Layout:
    return tuple(t.shape), tuple(t.stride()), t.dtype


def _layouts(name: str, device: str) -> dict[str, Layout]:
    build, batch = ARCHITECTURES[name]
    model = build().to(device).train()
    output, loss = _run(model, batch(device))
    loss.backward()
    found = {"output": _layout(output), "loss": _layout(loss)}
    for key, parameter in model.named_parameters():
        if parameter.grad is not None:
            found[f"{key}.grad"] = _layout(parameter.grad)
    return found


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_output_and_gradients_are_laid_out_as_on_a_real_device(name: str) -> None:
    truth = _layouts(name, "cpu")
    with VirtualGPU("A100 40GB"):
        assert _layouts(name, "cuda") == truth


OPTIMIZERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "AdamW": lambda p: torch.optim.AdamW(p, lr=1e-3),
    "AdamW foreach": lambda p: torch.optim.AdamW(p, foreach=True),
    "AdamW fused": lambda p: torch.optim.AdamW(p, fused=True),
    "AdamW loop": lambda p: torch.optim.AdamW(p, foreach=False),
    "Adam amsgrad": lambda p: torch.optim.Adam(p, amsgrad=True),
    "SGD": lambda p: torch.optim.SGD(p, lr=0.1),
    "SGD momentum fused": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, fused=True),
    "Adafactor": lambda p: torch.optim.Adafactor(p),
    "RMSprop": lambda p: torch.optim.RMSprop(p),
    "Adagrad": lambda p: torch.optim.Adagrad(p),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_an_optimizer_steps_and_settles(name: str, t4: VirtualGPU) -> None:
    """From the second step on a training loop holds the same memory: nothing leaks, nothing is made again."""
    model = nn.Sequential(nn.Linear(64, 64), nn.LayerNorm(64), nn.Linear(64, 8)).cuda()
    optimizer = OPTIMIZERS[name](model.parameters())
    held = []
    for _ in range(3):
        loss = model(torch.randn(4, 64, device="cuda")).square().mean()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        del loss
        held.append(torch.cuda.memory_allocated())
    assert held[1] == held[2]
    assert t4.report.outcome == "fits"


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_autocast_computes_in_the_lower_precision_and_keeps_fp32_weights(
    dtype: torch.dtype, a100: VirtualGPU
) -> None:
    model = _gpt2().cuda()
    with torch.autocast("cuda", dtype=dtype):
        output, loss = _run(model, _tokens("cuda"))
    loss.backward()
    assert output.dtype is dtype
    assert loss.dtype is torch.float32
    assert {p.grad.dtype for p in model.parameters() if p.grad is not None} == {torch.float32}


def test_autocast_casts_each_weight_once_per_block(a100: VirtualGPU) -> None:
    weight = nn.Linear(256, 256, bias=False).cuda()
    x = torch.randn(1, 256, device="cuda", dtype=torch.float16)
    with torch.autocast("cuda", dtype=torch.float16), torch.no_grad():
        pass
    with torch.autocast("cuda", dtype=torch.float16):
        weight(x)
        before = torch.cuda.memory_allocated()
        kept = weight(x)
        assert torch.cuda.memory_allocated() - before == 512  # the output; no second cast of 128 KiB
        del kept
    assert torch.cuda.memory_allocated() < before  # the cast goes with the block


def test_channels_last_stays_channels_last_under_autocast(t4: VirtualGPU) -> None:
    model = _resnet().to("cuda", memory_format=torch.channels_last)
    seen: list[torch.Tensor] = []
    model[4].register_forward_hook(lambda m, args, out: seen.append(out))  # type: ignore[index, operator]
    with torch.autocast("cuda", dtype=torch.float16):
        loss = F.cross_entropy(
            model(torch.randn(2, 3, 32, 32, device="cuda").to(memory_format=torch.channels_last)),
            torch.zeros(2, dtype=torch.long, device="cuda"),
        )
    loss.backward()
    assert seen[0].dtype is torch.float16
    assert seen[0].is_contiguous(memory_format=torch.channels_last)


class TestGradScaler:
    """The scale is a number on the card that steers the program, so it is computed for real."""

    def _step(self, scaler: torch.amp.GradScaler, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        with torch.autocast("cuda", dtype=torch.float16):
            loss = model(torch.randn(2, 8, device="cuda")).float().square().mean()
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()

    def test_it_keeps_its_initial_scale_until_the_growth_interval(self, t4: VirtualGPU) -> None:
        model = nn.Linear(8, 8).cuda()
        optimizer = torch.optim.AdamW(model.parameters())
        scaler = torch.amp.GradScaler("cuda", growth_interval=3)
        scales = []
        for _ in range(4):
            self._step(scaler, model, optimizer)
            scales.append(scaler.get_scale())
        assert scales == [65536.0, 65536.0, 131072.0, 131072.0]

    def test_an_overflow_skips_the_step_and_halves_the_scale(self, t4: VirtualGPU) -> None:
        weight = nn.Parameter(torch.ones(4, device="cuda"))
        optimizer = torch.optim.SGD([weight], lr=0.5)
        scaler = torch.amp.GradScaler("cuda")
        scaler.scale((weight * 2).sum()).backward()
        assert weight.grad is not None
        weight.grad.fill_(float("inf"))
        stepped = scaler.step(optimizer)
        scaler.update()
        assert stepped is None
        assert scaler.get_scale() == 32768.0
        assert torch.equal(weight.detach().cpu(), torch.ones(4))

    def test_without_an_overflow_the_step_is_taken(self, t4: VirtualGPU) -> None:
        weight = nn.Parameter(torch.ones(4, device="cuda"))
        optimizer = torch.optim.SGD([weight], lr=0.5)
        scaler = torch.amp.GradScaler("cuda")
        scaler.scale((weight * 2).sum()).backward()
        scaler.step(optimizer)
        scaler.update()
        assert torch.equal(weight.detach().cpu(), torch.zeros(4))  # 1 - 0.5 * 2


@pytest.mark.parametrize("reentrant", [True, False], ids=["reentrant", "non-reentrant"])
def test_activation_checkpointing_saves_memory_and_gives_all_gradients(reentrant: bool) -> None:
    from torch.utils.checkpoint import checkpoint

    def peak(recompute: bool) -> int:
        with VirtualGPU("T4") as gpu:
            blocks = nn.ModuleList(
                nn.Sequential(nn.Linear(128, 512), nn.GELU(), nn.Dropout(0.1), nn.Linear(512, 128))
                for _ in range(6)
            ).cuda()
            x = torch.randn(512, 128, device="cuda", requires_grad=True)
            for block in blocks:
                x = checkpoint(block, x, use_reentrant=reentrant) if recompute else block(x)
            x.sum().backward()
            assert all(p.grad is not None for p in blocks.parameters())
        return gpu.report.by_category_at_peak["activations"]

    assert peak(True) < 0.6 * peak(False)


@pytest.mark.parametrize("sample", [False, True], ids=["greedy", "sampling"])
def test_generate_runs_to_full_length(sample: bool, a100: VirtualGPU) -> None:
    model = _llama().cuda().eval()
    prompt = torch.randint(5, VOCAB, (2, 8), device="cuda")
    out = model.generate(  # type: ignore[operator]
        prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=6, do_sample=sample, pad_token_id=0
    )
    assert out.shape == (2, 14)


def test_generate_stops_early_when_the_host_says_so(a100: VirtualGPU) -> None:
    """A stopping rule that needs no data from the card is obeyed."""
    model = _llama().cuda().eval()
    prompt = torch.randint(5, VOCAB, (1, 8), device="cuda")
    stop = transformers.StoppingCriteriaList(
        [lambda ids, scores, **kw: torch.tensor([ids.shape[1] >= 10], device="cuda")]
    )
    out = model.generate(prompt, max_new_tokens=20, do_sample=False, stopping_criteria=stop, pad_token_id=0)  # type: ignore[operator]
    assert out.shape == (1, 10)


def test_the_prompt_can_be_read_back(a100: VirtualGPU) -> None:
    prompt = torch.randint(5, VOCAB, (2, 8))
    assert torch.equal(prompt.cuda().cpu(), prompt)
