"""Expandable segments: pages mapped and given back one by one."""

from __future__ import annotations

import pytest

from hfgpu_magic.virtual.allocator import AllocationFailed, AllocatorSettings, CachingAllocator
from hfgpu_magic.virtual.memory import DeviceMemory

MiB, GiB = 1 << 20, 1 << 30


def allocator(total: int = 16 * GiB, conf: str = "", **more) -> CachingAllocator:
    return CachingAllocator(DeviceMemory(total), AllocatorSettings.parse(conf), **more)


def test_expandable_segments_map_whole_pages():
    seen = []
    a = allocator(conf="expandable_segments:True", observer=lambda *e: seen.append(e[:3]))
    first = a.malloc(30 * MiB)
    second = a.malloc(15 * MiB)
    small = a.malloc(512)
    assert seen == [
        ("segment_map", first.address, 40 * MiB),
        ("segment_map", first.address + 40 * MiB, 20 * MiB),
        ("segment_map", small.address, 2 * MiB),
    ]
    assert second.address == first.address + 30 * MiB
    assert a.reserved == 62 * MiB
    stats = a.memory_stats()
    assert (stats["segment.all.current"], stats["inactive_split_bytes.all.current"]) == (0, 0)


def test_expandable_segments_split_at_512_bytes():
    a = allocator(conf="expandable_segments:True")
    a.malloc(20 * MiB - 512)
    assert a.allocated == 20 * MiB - 512


def test_expandable_segments_release_the_pages_in_the_middle_and_fill_them_again():
    seen = []
    a = allocator(conf="expandable_segments:True", observer=lambda *e: seen.append(e[:3]))
    first, hole, last = (a.malloc(50 * MiB) for _ in range(3))
    a.free(hole)
    a.empty_cache()
    base = first.address
    # pages at 60..100 lie wholly inside the hole 50..100; the tail 150..160 has none
    assert seen[-1] == ("segment_unmap", base + 60 * MiB, 40 * MiB)
    assert [s["total_size"] for s in a.snapshot()] == [60 * MiB, 60 * MiB]
    a.free(last)
    assert a.malloc(50 * MiB).address == last.address
    again = a.malloc(50 * MiB)
    assert again.address == base + 50 * MiB
    assert a.reserved == 160 * MiB


def test_an_expandable_range_left_empty_is_dropped():
    a = allocator(conf="expandable_segments:True")
    a.free(a.malloc(50 * MiB))
    a.empty_cache()
    assert (a.reserved, a.snapshot(), a.heads()) == (0, [], [])


def test_expandable_segments_run_out_page_by_page():
    a = allocator(100 * MiB, "expandable_segments:True")
    a.malloc(70 * MiB)
    with pytest.raises(AllocationFailed):
        a.malloc(31 * MiB)
    a.malloc(29 * MiB)
    assert a.reserved == 100 * MiB


def test_expandable_segments_make_do_with_few_addresses():
    a = allocator(16 * GiB, "expandable_segments:True", address_size=20 * GiB)
    a.malloc(MiB)
    blocks = [a.malloc(30 * MiB, stream=s) for s in range(4)]
    assert len({b.address for b in blocks}) == 4
    assert a.reserved == (2 + 40 * 4) * MiB


def test_expandable_segments_switched_off_are_left_alone():
    a = allocator(conf="expandable_segments:True")
    block = a.malloc(50 * MiB)
    a.free(block)
    a.settings = AllocatorSettings.parse("expandable_segments:False")
    other = a.malloc(30 * MiB)
    assert other.segment is None
    a.settings = AllocatorSettings.parse("expandable_segments:True")
    assert a.malloc(50 * MiB).address == block.address
