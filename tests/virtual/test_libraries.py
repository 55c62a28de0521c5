"""Trainer, accelerate, PEFT, bitsandbytes and DataLoader, used as their manuals say, on a virtual card."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from hfgpu_magic.virtual import VirtualGPU

transformers = pytest.importorskip("transformers")
transformers.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()

VOCAB = 128

pytestmark = pytest.mark.filterwarnings("ignore")  # what these libraries warn about is theirs


def _config(hidden: int = 64) -> Any:
    return transformers.LlamaConfig(
        num_hidden_layers=2, hidden_size=hidden, intermediate_size=2 * hidden, num_attention_heads=4,
        num_key_value_heads=2, vocab_size=VOCAB, max_position_embeddings=64,
    )  # fmt: skip


def _llama(dtype: torch.dtype = torch.bfloat16) -> Any:
    return transformers.AutoModelForCausalLM.from_config(_config(), dtype=dtype)


class _Sentences(torch.utils.data.Dataset[dict[str, list[int]]]):
    def __len__(self) -> int:
        return 8

    def __getitem__(self, i: int) -> dict[str, list[int]]:
        return {"input_ids": [1] * 16, "labels": [1] * 16}


def _trainer(model: Any, folder: Path, **settings: Any) -> Any:
    arguments = transformers.TrainingArguments(
        output_dir=str(folder), per_device_train_batch_size=2, report_to=[], disable_tqdm=True,
        logging_steps=1, **{"max_steps": 2, "save_strategy": "no"} | settings,
    )  # fmt: skip
    return transformers.Trainer(model, arguments, train_dataset=_Sentences(), eval_dataset=_Sentences())


def test_trainer_lora_bf16_with_checkpointing_saves_a_checkpoint(tmp_path: Path, a100: VirtualGPU) -> None:
    peft = pytest.importorskip("peft")
    model = peft.get_peft_model(_llama(), peft.LoraConfig(r=4, target_modules="all-linear"))
    trainer = _trainer(
        model, tmp_path, bf16=True, gradient_checkpointing=True, save_strategy="steps", save_steps=2
    )
    assert trainer.args.device == torch.device("cuda", 0)
    trainer.train()
    saved = {p.name for p in (tmp_path / "checkpoint-2").iterdir()}
    assert {"adapter_model.safetensors", "optimizer.pt", "scheduler.pt", "trainer_state.json"} <= saved
    # Only the adapters are trained, so only they have gradients and optimizer state.
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    sizes = a100.report.by_category_at_peak
    assert sizes["optimizer"] < sizes["parameters"]
    assert sizes["optimizer"] >= 2 * 4 * trainable


def test_trainer_fp16_trains_and_evaluates(tmp_path: Path, t4: VirtualGPU) -> None:
    trainer = _trainer(_llama(torch.float32), tmp_path, fp16=True)
    trainer.train()
    assert "eval_loss" in trainer.evaluate()
    assert trainer.state.global_step == 2


def test_trainer_resumes_from_its_checkpoint(tmp_path: Path, a100: VirtualGPU) -> None:
    _trainer(_llama(), tmp_path, bf16=True, save_strategy="steps", save_steps=1, max_steps=1).train()
    resumed = _trainer(_llama(), tmp_path, bf16=True, max_steps=2)
    resumed.train(resume_from_checkpoint=True)
    assert resumed.state.global_step == 2


@pytest.mark.parametrize("precision", ["no", "fp16", "bf16"])
def test_accelerator_prepares_and_trains(precision: str, a100: VirtualGPU) -> None:
    accelerate = pytest.importorskip("accelerate")
    accelerate.state.AcceleratorState._reset_state(reset_partial_state=True)
    accelerator = accelerate.Accelerator(mixed_precision=precision)
    model = nn.Linear(8, 8)
    optimizer = torch.optim.AdamW(model.parameters())
    data = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.randn(8, 8)), batch_size=4)
    model, optimizer, data = accelerator.prepare(model, optimizer, data)
    assert accelerator.device.type == "cuda"
    steps = 0
    for (x,) in data:
        assert x.is_cuda
        loss = model(x).float().square().mean()
        accelerator.backward(loss)
        accelerator.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        steps += 1
    assert steps == 2
    accelerate.state.AcceleratorState._reset_state(reset_partial_state=True)


def test_trainer_works_on_the_host_again_afterwards(tmp_path: Path) -> None:
    """Libraries remember the device they saw first; what they learnt in a run is wrong after it."""
    with VirtualGPU("T4"):
        _trainer(_llama(torch.float32), tmp_path, max_steps=1).train()
    trainer = _trainer(_llama(torch.float32), tmp_path, max_steps=1)
    assert trainer.args.device == torch.device("cpu")
    trainer.train()


@pytest.mark.parametrize("workers", [0, 1])
def test_dataloader_pins_and_copies_without_blocking(workers: int, t4: VirtualGPU) -> None:
    data = torch.utils.data.TensorDataset(torch.arange(8.0).view(8, 1))
    seen = []
    for (x,) in torch.utils.data.DataLoader(data, batch_size=4, num_workers=workers, pin_memory=True):
        assert x.is_pinned()
        seen += x.to("cuda", non_blocking=True).cpu().flatten().tolist()
    assert seen == list(range(8))


class TestBitsandbytes:
    @pytest.fixture(autouse=True)
    def _library(self, a100: VirtualGPU) -> None:
        self.bnb = pytest.importorskip("bitsandbytes")

    def test_linear4bit_is_quantized_on_the_way_to_the_card(self) -> None:
        layer = self.bnb.nn.Linear4bit(
            256, 256, bias=False, compute_dtype=torch.bfloat16, quant_type="nf4"
        ).to("cuda")
        assert type(layer.weight).__name__ == "Params4bit"
        assert layer.weight.dtype is torch.uint8
        assert layer.weight.numel() == 256 * 256 // 2
        x = torch.randn(4, 256, device="cuda", dtype=torch.bfloat16, requires_grad=True)
        layer(x).sum().backward()
        assert x.grad is not None
        assert x.grad.shape == x.shape
        # 4 bits a weight and one fp32 scale per 64 weights (blocksize), plus the code table of 16 floats.
        held = layer.weight.quant_state
        assert held.absmax.numel() == 256 * 256 // 64

    def test_linear8bit_forward_and_backward(self) -> None:
        layer = self.bnb.nn.Linear8bitLt(256, 256, has_fp16_weights=False, threshold=6.0).to("cuda")
        x = torch.randn(4, 256, device="cuda", dtype=torch.float16, requires_grad=True)
        layer(x).sum().backward()
        assert layer.weight.dtype is torch.int8
        assert x.grad is not None

    @pytest.mark.parametrize("name", ["AdamW8bit", "PagedAdamW8bit", "Adam", "Lion8bit"])
    def test_optimizers_step(self, name: str) -> None:
        model = nn.Linear(512, 512, bias=False).cuda()
        optimizer = getattr(self.bnb.optim, name)(model.parameters())
        before = torch.cuda.memory_allocated()
        for _ in range(2):
            model(torch.ones(2, 512, device="cuda")).sum().backward()
            optimizer.step()
            optimizer.zero_grad()
        grown = torch.cuda.memory_allocated() - before
        per_weight = {"AdamW8bit": 2, "PagedAdamW8bit": 0, "Adam": 8, "Lion8bit": 1}[name]
        state = per_weight * 512 * 512
        # Beside the states: their block-wise scales and code tables, and cuBLAS' workspace.
        workspace = (4096 * 2 + 16 * 8) * 1024
        assert state <= grown - 2 * workspace <= 1.1 * state + (1 << 16)

    def test_from_pretrained_quantizes_a_folder_with_only_a_config(self, tmp_path: Path) -> None:
        _config(256).save_pretrained(tmp_path)
        config = transformers.BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=torch.bfloat16,
        )  # fmt: skip
        model = transformers.AutoModelForCausalLM.from_pretrained(
            tmp_path, quantization_config=config, device_map={"": 0}, dtype=torch.bfloat16
        )
        weight = model.model.layers[0].mlp.up_proj.weight
        assert (type(weight).__name__, weight.dtype, weight.device) == (
            "Params4bit",
            torch.uint8,
            torch.device("cuda", 0),
        )

    def test_qlora_trains(self, tmp_path: Path) -> None:
        peft = pytest.importorskip("peft")
        _config(256).save_pretrained(tmp_path)
        model = transformers.AutoModelForCausalLM.from_pretrained(
            tmp_path,
            quantization_config=transformers.BitsAndBytesConfig(load_in_4bit=True),
            device_map="auto",
        )
        model = peft.get_peft_model(
            peft.prepare_model_for_kbit_training(model), peft.LoraConfig(r=4, target_modules="all-linear")
        )
        trainer = _trainer(model, tmp_path / "out", bf16=True, optim="paged_adamw_8bit")
        trainer.train()
        assert trainer.state.global_step == 2


SAVED: dict[str, Callable[[], Any]] = {
    "tensor": lambda: torch.arange(4.0, device="cuda"),
    "state dict": lambda: nn.Linear(2, 2).cuda().state_dict(),
    "optimizer": lambda: _stepped().state_dict(),
}


def _stepped() -> torch.optim.Optimizer:
    model = nn.Linear(2, 2).cuda()
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.ones(1, 2, device="cuda")).sum().backward()
    optimizer.step()
    return optimizer


def _tensors(x: Any) -> list[torch.Tensor]:
    if isinstance(x, torch.Tensor):
        return [x]
    values = x.values() if isinstance(x, dict) else x if isinstance(x, (list, tuple)) else ()
    return [t for y in values for t in _tensors(y)]


@pytest.mark.parametrize("what", SAVED)
@pytest.mark.parametrize(
    "location", [None, "cuda", "cuda:0", torch.device("cuda"), "cpu", {"cuda:0": "cpu"}], ids=str
)
def test_torch_save_and_load(what: str, location: Any, tmp_path: Path, t4: VirtualGPU) -> None:
    data = SAVED[what]()
    torch.save(data, tmp_path / "saved.pt")
    loaded = torch.load(tmp_path / "saved.pt", map_location=location)
    old, new = _tensors(data), _tensors(loaded)
    on_host = location == "cpu" or isinstance(location, dict)
    assert [(t.shape, t.dtype) for t in new] == [(t.shape, t.dtype) for t in old]
    assert {n.device.type for n, o in zip(new, old, strict=True) if o.is_cuda} == {
        "cpu" if on_host else "cuda"
    }


def test_small_values_survive_save_and_load(tmp_path: Path, t4: VirtualGPU) -> None:
    torch.save(torch.arange(4.0, device="cuda"), tmp_path / "saved.pt")
    assert torch.load(tmp_path / "saved.pt").tolist() == [0, 1, 2, 3]


def test_a_file_saved_on_a_virtual_card_loads_on_the_host_afterwards(tmp_path: Path) -> None:
    with VirtualGPU("T4"):
        torch.save(torch.arange(4, device="cuda"), tmp_path / "saved.pt")
    assert torch.load(tmp_path / "saved.pt", map_location="cpu").tolist() == [0, 1, 2, 3]


def test_safetensors_saves_and_loads(tmp_path: Path, t4: VirtualGPU) -> None:
    safetensors = pytest.importorskip("safetensors.torch")
    safetensors.save_file({"a": torch.ones(4, device="cuda")}, tmp_path / "a.safetensors")
    loaded = safetensors.load_file(tmp_path / "a.safetensors", device="cuda")
    assert loaded["a"].is_cuda


def test_quantizing_works_in_a_second_run() -> None:
    """bitsandbytes keeps code tables on the card in a module-level cache."""
    bnb = pytest.importorskip("bitsandbytes")
    for _ in range(2):
        with VirtualGPU("T4"):
            layer = bnb.nn.Linear4bit(256, 256, compress_statistics=True).to("cuda")
            layer(torch.ones(1, 256, device="cuda", dtype=torch.float16))
