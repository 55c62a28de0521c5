"""The rules of PyTorch's caching allocator, one by one."""

from __future__ import annotations

import pytest

from hfgpu_magic.virtual.allocator import AllocationFailed, AllocatorSettings, CachingAllocator
from hfgpu_magic.virtual.blocks import FREE
from hfgpu_magic.virtual.memory import AddressSpace, AddressSpaceError, DeviceMemory

KiB, MiB, GiB = 1 << 10, 1 << 20, 1 << 30


def allocator(total: int = 16 * GiB, conf: str = "", **more) -> CachingAllocator:
    return CachingAllocator(DeviceMemory(total), AllocatorSettings.parse(conf), **more)


# -- sizes ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("requested", "allocated", "reserved"),
    [
        (1, 512, 2 * MiB),
        (512, 512, 2 * MiB),
        (513, 1024, 2 * MiB),
        (MiB, MiB, 2 * MiB),  # the largest small request
        (MiB + 1, MiB + 512, 20 * MiB),
        (8_519_680, 8_519_680, 20 * MiB),  # the cuBLAS workspace
        (10 * MiB - 512, 10 * MiB - 512, 20 * MiB),
        (10 * MiB, 10 * MiB, 10 * MiB),
        (10 * MiB + 1, 10 * MiB + 512, 12 * MiB),
        (1_000_000_000, 1_000_341_504, 1_000_341_504),  # 341,504 are left: 1 MiB or less is not split
    ],
)
def test_rounding_and_segment_sizes(requested, allocated, reserved):
    a = allocator()
    a.malloc(requested)
    assert (a.allocated, a.reserved, a.requested) == (allocated, reserved, requested)


def test_nothing_for_zero_bytes():
    a = allocator()
    block = a.malloc(0)
    a.free(block)
    a.free(a.malloc(0))
    assert (block.address, a.allocated, a.reserved, a.memory_stats()["allocation.all.allocated"]) == (
        0,
        0,
        0,
        0,
    )


def test_large_pool_splits_only_when_more_than_one_mebibyte_is_left():
    a = allocator()
    a.malloc(19 * MiB)  # 20 MiB segment, exactly 1 MiB left
    b = allocator()
    b.malloc(19 * MiB - 512)
    assert a.allocated == 20 * MiB
    assert b.allocated == 19 * MiB - 512


def test_a_smaller_large_segment():
    a = allocator(conf="large_segment_size_mb:12")
    a.malloc(2 * MiB)
    assert a.reserved == 12 * MiB


@pytest.mark.parametrize(
    ("conf", "requested", "rounded"),
    [
        ("roundup_power2_divisions:4", 1200 * KiB, 1280 * KiB),
        ("roundup_power2_divisions:4", 1024 * KiB, 1024 * KiB),
        ("roundup_power2_divisions:4", 1700, 2048),  # small requests keep 512-byte steps: 1700 < 4 * 512
        ("roundup_power2_divisions:[64:8,>:2]", 65 * MiB, 72 * MiB),
        ("roundup_power2_divisions:[64:8,>:2]", 129 * MiB, 192 * MiB),
        ("roundup_power2_divisions:[64:0,>:2]", 65 * MiB + 1, 65 * MiB + 512),
    ],
)
def test_roundup(conf, requested, rounded):
    assert AllocatorSettings.parse(conf).round_size(requested) == rounded


# -- placement -----------------------------------------------------------------------------------------


def test_fresh_segments_get_falling_addresses():
    a = allocator()
    first, second = a.malloc(30 * MiB), a.malloc(30 * MiB)
    assert second.address == first.address - 30 * MiB


def test_ascending_addresses_on_request():
    a = allocator(ascending=True)
    first, second = a.malloc(30 * MiB), a.malloc(30 * MiB)
    assert second.address == first.address + 30 * MiB


def test_addresses_are_used_afresh_until_there_are_none_left():
    space = AddressSpace(100 * MiB, 60 * MiB)
    first = space.take(20 * MiB)
    space.give(first, 20 * MiB)
    second, third = space.take(20 * MiB), space.take(20 * MiB)
    assert (first, second, third) == (80 * MiB, 60 * MiB, 40 * MiB)
    assert space.take(20 * MiB) == first
    with pytest.raises(AddressSpaceError, match="consecutive"):
        space.take(2 * MiB)
    space.give(second, 20 * MiB)
    space.give(first, 20 * MiB)
    assert space.take(40 * MiB) == second  # neighbours were joined


def test_best_fit_takes_the_smallest_then_the_lowest():
    a = allocator()
    large, high, low = a.malloc(60 * MiB), a.malloc(40 * MiB), a.malloc(40 * MiB)
    keep = a.malloc(30 * MiB)
    for block in (large, high, low):
        a.free(block)
    assert a.malloc(39 * MiB + 512 * KiB).address == low.address
    assert keep.address < low.address < high.address


