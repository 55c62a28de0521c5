"""Storages tell of their end: soon enough for the allocator, and without disturbing an error."""

from __future__ import annotations

import threading

import pytest
import torch

from hfgpu_magic.virtual import backend, deathnote, lifetimes, state
from hfgpu_magic.virtual.session import VirtualGPU


@pytest.fixture(params=["machine code", "weak references"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both ways of hearing of a storage's end."""
    if request.param == "machine code":
        if not deathnote.supported():
            pytest.skip("this machine has no such function")
    else:
        monkeypatch.setattr(deathnote, "supported", lambda: False)
    return str(request.param)


@pytest.mark.usefixtures("way")
def test_memory_falls_when_a_tensor_dies() -> None:
    with VirtualGPU("T4"):
        x = torch.empty(1 << 20, device="cuda")
        held = torch.cuda.memory_allocated()
        view = x[10:]
        del x
        assert torch.cuda.memory_allocated() == held
        del view
        assert torch.cuda.memory_allocated() == 0


@pytest.mark.usefixtures("way")
def test_an_error_passes_tensors_that_die_on_its_way() -> None:
    """Temporaries are dropped while the error is being raised; it has to arrive as it was."""

    def refuse(*_: object) -> None:
        raise KeyError("mine")

    with VirtualGPU("T4"):
        with pytest.raises(KeyError, match="mine"):
            [torch.zeros(8, device="cuda") if i < 5 else refuse() for i in range(6)]
        with pytest.raises(KeyError, match="mine"):
            refuse(torch.zeros(8, device="cuda") + 1, refuse(torch.ones(8, device="cuda")))
        with pytest.raises(torch.OutOfMemoryError):
            [torch.zeros(1 << 28, device="cuda") for _ in range(30)]
        assert torch.cuda.memory_allocated() == 0
        torch.zeros(8, device="cuda")


@pytest.mark.usefixtures("way")
def test_the_room_of_what_died_is_there_for_the_next_tensor() -> None:
    with VirtualGPU("T4"):
        for _ in range(40):
            torch.empty(1 << 31, device="cuda")  # 8 GiB each, none kept
        assert torch.cuda.max_memory_allocated() == 1 << 33


@pytest.mark.usefixtures("way")
def test_tensors_may_die_on_another_thread() -> None:
    with VirtualGPU("T4"):
        kept = [torch.empty(1 << 16, device="cuda") for _ in range(100)]
        threads = [threading.Thread(target=kept.pop) for _ in range(100)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert torch.cuda.memory_allocated() == 0


@pytest.mark.skipif(not deathnote.supported(), reason="this machine has no such function")
def test_gradients_are_added_in_place() -> None:
    """The last user's buffer takes the sum: a branch costs no allocation, as on CUDA."""
    with VirtualGPU("T4"):
        x = torch.empty(1 << 20, device="cuda", requires_grad=True)
        y = x * 2
        z = y + y * 3 + y * 5
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        z.sum().backward()
        assert torch.cuda.max_memory_allocated() - before <= 4 * (4 << 20)


def test_the_list_keeps_what_is_noted_in_order() -> None:
    if not deathnote.supported():
        pytest.skip("this machine has no such function")
    import ctypes

    note = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(deathnote.address())
    lifetimes.drain()  # what real storages have noted belongs to them
    for value in (3, 1, 2):
        note(value)
    assert deathnote.pending()
    assert list(deathnote.take()) == [3, 1, 2]
    assert not deathnote.pending()


class TestAddressesUsedAgain:
    """C++ gives the next storage the room of one that has just died, before Python has heard of that."""

    def test_a_new_storage_has_none_of_the_old_ones_values(self, monkeypatch: pytest.MonkeyPatch) -> None:
        with VirtualGPU("T4"):
            held = [torch.arange(8, device="cuda")]
            device = state.current()
            category = device._category

            def meanwhile() -> str:  # between asking the allocator and making the tensor, as GC may
                held.clear()
                return category()

            monkeypatch.setattr(device, "_category", meanwhile)
            fresh = torch.empty(8, dtype=torch.int64, device="cuda")
            assert device.mirrors.raw(backend.storage_address(fresh)) is None
            assert torch.cuda.memory_allocated() == 512

    def test_a_new_storage_is_not_taken_for_one_of_an_earlier_run(self) -> None:
        with VirtualGPU("T4"):
            held = [torch.empty(8, device="cuda") for _ in range(50)]
        with VirtualGPU("T4"):
            held.clear()
            for _ in range(100):
                assert (torch.empty(0, device="cuda") + 1).numel() == 0
