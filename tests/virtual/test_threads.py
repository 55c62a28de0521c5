"""Small host tensors are computed by one thread, and the number of threads is the program's own."""

from __future__ import annotations

import pytest
import torch

from hfgpu_magic.virtual import VirtualGPU, threads


def test_the_number_comes_back_even_after_an_error() -> None:
    before = torch.get_num_threads()
    with pytest.raises(ZeroDivisionError), threads.one_thread():
        assert torch.get_num_threads() == 1 or not threads._can_change()
        raise ZeroDivisionError
    assert torch.get_num_threads() == before


def test_small_fills_use_it_and_large_ones_do_not(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    plain = torch.nn.init._no_grad_fill_

    def spy(tensor: torch.Tensor, value: float) -> torch.Tensor:
        seen.append(torch.get_num_threads())
        return plain(tensor, value)

    monkeypatch.setattr(torch.nn.init, "_no_grad_fill_", spy)
    monkeypatch.setattr(threads, "_can_change", lambda: True)
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        with VirtualGPU("T4"):
            assert torch.equal(torch.nn.init.ones_(torch.empty(64)), torch.ones(64))
            torch.nn.init.ones_(torch.empty(1 << 19))
        assert seen == [1, 3]
    finally:
        torch.set_num_threads(before)


def test_values_computed_on_the_host_use_it(t4: VirtualGPU, monkeypatch: pytest.MonkeyPatch) -> None:
    from hfgpu_magic.virtual import values

    del t4
    seen: list[int] = []
    plain = values.Mirrors.write

    def spy(self: values.Mirrors, t: torch.Tensor, known: bool) -> torch.Tensor:
        seen.append(torch.get_num_threads())
        return plain(self, t, known)

    monkeypatch.setattr(values.Mirrors, "write", spy)
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        x = torch.arange(10, device="cuda")
        seen.clear()
        assert (x + 1).sum().item() == 55
        assert set(seen) == {1}
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)
