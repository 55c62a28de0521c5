"""Streams, CUDA graphs, memory pools, and the tools that programs put around their work."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
import torch

from hfgpu_magic.units import MiB
from hfgpu_magic.virtual import VirtualGPU


def _megabytes(n: int) -> torch.Tensor:
    return torch.zeros(n * MiB, dtype=torch.uint8, device="cuda")


class TestStreams:
    def test_the_block_of_one_stream_serves_no_other(self, a100: VirtualGPU) -> None:
        del a100
        stream = torch.cuda.Stream()
        x = _megabytes(30)
        del x
        with torch.cuda.stream(stream):
            _megabytes(30)
            assert torch.cuda.memory_reserved() == 2 * 30 * MiB
        _megabytes(30)
        assert torch.cuda.memory_reserved() == 2 * 30 * MiB

    def test_a_recorded_stream_keeps_the_block_until_the_next_allocation(self, a100: VirtualGPU) -> None:
        del a100
        x = _megabytes(30)
        x.record_stream(torch.cuda.Stream())
        del x
        stats = torch.cuda.memory_stats()
        assert stats["active_bytes.all.current"] - stats["allocated_bytes.all.current"] == 30 * MiB
        _megabytes(30)
        assert torch.cuda.memory_reserved() == 30 * MiB

    def test_the_current_stream_comes_and_goes(self, a100: VirtualGPU) -> None:
        del a100
        stream = torch.cuda.Stream()
        assert stream != torch.cuda.default_stream() == torch.cuda.current_stream()
        with torch.cuda.stream(stream), torch.cuda.stream(None):
            assert torch.cuda.current_stream() == stream
        assert torch.cuda.current_stream() == torch.cuda.default_stream()
        torch.cuda.set_stream(stream)
        assert torch.cuda.current_stream() == stream

    def test_each_stream_has_a_workspace(self, a100: VirtualGPU) -> None:
        del a100
        a = torch.zeros(64, 64, device="cuda")
        a @ a
        one = torch.cuda.memory_allocated()
        with torch.cuda.stream(torch.cuda.Stream()):
            a @ a
        assert torch.cuda.memory_allocated() - one > 8 * MiB


class TestGraphs:
    def test_a_graph_keeps_its_memory_until_it_is_gone(self, a100: VirtualGPU) -> None:
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            y = _megabytes(30)
            assert torch.cuda.is_current_stream_capturing()
        assert not torch.cuda.is_current_stream_capturing()
        operations = a100.report.operations
        graph.replay()
        assert a100.report.operations > operations
        del y
        torch.cuda.empty_cache()
        assert torch.cuda.memory_reserved() == 30 * MiB
        del graph
        torch.cuda.empty_cache()
        assert torch.cuda.memory_reserved() == 0

    def test_graphed_callables_work(self, a100: VirtualGPU) -> None:
        del a100
        layer = torch.nn.Linear(8, 8).cuda()
        graphed = torch.cuda.make_graphed_callables(layer, (torch.randn(2, 8, device="cuda"),))
        graphed(torch.randn(2, 8, device="cuda")).sum().backward()
        assert layer.weight.grad is not None

    def test_a_memory_pool_is_kept_apart(self, a100: VirtualGPU) -> None:
        del a100
        x = _megabytes(30)
        del x
        with torch.cuda.use_mem_pool(torch.cuda.MemPool()):
            _megabytes(30)
            assert torch.cuda.memory_reserved() == 2 * 30 * MiB


class TestTools:
    def test_nvtx_is_accepted(self, a100: VirtualGPU) -> None:
        del a100
        torch.cuda.nvtx.mark("here")
        with torch.cuda.nvtx.range("outer"), torch.autograd.profiler.emit_nvtx():
            torch.cuda.nvtx.range_end(torch.cuda.nvtx.range_start("inner"))

    def test_the_profiler_records_the_host_s_side_and_says_so(
        self, a100: VirtualGPU, tmp_path: Path, capfd: pytest.CaptureFixture[str]
    ) -> None:
        from torch.profiler import ProfilerActivity, profile

        with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA], profile_memory=True) as trace:
            torch.zeros(8, device="cuda") + 1
        trace.export_chrome_trace(str(tmp_path / "trace.json"))
        names = {e.get("name") for e in json.loads((tmp_path / "trace.json").read_text())["traceEvents"]}
        assert "aten::add" in names
        assert "aten::add" in trace.key_averages().table(sort_by="cuda_time_total")
        assert any("host's side" in note for note in a100.report.notes)
        assert "CUDA event" not in capfd.readouterr().err

    def test_a_snapshot_opens_in_pytorch_s_own_viewer(self, a100: VirtualGPU, tmp_path: Path) -> None:
        import pickle

        from torch.cuda import _memory_viz

        del a100
        torch.cuda.memory._record_memory_history()
        kept = [_megabytes(n) for n in (1, 30)]
        torch.cuda.memory._dump_snapshot(str(tmp_path / "snapshot.pickle"))
        data = pickle.loads((tmp_path / "snapshot.pickle").read_bytes())
        del kept
        assert "<script" in _memory_viz.trace_plot(data)
        assert "<script" in _memory_viz.segment_plot(data)
        assert "zeros" in _memory_viz.trace(data) or "alloc" in _memory_viz.trace(data)

    def test_an_observer_hears_of_a_full_card_first(self, a100: VirtualGPU) -> None:
        heard: list[tuple[int, ...]] = []
        torch._C._cuda_attach_out_of_memory_observer(lambda *about: heard.append(about))  # type: ignore[attr-defined]
        with pytest.raises(torch.OutOfMemoryError):
            _megabytes(100 * 1024)
        ((device, asked, total, free),) = heard
        assert (device, asked, total) == (0, 100 * 1024 * MiB, a100.report.total_memory)
        assert 0 < free < total

    def test_raw_allocations_count(self, a100: VirtualGPU) -> None:
        del a100
        pointer = torch.cuda.caching_allocator_alloc(5 * MiB)
        assert torch.cuda.memory_allocated() == 5 * MiB
        torch.cuda.caching_allocator_delete(pointer)
        assert torch.cuda.memory_allocated() == 0

    def test_data_parallel_on_one_card(self, a100: VirtualGPU) -> None:
        del a100
        model = torch.nn.DataParallel(torch.nn.Linear(4, 4).cuda())
        model(torch.randn(6, 4)).sum().backward()
        assert model.module.weight.grad.is_cuda

    def test_random_state_by_keyword(self, a100: VirtualGPU) -> None:
        del a100
        torch.cuda.set_rng_state(torch.cuda.get_rng_state(device="cuda"), device="cuda:0")
        with torch.random.fork_rng(devices=[0]):
            torch.randn(3, device="cuda")

    def test_processes_are_listed(self, a100: VirtualGPU) -> None:
        del a100
        _megabytes(30)
        out = io.StringIO(torch.cuda.list_gpu_processes())
        assert out.readline() == "GPU:0\n"
        assert "MB GPU memory" in out.readline()