def test_pools_and_streams_do_not_share():
    a = allocator()
    a.free(a.malloc(20 * MiB))
    a.malloc(512 * KiB)
    a.malloc(20 * MiB, stream=7)
    assert a.reserved == (20 + 2 + 20) * MiB


def test_neighbours_merge():
    a = allocator()
    blocks = [a.malloc(256 * KiB) for _ in range(8)]  # fill one small segment
    for i in (1, 3, 2):
        a.free(blocks[i])
    assert a.malloc(768 * KiB).address == blocks[1].address
    assert a.reserved == 2 * MiB


def test_freeing_twice_is_an_error():
    a = allocator()
    blocks = [a.malloc(512) for _ in range(3)]
    a.free(blocks[0])
    a.free(blocks[1])  # absorbed by its neighbour
    for block in blocks[:2]:
        with pytest.raises(ValueError, match="not allocated"):
            a.free(block)


# -- giving back ---------------------------------------------------------------------------------------


def test_empty_cache_releases_whole_segments_large_first_in_size_order():
    seen = []
    a = allocator(observer=lambda action, address, size, stream: seen.append((action, size, stream)))
    keep = a.malloc(512 * KiB)
    blocks = [a.malloc(n * MiB, s) for n, s in ((40, 0), (20, 0), (30, 5))] + [a.malloc(MiB, 5)]
    for block in blocks:
        a.free(block)
    seen.clear()
    a.empty_cache()
    assert seen == [
        ("segment_free", 20 * MiB, 0),
        ("segment_free", 40 * MiB, 0),
        ("segment_free", 30 * MiB, 5),
        ("segment_free", 2 * MiB, 5),
    ]
    assert (a.reserved, a.device.reserved) == (2 * MiB, 2 * MiB)
    assert keep.address in {s["address"] for s in a.snapshot()}


def test_a_full_device_makes_it_release_the_cache_and_retry():
    a = allocator(100 * MiB)
    a.free(a.malloc(60 * MiB))
    a.malloc(80 * MiB)
    assert (a.reserved, a.num_alloc_retries, a.num_ooms) == (80 * MiB, 1, 0)


def test_running_out():
    seen = []
    a = CachingAllocator(
        DeviceMemory(100 * MiB, context=10 * MiB, other_processes=5 * MiB), observer=lambda *e: seen.append(e)
    )
    a.malloc(70 * MiB)
    with pytest.raises(AllocationFailed) as caught:
        a.malloc(16 * MiB + 1, stream=3)
    e = caught.value
    assert (e.requested, e.size, e.segment_size) == (16 * MiB + 1, 16 * MiB + 512, 18 * MiB)
    assert (e.device_free, e.device_total, e.process_memory) == (15 * MiB, 100 * MiB, 80 * MiB)
    assert (e.allocated, e.reserved, e.allowed) == (70 * MiB, 70 * MiB, None)
    assert (a.num_ooms, a.num_alloc_retries) == (1, 1)
    assert seen[-1] == ("oom", 15 * MiB, 16 * MiB + 512, 3)
    a.malloc(14 * MiB)  # the allocator goes on


def test_memory_fraction():
    a = allocator(100 * MiB)
    a.set_memory_fraction(0.5)
    a.malloc(40 * MiB)
    with pytest.raises(AllocationFailed) as caught:
        a.malloc(20 * MiB)
    assert (caught.value.allowed, caught.value.device_free) == (50 * MiB, 60 * MiB)
    a.set_memory_fraction(1.0)
    a.malloc(20 * MiB)


def test_memory_fraction_from_the_settings_and_preemptive_refusal():
    a = allocator(100 * MiB, "per_process_memory_fraction:0.5,throw_on_cudamalloc_oom:True")
    cached = a.malloc(40 * MiB)
    a.free(cached)
    with pytest.raises(AllocationFailed) as caught:
        a.malloc(45 * MiB)  # would fit if the cache were released, which is not tried
    assert caught.value.preempted
    assert (a.num_oom_rejections, a.num_alloc_retries, a.reserved) == (1, 0, 40 * MiB)


# -- max_split_size and garbage collection -------------------------------------------------------------


def test_oversize_blocks_are_neither_split_nor_wasted():
    a = allocator(conf="max_split_size_mb:50")
    big = a.malloc(100 * MiB)
    a.free(big)
    assert a.malloc(30 * MiB).address != big.address  # a small request may not take it
    assert a.malloc(60 * MiB).address != big.address  # more than 20 MiB would be unused
    assert a.malloc(90 * MiB).address == big.address
    assert a.allocated == (30 + 60 + 100) * MiB
    stats = a.memory_stats()
    assert (stats["max_split_size"], stats["oversize_allocations.current"]) == (50 * MiB, 2)


