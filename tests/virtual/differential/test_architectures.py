"""A training step of every architecture in the table makes the same storages for real and virtually.

For real means: on CPU tensors, with data.  What a card rightly does otherwise stands in
benchmarks/architectures/rules.toml, with the reason; everything else has to be equal.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator

import pytest
import torch
import transformers

from benchmarks.architectures.differential import differential, without_scores
from benchmarks.architectures.table import Architecture, architectures

transformers.logging.set_verbosity_error()

every_architecture = pytest.mark.parametrize("architecture", architectures(), ids=lambda a: a.name)

#: Each has dropout by default, at places that differ: embeddings, attention, after activations.
WITH_DROPOUT = ("bert", "gpt2", "t5", "bart", "deberta_v2", "distilbert", "wav2vec2")


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the models' own
        yield
    torch.set_num_threads(before)


def test_there_are_sixty_architectures_of_every_kind() -> None:
    assert len(architectures()) >= 60
    assert len({a.name for a in architectures()}) == len(architectures())
    kinds = {a.batch for a in architectures()}
    assert {
        "tokens",
        "padded",
        "masked",
        "seq2seq",
        "pixels",
        "waveform",
        "text_and_image",
        "image_in_text",
    } <= kinds
    assert sum(a.experts is not None for a in architectures()) >= 5


@every_architecture
def test_the_same_storages_sizes_and_lives(architecture: Architecture) -> None:
    found = differential(architecture).comparison
    assert not found.mismatches, "\n".join(map(str, found.mismatches[:20]))
    assert found.share == 1.0
    # Each model has two layers; fewer operations than this would mean that the step was not seen.
    assert found.operations > 200
    assert found.equal > 150


@pytest.mark.parametrize("name", WITH_DROPOUT)
def test_the_same_with_dropout(name: str) -> None:
    architecture = next(a for a in architectures() if a.name == name)
    found = differential(architecture, dropout=True).comparison
    assert not found.mismatches, "\n".join(map(str, found.mismatches[:20]))
    assert found.left_out["virtual: fused dropout"] > 0


@every_architecture
def test_fused_attention_trains_too(architecture: Architecture) -> None:
    run = without_scores(architecture)
    if run is None:
        pytest.skip(f"{architecture.model} has no form with scaled_dot_product_attention")
    assert all(view.storage.on_card for name, view in run.state.items() if not name.endswith(".step"))
    grads = {name.removeprefix("grad ") for name in run.state if name.startswith("grad ")}
    moments = {
        n.removeprefix("optimizer ").removesuffix(".exp_avg") for n in run.state if n.endswith(".exp_avg")
    }
    assert grads == moments
    assert grads
    for name in grads:
        assert run.state[f"grad {name}"].shape == run.state[f"optimizer {name}.exp_avg"].shape
