"""`from_pretrained` on a virtual card: no weight is read or downloaded, the rest is the library's own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from hfgpu_magic.virtual import VirtualGPU

transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Any attempt to open a connection is a failure."""
    import socket

    def refuse(*args: Any, **kwargs: Any) -> None:
        raise AssertionError(f"a network connection was attempted: {args}")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()


def _config(**settings: Any) -> Any:
    return transformers.LlamaConfig(
        **{
            "num_hidden_layers": 2, "hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4,
            "num_key_value_heads": 2, "vocab_size": 128,
        } | settings
    )  # fmt: skip


def _bytes(model: Any) -> int:
    return sum(p.numel() * p.element_size() for p in model.parameters())


def test_a_folder_with_only_a_config_is_enough(tmp_path: Path, t4: VirtualGPU) -> None:
    _config().save_pretrained(tmp_path)
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float16).cuda()
    assert {p.dtype for p in model.parameters()} == {torch.float16}
    assert not model.training
    assert (
        _bytes(model)
        <= torch.cuda.memory_allocated()
        < _bytes(model) + 512 * len(list(model.parameters())) + 2048
    )
    assert any("no weights were read" in note for note in t4.report.notes)


@pytest.mark.parametrize("device_map", ["auto", "cuda", {"": 0}, {"": "cuda:0"}], ids=str)
def test_device_maps_put_it_on_the_card(device_map: Any, tmp_path: Path, t4: VirtualGPU) -> None:
    _config().save_pretrained(tmp_path)
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, device_map=device_map)
    assert {p.device for p in model.parameters()} == {torch.device("cuda", 0)}


def test_a_checkpoints_headers_decide_the_types(tmp_path: Path) -> None:
    saved = transformers.AutoModelForCausalLM.from_config(_config(), dtype=torch.bfloat16)
    saved.save_pretrained(tmp_path)
    with VirtualGPU("T4"):
        model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, dtype="auto")
        assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
        assert [p.shape for p in model.parameters()] == [p.shape for p in saved.parameters()]


def test_weights_of_a_checkpoint_are_not_read(tmp_path: Path) -> None:
    saved = transformers.AutoModelForCausalLM.from_config(_config())
    saved.save_pretrained(tmp_path)
    (weights,) = tmp_path.glob("*.safetensors")
    raw = weights.read_bytes()
    header = 8 + int.from_bytes(raw[:8], "little")
    weights.write_bytes(raw[:header])  # nothing but the header is left
    with VirtualGPU("T4"):
        model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path).cuda()
        assert _bytes(model) == _bytes(saved)


def test_tied_weights_are_held_once(tmp_path: Path, t4: VirtualGPU) -> None:
    transformers.GPT2Config(n_layer=1, n_embd=256, n_head=4, vocab_size=4096).save_pretrained(tmp_path)
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path).cuda()
    assert model.lm_head.weight is model.transformer.wte.weight
    embedding = 256 * 4096 * 4
    assert _bytes(model) <= torch.cuda.memory_allocated() < _bytes(model) + embedding / 10


def test_a_new_head_is_reported_as_any_other(tmp_path: Path, t4: VirtualGPU) -> None:
    """A base checkpoint loaded into a classifier: the head is missing and newly made, as always."""
    with_head = transformers.AutoModelForSequenceClassification
    transformers.BertModel(
        transformers.BertConfig(
            hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64, vocab_size=64
        )
    ).save_pretrained(tmp_path)
    model, info = with_head.from_pretrained(tmp_path, num_labels=5, output_loading_info=True)
    assert model.classifier.weight.shape == (5, 32)
    assert {"classifier.weight", "classifier.bias"} <= set(info["missing_keys"])


def test_a_preset_name_needs_no_network(t4: VirtualGPU) -> None:
    model = transformers.AutoModelForCausalLM.from_pretrained("gpt2", dtype=torch.float16).cuda()
    assert sum(p.numel() for p in model.parameters()) == 124_439_808  # as published, tied head counted once
    assert model.config.name_or_path == "gpt2"


def test_a_seven_billion_parameter_preset_fits_where_it_should() -> None:
    with VirtualGPU("T4") as gpu:
        model = transformers.AutoModelForCausalLM.from_pretrained(
            "llama-2-7b", dtype=torch.float16, device_map="auto"
        )
        parameters = sum(p.numel() for p in model.parameters())
        assert parameters == 6_738_415_616
        assert {p.device.type for p in model.parameters()} == {"cuda"}
    assert 2 * parameters <= gpu.report.peak.allocated < 1.01 * 2 * parameters


def test_an_unknown_name_fails_as_the_library_fails(t4: VirtualGPU) -> None:
    with pytest.raises((OSError, AssertionError)):
        transformers.AutoModelForCausalLM.from_pretrained("nobody/such-a-model", local_files_only=True)


def test_the_loaders_are_restored(tmp_path: Path) -> None:
    before = transformers.PreTrainedModel.__dict__["from_pretrained"]
    with VirtualGPU("T4"):
        assert transformers.PreTrainedModel.__dict__["from_pretrained"] is not before
    assert transformers.PreTrainedModel.__dict__["from_pretrained"] is before
    transformers.AutoModelForCausalLM.from_config(_config()).save_pretrained(tmp_path)
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path)
    assert model.lm_head.weight.std() > 0  # real weights again


def test_saving_and_loading_again(tmp_path: Path, t4: VirtualGPU) -> None:
    _config().save_pretrained(tmp_path / "a")
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "a").cuda()
    model.save_pretrained(tmp_path / "b")
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "b").cuda()
    assert _bytes(again) == _bytes(model)
    assert json.loads((tmp_path / "b" / "config.json").read_text())["hidden_size"] == 64
