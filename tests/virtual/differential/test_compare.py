"""The comparison finds what it is there to find: each kind of difference, made on purpose."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
import torch

from benchmarks.architectures import program, unwatched
from benchmarks.architectures.compare import compare
from benchmarks.architectures.differential import differential
from benchmarks.architectures.program import Run
from benchmarks.architectures.table import Architecture, architectures

LLAMA = next(a for a in architectures() if a.name == "llama")


@pytest.fixture(scope="module")
def real() -> Run:
    return program.on_host(LLAMA)


@pytest.fixture
def other() -> Run:
    """The same step recorded once more; the tests spoil it."""
    return program.on_host(LLAMA)


def kinds(real: Run, other: Run) -> Counter[str]:
    return Counter(m.kind for m in compare("llama", real, other).mismatches)


def test_a_program_agrees_with_itself(real: Run, other: Run) -> None:
    found = compare("llama", real, other)
    assert found.mismatches == []
    assert found.share == 1.0
    assert found.equal == found.storages_virtual


def test_another_size(real: Run, other: Run) -> None:
    other.recorder.storages[100].nbytes += 4
    assert kinds(real, other) == {"size": 1}


def test_another_layout(real: Run, other: Run) -> None:
    op = next(o for o in other.recorder.ops if o.name == "mm.default")
    op.results[0] = replace(op.results[0], stride=tuple(reversed(op.results[0].stride)))
    assert kinds(real, other) == {"layout": 1}


def test_a_storage_that_lives_on(real: Run, other: Run) -> None:
    next(s for s in other.recorder.storages if s.died).died = None
    assert kinds(real, other) == {"life": 1}


def test_another_order_of_frees(real: Run, other: Run) -> None:
    for storage in other.recorder.storages:
        storage.on_card = True
    deaths = other.recorder.deaths
    deaths[10], deaths[11] = deaths[11], deaths[10]
    assert kinds(real, other) == {"order of frees": 1}


def test_a_missing_operation(real: Run, other: Run) -> None:
    at = next(i for i, o in enumerate(other.recorder.ops) if o.name == "silu.default")
    del other.recorder.ops[at]
    assert kinds(real, other)["operations"] == 1


def test_a_copy_where_a_view_should_be(real: Run, other: Run) -> None:
    op = next(o for o in other.recorder.ops if o.name == "transpose.int")
    mine = replace(op.results[0].storage, number=-1)
    op.results[0] = replace(op.results[0], storage=mine)
    op.created.append(mine)
    assert kinds(real, other)["aliasing"] >= 1


def test_a_hidden_storage(real: Run, other: Run) -> None:
    other.recorder.ops[50].inner = [4096]
    assert kinds(real, other) == {"hidden storages": 1}


def test_a_gradient_in_another_dtype(real: Run, other: Run) -> None:
    name = next(n for n in other.state if n.startswith("grad "))
    other.state[name] = replace(other.state[name], dtype=torch.float16)
    assert kinds(real, other) == {"state": 1}


def test_a_program_that_does_something_else_on_the_card(monkeypatch: pytest.MonkeyPatch) -> None:
    """A branch on `is_cuda`, as a missing kernel or a wrong value would take it."""
    silu = torch.nn.functional.silu

    def branches(x: torch.Tensor, inplace: bool = False) -> torch.Tensor:
        return x * torch.sigmoid(x) if x.is_cuda else silu(x, inplace)

    monkeypatch.setattr(torch.nn.functional, "silu", branches)
    monkeypatch.setattr(torch.nn.SiLU, "forward", lambda self, x: branches(x))
    monkeypatch.setattr("transformers.activations.SiLUActivation.forward", lambda self, x: branches(x))
    found = differential(LLAMA).comparison
    assert {"operations", "unwatched"} <= {m.kind for m in found.mismatches}
    assert found.share < 1.0


def test_gradients_are_added_in_place(real: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Counted with nobody looking, a step has fewer storages than recorded: autograd reuses them."""
    counted = unwatched.on_host(LLAMA, real)
    recorded = Counter(s.nbytes for s in real.recorder.storages if s.born >= 0 and s.nbytes > unwatched.SMALL)
    assert counted.total() < recorded.total()
    assert not counted - recorded


def test_an_architecture_without_a_batch_is_refused() -> None:
    with pytest.raises(KeyError):
        Architecture("x", "LlamaForCausalLM", "no such batch").inputs()
