"""Architecture presets: every one loads, builds, and has exactly the published number of parameters."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from hfgpu_magic.errors import UsageError
from hfgpu_magic.presets import FOLDER, Preset, find_preset, preset_config_path, presets


def test_at_least_forty_of_many_kinds() -> None:
    assert len(presets()) >= 40
    assert {p.kind for p in presets()} == {
        "decoder", "moe decoder", "encoder", "encoder-decoder", "speech", "vision", "vision-language",
    }  # fmt: skip


def test_table_and_folders_agree() -> None:
    assert {p.name for p in presets()} == {f.parent.name for f in FOLDER.glob("*/config.json")}
    assert len({p.name for p in presets()}) == len(presets())
    assert all(p.source for p in presets())


def test_every_name_finds_its_own_preset() -> None:
    for preset in presets():
        for name in (preset.name, preset.hub_id, *preset.aliases):
            assert find_preset(name) is preset, name
            assert find_preset(name.upper()) is preset, name


@pytest.mark.parametrize(
    ("asked", "name"),
    [
        ("llama 3.1 8b", "llama-3.1-8b"),
        ("meta-llama/Llama-3.1-8B", "llama-3.1-8b"),
        ("Llama-3.1-8B-Instruct", "llama-3.1-8b"),
        ("NousResearch/Llama-2-7b-hf", "llama-2-7b"),
        ("unsloth/Qwen2.5-7B-Instruct", "qwen2.5-7b"),
        ("Qwen2.5-0.5B", "qwen2.5-0.5b"),
        ("gpt2", "gpt2"),
        ("bert-base-uncased", "bert-base"),
        ("mistralai/Mistral-7B-v0.1", "mistral-7b"),
        ("mistral 7b", "mistral-7b"),
        ("TinyLlama", "tinyllama-1.1b"),
    ],
)
def test_forgiving_names(asked: str, name: str) -> None:
    found = find_preset(asked)
    assert found is not None
    assert found.name == name
    assert preset_config_path(asked) == found.folder / "config.json"


@pytest.mark.parametrize(
    "asked",
    ["", ".", "./gpt2", "../gpt2", "/models/gpt2", "models/gpt2", "C:\\models\\gpt2", "somebody/Llama-3.1-8B",
     "llama", "gpt2-tuned", "Llama-3.1-80B", "unsloth/x/gpt2"],
)  # fmt: skip
def test_no_guessing(asked: str) -> None:
    assert find_preset(asked) is None
    with pytest.raises(UsageError, match=r"There are: llama-2-7b, "):
        preset_config_path(asked)


def test_reading_presets_imports_nothing_heavy() -> None:
    code = (
        "import sys; from hfgpu_magic.presets import find_preset; find_preset('gpt2');"
        "print(sorted({'torch', 'transformers', 'numpy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("preset", presets(), ids=lambda p: p.name)
def test_has_the_published_number_of_parameters(preset: Preset) -> None:
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    config = transformers.AutoConfig.from_pretrained(preset.folder)
    cls = getattr(transformers, preset.counted_as or config.architectures[0])
    with torch.device("meta"):
        model = cls(config)
    assert sum(p.numel() for p in model.parameters()) == preset.params


# Keys of published configs that transformers 5 reads under another name, by attribute, or no longer at all.
PUBLISHED = {
    "torch_dtype", "rope_theta", "rope_scaling", "rope_local_base_freq", "global_rope_theta",
    "local_rope_theta", "rotary_emb_base", "rotary_pct", "partial_rotary_factor",
    "sliding_window_pattern", "max_window_layers", "global_attn_every_n_layers", "head_dim", "hidden_act",
    "attention_bias", "activation_dropout", "n_ctx", "n_positions", "initial_context_length",
    "experts_per_token", "tie_weights_", "position_buckets", "norm_rel_ebd", "share_att_key",
    "decoder_start_token_id", "num_labels",
}  # fmt: skip


@pytest.mark.parametrize("preset", presets(), ids=lambda p: p.name)
def test_config_says_nothing_that_transformers_does_not_know(preset: Preset) -> None:
    transformers = pytest.importorskip("transformers")
    written = json.loads(preset.config_path.read_text(encoding="utf-8"))
    config = transformers.AutoConfig.from_pretrained(preset.folder)
    assert config.model_type == written["model_type"]
    # A misspelt size would be carried along as an unknown attribute and the default used instead.
    known = {*type(config)().to_dict(), *config.attribute_map, *PUBLISHED}
    assert {k for k in written if k not in known} == set()


def test_sizes_follow_from_the_folder_not_the_package_path(tmp_path: Path) -> None:
    # The folder is a plain model folder: copied elsewhere it says the same.
    transformers = pytest.importorskip("transformers")
    preset = find_preset("llama-3.2-1b")
    assert preset is not None
    (tmp_path / "config.json").write_bytes(preset.config_path.read_bytes())
    config = transformers.AutoConfig.from_pretrained(tmp_path)
    assert (config.hidden_size, config.num_hidden_layers, config.vocab_size) == (2048, 16, 128256)
    assert config.rope_parameters["factor"] == 32.0
