"""Programs of recorded allocators run on virtual cards and compared event by event (part of `fidelity.py`).

Compared are the sequences of (action, requested bytes): allocations, frees, and segments taken and given
back, in order.  Peaks: bytes requested and bytes reserved, worked out from the events of both sides and
the blocks alive at their end.
"""

from __future__ import annotations

import difflib
import fnmatch
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.published.traces import Recording, recordings
from hfgpu_magic.units import MiB
from hfgpu_magic.virtual.trace import DeviceTrace, load


@dataclass(frozen=True)
class TraceOutcome:
    """One recording against one run.  Bytes."""

    name: str
    events_recorded: int
    events_predicted: int
    allocations_recorded: int
    allocations_predicted: int
    equal_before_divergence: int
    """Events equal from the start on; all of them when nothing differs."""
    allocations_equal: int
    """Allocations that agree with the recording, as one sequence aligned to the other."""
    first_divergence: str
    peak_requested: tuple[int, int]
    """(recorded, predicted)"""
    peak_reserved: tuple[int, int]
    seconds: float
    missing: str = ""
    failure: str = ""

    @property
    def exact(self) -> bool:
        return not self.failure and not self.first_divergence


Events = list[tuple[str, int]]


def run(only: str, folder: Path) -> Iterator[TraceOutcome]:
    for recording in recordings():
        path = folder / f"{recording.name}.json.gz"
        if not (fnmatch.fnmatch(recording.name, only) or fnmatch.fnmatch("traces", only)):
            continue
        if not path.is_file():
            print(f"No recording at {path}. Skipped.", file=sys.stderr)
            continue
        yield _compare(recording, path)


def _compare(recording: Recording, path: Path) -> TraceOutcome:
    began = time.perf_counter()
    theirs, ours, failure = load(path).devices[0], DeviceTrace(0, [], []), ""
    try:
        ours = record(recording)
    except Exception as error:  # noqa: BLE001 -- one recording's failure is a line of the table
        failure = f"{type(error).__name__}: {error}".splitlines()[0]
        traceback.print_exc(file=sys.stderr)
    a, b = _events(theirs), _events(ours)
    equal = next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
    divergence = ""
    if equal < max(len(a), len(b)):
        divergence = f"event {equal}: recorded {_say(a, equal)}, predicted {_say(b, equal)}"
    sizes_a, sizes_b = ([n for action, n in events if action == "alloc"] for events in (a, b))
    return TraceOutcome(
        recording.name,
        len(a),
        len(b),
        len(sizes_a),
        len(sizes_b),
        equal,
        _aligned(sizes_a, sizes_b),
        divergence,
        (_peak(theirs, "alloc", "free_completed"), _peak(ours, "alloc", "free_completed")),
        (_peak(theirs, "segment_alloc", "segment_free"), _peak(ours, "segment_alloc", "segment_free")),
        time.perf_counter() - began,
        recording.missing,
        failure,
    )


def record(recording: Recording) -> DeviceTrace:
    """Run the program on its card with the history recorder on, as the recording was made."""
    import torch

    from hfgpu_magic import VirtualGPU

    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        path = Path(folder) / "snapshot.pickle"
        with VirtualGPU(recording.gpu, torch_version=recording.torch):
            kept = recording.program(lambda: torch.cuda.memory._record_memory_history(max_entries=10**7))
            torch.cuda.memory._dump_snapshot(str(path))
            torch.cuda.memory._record_memory_history(enabled=None)
            del kept
        return load(path).devices[0]


def _events(trace: DeviceTrace) -> Events:
    return [(action, size) for action, _, size, _ in trace.events if action != "snapshot"]


def _say(events: Events, at: int) -> str:
    return f"{events[at][0]} {events[at][1]}" if at < len(events) else "nothing"


def _aligned(a: list[int], b: list[int]) -> int:
    if a == b:
        return len(a)
    matcher = difflib.SequenceMatcher(None, a, b, autojunk=False)
    return sum(block.size for block in matcher.get_matching_blocks())


def _peak(trace: DeviceTrace, up: str, down: str) -> int:
    """The highest sum of sizes between events, worked back from what is there at the end."""
    if up == "segment_alloc":
        end = sum(s.size for s in trace.segments)
    else:
        end = sum(b.requested for s in trace.segments for b in s.blocks if b.active)
    level = highest = end
    for action, _, size, _ in reversed(trace.events):
        if action == up:
            level -= size
        elif action == down:
            level += size
            highest = max(highest, level)
    return highest


def print_table(outcomes: Sequence[TraceOutcome]) -> None:
    if not outcomes:
        return
    columns = ("recording", "allocations", "equal", "events", "peak requested", "peak reserved")
    print("\n{:<36} {:>13} {:>6} {:>13} {:>26} {:>26}".format(*columns))
    for o in outcomes:
        peaks = [
            f"{p / MiB:.1f}/{m / MiB:.1f} ({100 * (p - m) / m:+.2f} %)" if m else "-"
            for m, p in (o.peak_requested, o.peak_reserved)
        ]
        allocations = f"{o.allocations_predicted}/{o.allocations_recorded}"
        events = f"{o.events_predicted}/{o.events_recorded}"
        print(
            f"{o.name:<36} {allocations:>13} {o.allocations_equal:>6} "
            f"{events:>13} {peaks[0]:>26} {peaks[1]:>26}"
        )
        found = "exact, event by event" if o.exact else o.failure or o.first_divergence
        print(f"    {found}{'; ' + o.missing if o.missing else ''}")
    print("(predicted/recorded; MiB)")