def test_wider_rounding_of_oversize_blocks():
    a = allocator(conf="max_split_size_mb:50,max_non_split_rounding_mb:64")
    big = a.malloc(100 * MiB)
    a.free(big)
    assert a.malloc(60 * MiB).address == big.address


def test_just_enough_oversize_blocks_are_released_before_everything_is():
    a = allocator(200 * MiB, "max_split_size_mb:20")
    cached = [a.malloc(n * MiB) for n in (30, 60, 90)]
    for block in cached:
        a.free(block)
    a.malloc(28 * MiB, stream=1)  # other stream: nothing of stream 0 may be released for it alone
    assert a.num_alloc_retries == 1
    b = allocator(200 * MiB, "max_split_size_mb:20")
    for block in [b.malloc(n * MiB) for n in (30, 60, 90)]:
        b.free(block)
    b.malloc(38 * MiB)  # too much waste in 60; the smallest that is large enough goes
    assert (b.num_alloc_retries, b.reserved) == (0, (30 + 90 + 38) * MiB)


def test_garbage_collection_releases_what_was_unused_longest():
    a = allocator(1000 * MiB, "garbage_collection_threshold:0.3")
    a.set_memory_fraction(0.9)
    freed = []
    a.observer = lambda action, address, size, stream: (
        freed.append(size) if action == "segment_free" else None
    )
    old, young = a.malloc(100 * MiB), a.malloc(200 * MiB)
    a.free(old)
    for _ in range(3):  # lookups age what lies in the pool
        a.free(a.malloc(180 * MiB + 20 * MiB))
    a.free(young)
    a.malloc(300 * MiB)
    assert freed[0] == 100 * MiB
    assert a.num_alloc_retries == 0


# -- streams and private pools -------------------------------------------------------------------------


def test_a_block_used_by_another_stream_stays_active_until_that_one_is_done():
    a = allocator()
    finished = False
    a.stream_finished = lambda stream, block: finished
    block = a.malloc(30 * MiB)
    a.record_stream(block, 9)
    a.free(block)
    assert (a.allocated, a.active, a.requested) == (0, 30 * MiB, 30 * MiB)
    assert a.snapshot()[0]["blocks"][0]["state"] == "active_pending_free"
    assert a.malloc(30 * MiB).address != block.address
    finished = True
    assert a.malloc(30 * MiB).address == block.address
    assert a.memory_stats()["active_bytes.all.peak"] == 60 * MiB


def test_empty_cache_waits_for_the_other_streams():
    a = allocator()
    a.stream_finished = lambda stream, block: False
    block = a.malloc(30 * MiB)
    a.record_stream(block, 9)
    a.free(block)
    a.empty_cache()
    assert (a.reserved, a.active, a.memory_stats()["num_sync_all_streams"]) == (0, 0, 1)


def test_using_a_block_on_its_own_stream_changes_nothing():
    a = allocator()
    a.stream_finished = lambda stream, block: False
    block = a.malloc(30 * MiB, stream=4)
    a.record_stream(block, 4)
    a.free(block)
    assert a.active == 0


def test_private_pools_keep_their_memory_until_released():
    a = allocator()
    a.begin_allocate_to_pool((1, 0), lambda stream: stream == 3)
    captured = a.malloc(30 * MiB, stream=3)
    outside = a.malloc(30 * MiB)
    a.end_allocate_to_pool((1, 0))
    a.free(captured)
    assert {s["segment_pool_id"] for s in a.snapshot()} == {(1, 0), (0, 0)}
    assert a.malloc(30 * MiB, stream=3).address not in (captured.address, outside.address)
    a.empty_cache()
    assert a.reserved == 90 * MiB
    a.release_pool((1, 0))
    a.empty_cache()
    assert a.reserved == 60 * MiB
    assert a.private_pools == {}


def test_a_capture_does_not_release_the_cache():
    a = allocator(100 * MiB)
    a.free(a.malloc(60 * MiB))
    a.begin_allocate_to_pool((1, 0))
    with pytest.raises(AllocationFailed):
        a.malloc(80 * MiB)
    assert a.reserved == 60 * MiB


# -- Python's own traps --------------------------------------------------------------------------------


def test_a_block_freed_in_the_middle_of_a_call_is_freed_after_it():
    """The garbage collector may destroy tensors while the allocator is at work."""
    a = allocator()
    victim = a.malloc(30 * MiB)

    def collect(action: str, *_: object) -> None:
        if action == "segment_alloc":
            a.free(victim)

    a.observer = collect
    fresh = a.malloc(60 * MiB)
    assert a.allocated == 60 * MiB
    assert victim.state == FREE
    assert fresh.address != victim.address
