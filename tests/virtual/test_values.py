"""The values a data-less card does know: those that programs branch on.

Known values are computed for real; where data is missing, a branch gets a stated stand-in and a size gets
its upper bound, with a note.
"""

from __future__ import annotations

import pytest
import torch

from hfgpu_magic.virtual import VirtualGPU


def test_small_host_data_survives_a_round_trip(t4: VirtualGPU) -> None:
    for value in ([1.5, 2.5], [True, False], [1, 2, 3], [[1], [2]]):
        assert torch.tensor(value, device="cuda").tolist() == value
    assert torch.arange(5, device="cuda").tolist() == [0, 1, 2, 3, 4]
    assert torch.tensor(3.25).cuda().item() == 3.25


def test_arithmetic_on_known_values_is_done(t4: VirtualGPU) -> None:
    x = torch.arange(6, device="cuda")
    assert (x * 2 + 1).tolist() == [1, 3, 5, 7, 9, 11]
    assert x.view(2, 3).sum(0).tolist() == [3, 5, 7]
    assert bool((x < 10).all())
    assert int(x.max()) == 5
    x.add_(1)
    assert x.tolist() == [1, 2, 3, 4, 5, 6]
    x[2:4] = 0
    assert x.tolist() == [1, 2, 0, 0, 5, 6]
    assert torch.cat([x[:1], x[-1:]]).tolist() == [1, 6]


def test_views_see_what_is_written_through_them(t4: VirtualGPU) -> None:
    x = torch.zeros(4, device="cuda")
    x.view(2, 2)[1].fill_(7)
    assert x.tolist() == [0, 0, 7, 7]
    torch.add(x, 1, out=x)
    assert x.tolist() == [1, 1, 8, 8]


def test_token_ids_and_masks_are_known_up_to_a_megabyte(t4: VirtualGPU) -> None:
    ids = torch.randint(0, 100, (8, 4096))
    assert torch.equal(ids.cuda().cpu(), ids)
    mask = torch.ones(8, 4096, dtype=torch.long)
    mask[3, 100:] = 0
    assert not bool(mask.cuda().all())
    assert mask.cuda().sum(-1).tolist() == mask.sum(-1).tolist()


def test_an_unknown_number_is_one_and_an_unknown_flag_false(t4: VirtualGPU) -> None:
    big = torch.randn(1000, 1000, device="cuda")
    assert big.sum().item() == 1.0
    assert not bool((big > 3).any())
    assert int(big.argmax()) == 0


def test_a_loss_that_was_never_computed_is_not_nan(t4: VirtualGPU) -> None:
    loss = torch.nn.functional.cross_entropy(
        torch.randn(64, 5000, device="cuda"), torch.zeros(64, dtype=torch.long, device="cuda")
    )
    assert not bool(torch.isnan(loss))
    assert bool(torch.isfinite(loss))


class TestSizes:
    """Sizes that depend on data: exact when the data is known, else the largest possible, and said."""

    def test_known_masks_decide(self, t4: VirtualGPU) -> None:
        x = torch.randn(6, 1000, device="cuda")
        mask = torch.tensor([True, False, True, False, False, True], device="cuda")
        assert x[mask].shape == (3, 1000)
        assert mask.nonzero().tolist() == [[0], [2], [5]]
        assert x[:, 0].masked_select(mask).shape == (3,)
        assert torch.where(mask)[0].tolist() == [0, 2, 5]
        assert not t4.report.notes

    def test_unknown_masks_take_the_upper_bound_and_say_so(self, t4: VirtualGPU) -> None:
        x = torch.randn(1000, 1000, device="cuda")
        assert x[x > 0].shape == (1_000_000,)
        assert (x > 0).nonzero().shape == (1_000_000, 2)
        assert x.masked_select(x > 0).shape == (1_000_000,)
        assert x.unique().shape == (1_000_000,)
        assert any("depends on data" in note for note in t4.report.notes)

    def test_an_assumed_value_never_decides_a_size(self, t4: VirtualGPU) -> None:
        """A small mask made from unknown data reads as False, yet selecting by it selects everything."""
        scores = torch.randn(1000, 1000, device="cuda").mean(0)[:16]
        mask = scores > 0.5
        assert scores[mask].shape == (16,)
        assert mask.nonzero().shape == (16, 1)

    def test_unique_and_bincount_of_known_values(self, t4: VirtualGPU) -> None:
        x = torch.tensor([3, 1, 3, 3], device="cuda")
        assert x.unique().shape == (2,)
        assert x.bincount().shape == (4,)

    def test_writing_known_values_over_part_keeps_the_rest_assumed(self, t4: VirtualGPU) -> None:
        unknown = torch.randn(1000, 1000, device="cuda").mean(0)[:8].clone()
        unknown[:4] = 0.0
        assert unknown[unknown > 0].shape == (8,)
        unknown.zero_()
        assert unknown[unknown > 0].shape == (0,)

    def test_repeat_interleave_by_known_counts(self, t4: VirtualGPU) -> None:
        x = torch.randn(3, 4, device="cuda")
        assert x.repeat_interleave(torch.tensor([1, 0, 2], device="cuda"), 0).shape == (3, 4)
        assert x.repeat_interleave(torch.tensor([5, 0, 2], device="cuda"), 0).shape == (7, 4)

    def test_splits_by_known_sizes(self, t4: VirtualGPU) -> None:
        sizes = torch.tensor([1, 3], device="cuda").tolist()
        assert [part.shape[0] for part in torch.randn(4, 2, device="cuda").split(sizes)] == [1, 3]


def test_equal_compares_what_is_known(t4: VirtualGPU) -> None:
    a = torch.arange(3, device="cuda")
    assert torch.equal(a, torch.arange(3, device="cuda"))
    assert not torch.equal(a, a + 1)


def test_random_numbers_are_unknown(t4: VirtualGPU) -> None:
    drawn = torch.rand(8, device="cuda")
    assert drawn[drawn > 0.5].shape == (8,)


def test_values_die_with_their_storage(t4: VirtualGPU) -> None:
    from hfgpu_magic.virtual import state

    assert state.active is not None
    before = len(state.active.mirrors)
    x = torch.arange(10, device="cuda")
    assert len(state.active.mirrors) == before + 1
    del x
    assert torch.cuda.memory_allocated() == 0  # whoever asks hears of the storages that have died
    assert len(state.active.mirrors) == before


@pytest.mark.parametrize(
    "dtype", [torch.float16, torch.bfloat16, torch.float64, torch.int8, torch.complex64], ids=str
)
def test_every_type_keeps_small_values(dtype: torch.dtype, t4: VirtualGPU) -> None:
    assert torch.tensor([1, 2]).to(dtype).cuda().cpu().tolist() == [1, 2]
