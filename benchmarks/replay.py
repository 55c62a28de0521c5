"""How fast and how exact the allocator is, on the recordings of real cards.

python benchmarks/replay.py [FOLDER]     (default: ../shared/evidence/traces beside the repository)
"""

from __future__ import annotations

import gzip
import random
import sys
import time
from pathlib import Path

from hfgpu_magic.virtual.allocator import CachingAllocator
from hfgpu_magic.virtual.blocks import Block
from hfgpu_magic.virtual.memory import DeviceMemory
from hfgpu_magic.virtual.replay import Replays
from hfgpu_magic.virtual.trace import DeviceTrace, load


def microseconds_per_event(device: DeviceTrace, repeat: int = 5) -> float:
    """Best of `repeat`: the malloc and free calls of one recording, from an empty allocator."""
    calls = [
        (action == "alloc", address, size)
        for action, address, size, _ in device.events
        if action in ("alloc", "free_requested")
    ]
    best = float("inf")
    for _ in range(repeat):
        allocator = CachingAllocator(DeviceMemory(1 << 46))
        live: dict[int, Block] = {}
        done = 0
        began = time.perf_counter()
        for is_alloc, address, size in calls:
            if is_alloc:
                live[address] = allocator.malloc(size)
            elif address in live:
                allocator.free(live.pop(address))
            else:
                continue
            done += 1
        best = min(best, (time.perf_counter() - began) / max(done, 1))
    return best * 1e6


def random_program(events: int = 200_000) -> float:
    """Microseconds an event with about 600 live tensors of mixed sizes, freed in random order."""
    rng = random.Random(1)
    allocator = CachingAllocator(DeviceMemory(1 << 40))
    sizes = [rng.choice((300, 4096, 1 << 19, 3 << 20, 40 << 20)) for _ in range(events)]
    picks = [rng.random() for _ in range(events)]
    live: list[Block] = []
    began = time.perf_counter()
    for size, pick in zip(sizes, picks, strict=True):
        if len(live) < 600 or pick < 0.5:
            live.append(allocator.malloc(size))
        else:
            allocator.free(live.pop(int(pick * 1e6) % len(live)))
    return (time.perf_counter() - began) / events * 1e6


def main() -> int:
    default = Path(__file__).parents[2] / "shared" / "evidence" / "traces"
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else default
    paths = sorted(folder.glob("*.json.gz"))
    if not paths:
        print(f"No recordings (*.json.gz) in {folder}.", file=sys.stderr)
        return 1
    began = time.perf_counter()
    results = Replays.of(paths)
    seconds = time.perf_counter() - began
    print(results.to_text(width=120))
    size = sum(len(gzip.decompress(p.read_bytes())) for p in paths)
    print(f"\nwhole: {seconds:.2f} s with reading {size / 1e6:.1f} MB of JSON, each recording replayed twice")
    for path in paths:
        for device in load(path).devices:
            if len(device.events) > 9000:
                cost = microseconds_per_event(device)
                print(f"{path.name.removesuffix('.json.gz'):34} {cost:.2f} us per malloc or free")
    print(f"{'random program':34} {random_program():.2f} us per malloc or free")
    return 0 if results.exact else 1


if __name__ == "__main__":
    sys.exit(main())
