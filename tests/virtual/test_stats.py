"""memory_stats() and memory_snapshot(), as torch's own code reads them."""

from __future__ import annotations

import itertools

import pytest

from hfgpu_magic.virtual.allocator import CachingAllocator
from hfgpu_magic.virtual.memory import DeviceMemory

MiB = 1 << 20
STATS = (
    "allocation", "segment", "active", "inactive_split", "allocated_bytes", "reserved_bytes", "active_bytes",
    "inactive_split_bytes", "requested_bytes",
)  # fmt: skip
METRICS = ("current", "peak", "allocated", "freed")


@pytest.fixture
def allocator():
    return CachingAllocator(DeviceMemory(1 << 34))


def test_exactly_the_keys_of_torch(allocator):
    keys = {".".join(p) for p in itertools.product(STATS, ("all", "small_pool", "large_pool"), METRICS)}
    keys |= {f"{n}.{m}" for n in ("oversize_allocations", "oversize_segments") for m in METRICS}
    keys |= {
        "max_split_size", "num_alloc_retries", "num_device_alloc", "num_device_free", "num_ooms",
        "num_oom_rejections", "num_sync_all_streams",
    }  # fmt: skip
    stats = allocator.memory_stats()
    assert set(stats) == keys
    assert list(stats) == sorted(keys)
    assert stats["max_split_size"] == -1


def test_torchs_own_summary_is_satisfied(allocator, monkeypatch):
    """`torch.cuda.memory_summary` reads the stats by name."""
    memory = pytest.importorskip("torch").cuda.memory
    allocator.free(allocator.malloc(3 * MiB))
    allocator.malloc(5 * MiB)
    monkeypatch.setattr(memory, "memory_stats", lambda device=None: allocator.memory_stats())
    text = memory.memory_summary(device=0)
    assert "|       from large pool |   5120 KiB |   5120 KiB |   8192 KiB |   3072 KiB |" in text


def test_peaks_and_sums(allocator):
    first = allocator.malloc(2 * MiB)
    second = allocator.malloc(512)
    allocator.free(first)
    third = allocator.malloc(MiB // 2)
    stats = allocator.memory_stats()
    assert [stats[f"allocated_bytes.all.{m}"] for m in METRICS] == [
        MiB // 2 + 512, 2 * MiB + 512, 2 * MiB + 512 + MiB // 2, 2 * MiB,
    ]  # fmt: skip
    assert [stats[f"allocation.small_pool.{m}"] for m in METRICS] == [2, 2, 2, 0]
    assert [stats[f"allocation.large_pool.{m}"] for m in METRICS] == [0, 1, 1, 1]
    assert stats["num_device_alloc"] == 2
    allocator.free(second)
    allocator.free(third)
    assert allocator.max_allocated == 2 * MiB + 512


def test_reset_peak(allocator):
    allocator.free(allocator.malloc(30 * MiB))
    allocator.empty_cache()
    allocator.malloc(10 * MiB)
    allocator.reset_peak_stats()
    stats = allocator.memory_stats()
    assert stats["allocated_bytes.all.peak"] == stats["reserved_bytes.all.peak"] == 10 * MiB
    assert (allocator.max_allocated, allocator.max_reserved) == (10 * MiB, 10 * MiB)
    assert stats["allocated_bytes.all.allocated"] == 40 * MiB


def test_reset_accumulated(allocator):
    allocator.free(allocator.malloc(30 * MiB))
    kept = allocator.malloc(10 * MiB)
    allocator.reset_accumulated_stats()
    allocator.free(kept)
    stats = allocator.memory_stats()
    assert [stats[f"allocated_bytes.all.{m}"] for m in METRICS] == [0, 30 * MiB, 0, 10 * MiB]
    assert stats["num_device_alloc"] == 0


def test_inactive_split_counts_what_cannot_be_returned(allocator):
    block = allocator.malloc(4 * MiB)  # 16 MiB of the segment stay free
    stats = allocator.memory_stats()
    assert (stats["inactive_split.all.current"], stats["inactive_split_bytes.all.current"]) == (1, 16 * MiB)
    allocator.free(block)
    stats = allocator.memory_stats()
    assert (stats["inactive_split.all.current"], stats["inactive_split_bytes.all.current"]) == (0, 0)
    assert stats["inactive_split_bytes.all.peak"] == 16 * MiB


def test_snapshot_has_what_memory_viz_reads(allocator):
    viz = pytest.importorskip("torch.cuda._memory_viz")
    allocator.malloc(4 * MiB)
    allocator.malloc(1000, stream=3)
    (large, small) = sorted(allocator.snapshot(2), key=lambda s: s["segment_type"])
    assert large["device"] == 2
    assert (large["total_size"], large["allocated_size"], large["requested_size"]) == (
        20 * MiB,
        4 * MiB,
        4 * MiB,
    )
    assert (small["stream"], small["requested_size"], small["allocated_size"]) == (3, 1000, 1024)
    assert [b["state"] for b in large["blocks"]] == ["active_allocated", "inactive"]
    data = {"segments": allocator.snapshot(), "device_traces": [], "allocator_settings": {}}
    assert "4.0MiB" in viz.segsum(data)
    assert viz.segment_plot(data).startswith("\n<!DOCTYPE html>")
