"""What holds in the allocator at any time, whatever a program does."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest

from hfgpu_magic.virtual.allocator import AllocationFailed, AllocatorSettings, Block, CachingAllocator
from hfgpu_magic.virtual.blocks import FREE, UNMAPPED
from hfgpu_magic.virtual.memory import DeviceMemory

GiB = 1 << 30


def allocator(total: int = 16 * GiB, conf: str = "", **more) -> CachingAllocator:
    return CachingAllocator(DeviceMemory(total), AllocatorSettings.parse(conf), **more)


def chain(head: Block) -> list[Block]:
    found, block = [], head
    while block is not None:
        found.append(block)
        block = block.next
    return found


@pytest.mark.parametrize(
    "conf",
    [
        "",
        "expandable_segments:True",
        "max_split_size_mb:64",
        "roundup_power2_divisions:4",
        "large_segment_size_mb:32",
    ],
)
def test_invariants_under_a_random_program(conf):
    rng = random.Random(20)
    a = allocator(3 * GiB, conf)
    a.stream_finished = lambda stream, block: rng.random() < 0.5
    live: list[Block] = []
    peak = failures = 0
    for step in range(4000):
        roll = rng.random()
        if roll < 0.55 or not live:
            nbytes = int(2 ** rng.uniform(4, 28))
            try:
                live.append(a.malloc(nbytes, rng.choice((0, 0, 0, 1))))
            except AllocationFailed:
                failures += 1
                for block in live[::2]:
                    a.free(block)
                live = live[1::2]
        elif roll < 0.97:
            block = live.pop(rng.randrange(len(live)))
            if rng.random() < 0.05:
                a.record_stream(block, 2)
            a.free(block)
        elif roll < 0.99:
            a.empty_cache()
        peak = max(peak, a.allocated)
        if step % 200 == 0:
            check(a, live)
    check(a, live)
    assert failures >= 3
    assert a.max_allocated == peak == a.memory_stats()["allocated_bytes.all.peak"]
    for block in live:
        a.free(block)
    a.empty_cache()
    assert (a.allocated, a.reserved, a.active, a.device.reserved) == (0, 0, 0, 0)
    assert not {k: v for k, v in a.memory_stats().items() if k.endswith(".current") and v}


def check(a: CachingAllocator, live: list[Block]) -> None:
    """What must hold at any time, counted over from scratch."""
    stats, snapshot = a.memory_stats(), a.snapshot()
    expandable = a.settings.expandable_segments
    assert {b.address for b in live if b.size} <= {b["address"] for s in snapshot for b in s["blocks"]}
    for head in a.heads():
        blocks = chain(head)
        for lower, upper in pairwise(blocks):
            assert lower.address + lower.size == upper.address
            assert upper.prev is lower
            assert not (lower.state == upper.state and lower.state in (FREE, UNMAPPED))
    for kind in ("small", "large"):
        mine = [s for s in snapshot if s["segment_type"] == kind]
        blocks = [(s, b) for s in mine for b in s["blocks"]]
        active = [b for _, b in blocks if b["state"] != "inactive"]
        counted = {
            "reserved_bytes": sum(s["total_size"] for s in mine),
            "allocated_bytes": sum(b["size"] for _, b in blocks if b["state"] == "active_allocated"),
            "allocation": sum(b["state"] == "active_allocated" for _, b in blocks),
            "active_bytes": sum(b["size"] for b in active),
            "active": len(active),
            "requested_bytes": sum(b["requested_size"] for b in active),
        }
        if not expandable:
            split = [b for s, b in blocks if b["state"] == "inactive" and len(s["blocks"]) > 1]
            counted |= {
                "segment": len(mine),
                "inactive_split": len(split),
                "inactive_split_bytes": sum(b["size"] for b in split),
            }
        assert counted == {name: stats[f"{name}.{kind}_pool.current"] for name in counted}
    for name in ("allocation", "reserved_bytes", "active_bytes", "requested_bytes", "inactive_split_bytes"):
        for pool in ("all", "small_pool", "large_pool"):
            one = {m: stats[f"{name}.{pool}.{m}"] for m in ("current", "peak", "allocated", "freed")}
            assert one["allocated"] - one["freed"] == one["current"] <= one["peak"] <= one["allocated"]
    assert a.device.reserved == a.reserved == stats["reserved_bytes.all.current"]
