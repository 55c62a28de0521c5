"""Families of things people choose from: key-value caches, the Trainer's optimizers, peft's methods.

Where the host can do the same for real, the result has to have its shapes, and a peft step its storages.
"""

from __future__ import annotations

import copy
import sys
import warnings
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

from hfgpu_magic.virtual import VirtualGPU

sys.path.insert(0, str(Path(__file__).parents[2]))

transformers = pytest.importorskip("transformers")
transformers.logging.set_verbosity_error()

Layouts = list[dict[str, tuple[Any, ...]]]


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the libraries' own
        yield


def _model(**changes: Any) -> Any:
    torch.manual_seed(0)
    return transformers.LlamaForCausalLM(
        transformers.LlamaConfig(
            vocab_size=96, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
            num_key_value_heads=2, max_position_embeddings=64, eos_token_id=None, **changes,
        )
    )  # fmt: skip


# ---------------------------------------------------------------- caches of generate()

NEW_TOKENS = 10
_AXES = {"axis_key": 1, "axis_value": 1}
_QUANTIZED = {"nbits": 4, "q_group_size": 16, "residual_length": 4}
#: What `generate` is told, and the packages it needs.
CACHES: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "default": ({}, ()),
    "dynamic": ({"cache_implementation": "dynamic"}, ()),
    "static": ({"cache_implementation": "static"}, ()),
    "sliding_window": ({"cache_implementation": "sliding_window"}, ()),
    "hybrid": ({"cache_implementation": "hybrid"}, ()),
    "quantized by quanto": (
        {"cache_implementation": "quantized", "cache_config": {"backend": "quanto", **_QUANTIZED}},
        ("optimum.quanto",),
    ),
    "quantized by hqq": (
        {"cache_implementation": "quantized", "cache_config": {"backend": "hqq", **_AXES, **_QUANTIZED}},
        ("hqq", "termcolor"),
    ),
}  # fmt: skip
#: These need a card to have something to offload from: no real run here can stand beside them.
OFFLOADED = ("offloaded", "offloaded_static")


def _generate(device: str, options: dict[str, Any]) -> tuple[torch.Size, Layouts]:
    prompt = torch.arange(4, 12).view(1, 8).to(device)
    out = (
        _model()
        .to(device)
        .eval()
        .generate(
            prompt,
            max_new_tokens=NEW_TOKENS,
            do_sample=False,
            return_dict_in_generate=True,
            pad_token_id=0,
            **copy.deepcopy(options),
        )
    )
    layers = [
        {
            k: (tuple(v.shape), v.dtype, v.device.type)
            for k, v in vars(layer).items()
            if isinstance(v, torch.Tensor)
        }
        for layer in out.past_key_values.layers
    ]
    return out.sequences.shape, layers


def _installed(package: str) -> bool:
    try:
        return find_spec(package) is not None
    except ModuleNotFoundError:
        return False


@pytest.mark.parametrize("name", CACHES)
def test_a_cache_grows_as_on_a_real_device(name: str) -> None:
    options, packages = CACHES[name]
    missing = [p for p in packages if not _installed(p)]
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)}")
    length, real = _generate("cpu", options)
    with VirtualGPU("A100 80GB") as gpu:
        virtual_length, virtual = _generate("cuda", options)
    assert virtual_length == length == (1, 8 + NEW_TOKENS)
    on_host = [{k: (*v[:2], "cpu") for k, v in layer.items()} for layer in virtual]
    assert on_host == real
    assert all(v[2] == "cuda" for layer in virtual for v in layer.values())
    assert gpu.report.notes == ()


@pytest.mark.parametrize("name", OFFLOADED)
def test_an_offloaded_cache_waits_on_the_host(name: str) -> None:
    """While one layer computes, the next one's keys and values are fetched; the others are on the host."""
    with VirtualGPU("A100 80GB"):
        length, layers = _generate("cuda", {"cache_implementation": name})
    assert length == (1, 8 + NEW_TOKENS)
    assert layers[-1]["keys"][2] == "cpu"
    shapes = {layer["keys"][0] for layer in layers}
    assert shapes == {(1, 2, 8 + NEW_TOKENS - 1, 16)}


# ---------------------------------------------------------------- the Trainer's optimizers

OPTIMIZERS = [o.value for o in transformers.training_args.OptimizerNames]
#: Their states need a card (bitsandbytes, torchao, lomo): there is no real run here to compare with.
ONLY_ON_CARDS = ("bnb", "8bit", "4bit", "paged", "lion", "ademamix", "adalomo")
STEPS = 4


def _train(device: str, optimizer: str, folder: Path) -> tuple[dict[str, Any], list[int]]:
    """Optimizer states by parameter, and bytes on the card after each step."""
    held: list[int] = []

    class Watch(transformers.TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            if device == "cuda":
                held.append(torch.cuda.memory_allocated())

    model = _model()
    options: dict[str, Any] = {}
    if optimizer.startswith(("galore", "apollo")):
        options["optim_target_modules"] = [".*attn.*", ".*mlp.*"]
    rows = [{"input_ids": torch.arange(8), "labels": torch.arange(8)}] * 4
    trainer = transformers.Trainer(
        model,
        transformers.TrainingArguments(
            str(folder), per_device_train_batch_size=2, max_steps=STEPS, optim=optimizer, report_to=[],
            save_strategy="no", logging_strategy="no", disable_tqdm=True, use_cpu=device == "cpu", **options,
        ),
        train_dataset=rows,
        callbacks=[Watch()],
    )  # fmt: skip
    trainer.train()
    assert trainer.state.global_step == STEPS
    names = {p: n for n, p in model.named_parameters()}
    inner = trainer.optimizer.optimizer
    states = {
        names[p]: {k: (tuple(v.shape), v.dtype) for k, v in state.items() if isinstance(v, torch.Tensor)}
        for p, state in inner.state.items()
        if p in names
    }
    return states, held


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_an_optimizer_of_the_trainer(name: str, tmp_path: Path) -> None:
    refusal: Exception | None = None
    try:
        with VirtualGPU("A100 80GB"):
            states, held = _train("cuda", name, tmp_path)
    except (ImportError, ValueError) as error:
        refusal = error
    if refusal is not None:
        # A package that is missing, or a library that cannot do it, says the same without a card.
        with pytest.raises(type(refusal)) as on_host:
            _train("cpu", name, tmp_path)
        assert str(on_host.value) == str(refusal)
        pytest.skip(str(refusal).splitlines()[0])
    # States come with the first step; every later step gives back what it took.
    assert len(held) == STEPS
    assert held[1] == held[2] == held[3]
    if not any(part in name for part in ONLY_ON_CARDS):
        real, _ = _train("cpu", name, tmp_path)
        assert states == real


# ---------------------------------------------------------------- peft

PROJECTIONS = ["q_proj", "v_proj", "down_proj"]
METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "LoRA": ("LoraConfig", {"r": 4, "target_modules": PROJECTIONS}),
    "LoRA everywhere, with biases": ("LoraConfig", {"r": 4, "target_modules": "all-linear", "bias": "all"}),
    "LoRA of embeddings": ("LoraConfig", {"r": 4, "target_modules": ["embed_tokens", "q_proj"]}),
    "rsLoRA": ("LoraConfig", {"r": 4, "target_modules": PROJECTIONS, "use_rslora": True}),
    "DoRA": ("LoraConfig", {"r": 4, "target_modules": PROJECTIONS, "use_dora": True}),
    "AdaLoRA": (
        "AdaLoraConfig", {"init_r": 4, "target_r": 2, "target_modules": PROJECTIONS, "total_step": 10},
    ),
    "IA3": (
        "IA3Config", {"target_modules": ["k_proj", "down_proj"], "feedforward_modules": ["down_proj"]},
    ),
    "prompt tuning": ("PromptTuningConfig", {"task_type": "CAUSAL_LM", "num_virtual_tokens": 4}),
    "prefix tuning": ("PrefixTuningConfig", {"task_type": "CAUSAL_LM", "num_virtual_tokens": 4}),
    "p-tuning": (
        "PromptEncoderConfig", {"task_type": "CAUSAL_LM", "num_virtual_tokens": 4, "encoder_hidden_size": 16},
    ),
    "LoHa": ("LoHaConfig", {"r": 4, "target_modules": PROJECTIONS}),
    "LoKr": ("LoKrConfig", {"r": 4, "target_modules": PROJECTIONS}),
    "VeRA": ("VeraConfig", {"r": 4, "target_modules": ["q_proj", "o_proj"]}),
    "OFT": ("OFTConfig", {"oft_block_size": 8, "r": 0, "target_modules": ["q_proj"]}),
    "BOFT": ("BOFTConfig", {"boft_block_size": 8, "target_modules": ["q_proj"]}),
    "HRA": ("HRAConfig", {"r": 4, "target_modules": ["q_proj"]}),
    "layer norm tuning": ("LNTuningConfig", {"target_modules": ["input_layernorm"]}),
    "FourierFT": ("FourierFTConfig", {"n_frequency": 10, "target_modules": ["q_proj"]}),
    "VB-LoRA": (
        "VBLoRAConfig",
        {"r": 4, "num_vectors": 16, "vector_length": 8, "topk": 2, "target_modules": ["q_proj"]},
    ),
    "trainable tokens": (
        "TrainableTokensConfig", {"token_indices": [1, 2, 3], "target_modules": ["embed_tokens"]},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", METHODS)
def test_a_peft_method_makes_the_storages_of_a_real_step(name: str) -> None:
    peft = pytest.importorskip("peft")
    from benchmarks.architectures import program
    from benchmarks.architectures.compare import compare
    from benchmarks.architectures.table import architectures

    kind, options = METHODS[name]
    config_class = getattr(peft, kind, None)
    if config_class is None:
        pytest.skip(f"peft {peft.__version__} has no {kind}")
    llama = next(a for a in architectures() if a.name == "llama")

    def prepared(device: str) -> Any:
        base = program.prepared(llama, "cpu", "eager")
        torch.manual_seed(0)
        model = peft.get_peft_model(base.model, config_class(**copy.deepcopy(options))).to(device).train()
        trained = [p for p in model.parameters() if p.requires_grad]
        batch = {k: v.to(device) for k, v in base.batch.items()}
        return program.Program(model, batch, torch.optim.AdamW(trained, lr=1e-3, foreach=True))

    real = program.record_on_host(prepared("cpu"))
    with VirtualGPU("A100 80GB") as gpu:
        virtual = program.record_on_card(prepared("cuda"))
    found = compare(name, real, virtual)
    assert not found.mismatches, "\n".join(map(str, found.mismatches[:20]))
    assert found.share == 1.0
    assert found.operations > 400
    assert gpu.report.notes == ()
