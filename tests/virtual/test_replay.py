"""Recordings of real cards, replayed event by event."""

from __future__ import annotations

import csv
import gzip
import json
import os
import pickle
from pathlib import Path

import pytest

from hfgpu_magic.errors import UsageError
from hfgpu_magic.virtual.allocator import CachingAllocator
from hfgpu_magic.virtual.memory import DeviceMemory
from hfgpu_magic.virtual.replay import Replays, replay
from hfgpu_magic.virtual.trace import load

MiB = 1 << 20
EVIDENCE = Path(os.environ.get("HFGPU_EVIDENCE") or Path(__file__).parents[3] / "shared" / "evidence")
TRACES = sorted((EVIDENCE / "traces").glob("*.json.gz"))
needs_evidence = pytest.mark.skipif(not TRACES, reason=f"no recordings in {EVIDENCE / 'traces'}")


@needs_evidence
@pytest.mark.parametrize("path", TRACES, ids=[p.name.removesuffix(".json.gz") for p in TRACES])
def test_a_recording_of_a_real_card(path):
    """Every address, segment, release and final block, and the blind peak of reserved memory."""
    r = replay(path)
    assert r.events
    assert r.allocations
    assert r.blocks
    assert r.address_matches == r.allocations
    assert r.segment_matches == r.segment_events
    assert r.blocks_matches == r.blocks
    assert r.oom_matches == r.ooms
    assert r.peak_reserved_predicted == r.peak_reserved_recorded
    assert r.exact


@needs_evidence
def test_the_evidence_is_whole():
    """Counts of the evidence's own index, so that a reader dropping events would be noticed."""
    with (EVIDENCE / "traces" / "INDEX.csv").open(newline="") as f:
        index = {row["trace"]: row for row in csv.DictReader(f)}
    results = {r.trace: r for r in Replays.of(TRACES).traces}
    assert {name: int(row["events"]) for name, row in index.items()} == {
        n: r.events for n, r in results.items()
    }
    for name, row in index.items():
        ended = sum(s.size for d in load(EVIDENCE / "traces" / f"{name}.json.gz").devices for s in d.segments)
        assert ended == int(row["reserved_bytes_at_end"])


@needs_evidence
def test_the_real_out_of_memory_error():
    path = EVIDENCE / "traces" / "expandable_segments_real_oom_3gpu.json.gz"
    oom = [(i, e) for i, e in enumerate(load(path).devices[1].events) if e[0] == "oom"]
    assert oom == [(421, ("oom", 95_682_560, 5_308_694_528, 0))]
    r = replay(path)
    assert (r.ooms, r.oom_matches) == (1, 1)


# -- a recording of our own, and what must be noticed in a wrong one -----------------------------------


def recording() -> dict:
    """A small history made with the model itself, in the form torch.cuda.memory._snapshot() has."""
    events: list[dict] = []

    def note(action: str, address: int, size: int, stream: int) -> None:
        events.append({"action": action, "addr": address, "size": size, "stream": stream, "time_us": 0})

    a = CachingAllocator(DeviceMemory(1 << 34), observer=note)

    def malloc(nbytes: int):
        block = a.malloc(nbytes)
        note("alloc", block.address, nbytes, 0)
        return block

    def free(block) -> None:
        note("free_requested", block.address, block.requested, 0)
        note("free_completed", block.address, block.requested, 0)
        a.free(block)

    old = malloc(3 * MiB)
    stays = malloc(30 * MiB - 1000)
    del events[:]  # the recording starts here, with these two blocks in place
    free(old)
    blocks = [malloc(n) for n in (700, 5 * MiB, 64 * MiB, 5 * MiB, 700)]
    free(blocks[2])
    free(blocks[1])
    a.empty_cache()
    malloc(2 * MiB)
    free(stays)
    return {"device_traces": [events], "segments": a.snapshot(), "allocator_settings": {}}


def write(path: Path, data: dict) -> Path:
    path.write_bytes(pickle.dumps(data) if path.suffix == ".pickle" else json.dumps(data).encode())
    return path


@pytest.mark.parametrize("name", ["snapshot.pickle", "snapshot.json"])
def test_a_snapshot_as_torch_dumps_it(tmp_path, name):
    r = replay(write(tmp_path / name, recording()))
    assert r.trace == "snapshot"
    assert r.exact
    assert (r.allocations, r.segment_events) == (6, 3)
    assert r.peak_reserved_recorded == (20 + 30 + 2 + 64) * MiB
    assert "trace" in r.to_dict()


def move(data: dict, action: str) -> None:
    event = next(e for e in data["device_traces"][0] if e["action"] == action)
    event["addr"] += 2 * MiB


def invent(data: dict) -> None:
    data["device_traces"][0].append(
        {"action": "segment_alloc", "addr": 1 << 40, "size": 40 * MiB, "stream": 0}
    )


@pytest.mark.parametrize(
    ("damage", "figure"),
    [
        (lambda d: move(d, "alloc"), "address_matches"),
        (lambda d: move(d, "segment_free"), "segment_matches"),
        (invent, "segment_matches"),
        (lambda d: d["segments"][0]["blocks"].pop(), "blocks_matches"),
    ],
    ids=["address", "release", "segment", "block"],
)
def test_a_difference_is_counted(tmp_path, damage, figure):
    data = recording()
    damage(data)
    r = replay(write(tmp_path / "wrong.json", data))
    assert not r.exact
    whole = {
        "address_matches": r.allocations,
        "segment_matches": r.segment_events,
        "blocks_matches": r.blocks,
    }
    assert getattr(r, figure) < whole[figure]


def test_frees_that_waited_for_another_stream(tmp_path):
    """free_completed long after free_requested: the block may not be reused in between."""
    data = {"device_traces": [[]], "segments": [], "allocator_settings": {}}
    base = 1 << 40
    for action, address, size in [
        ("segment_alloc", base, 20 * MiB),
        ("alloc", base, 20 * MiB),
        ("free_requested", base, 20 * MiB),
        ("segment_alloc", base - 20 * MiB, 20 * MiB),
        ("alloc", base - 20 * MiB, 20 * MiB),
        ("free_completed", base, 20 * MiB),
        ("alloc", base, 20 * MiB),
    ]:
        data["device_traces"][0].append({"action": action, "addr": address, "size": size, "stream": 0})
    block = {"size": 20 * MiB, "requested_size": 20 * MiB, "state": "active_allocated"}
    for address in (base - 20 * MiB, base):
        data["segments"].append({
            "device": 0, "address": address, "total_size": 20 * MiB, "stream": 0, "segment_type": "large",
            "blocks": [block],
        })  # fmt: skip
    assert replay(write(tmp_path / "streams.json", data)).exact


# -- files that are none -------------------------------------------------------------------------------


class Harmful:
    def __reduce__(self):
        return (os.mkdir, ("made-by-a-pickle",))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("notes.txt", b"hello"),
        ("other.json", b'{"a": 1}'),
        ("list.json", b"[1, 2]"),
        ("cut.json.gz", gzip.compress(b'{"device_traces": []}', mtime=0)[:-9]),
        ("tensor.pickle", b"\x80\x04not a pickle"),
        ("harmful.pickle", pickle.dumps({"device_traces": Harmful(), "segments": []})),
        ("empty", b""),
    ],
)
def test_a_file_that_is_no_recording(tmp_path, monkeypatch, name, content):
    monkeypatch.chdir(tmp_path)
    Path(name).write_bytes(content)
    with pytest.raises(UsageError, match="is not a recording of the CUDA allocator") as caught:
        replay(name)
    assert name in str(caught.value)
    assert not Path("made-by-a-pickle").exists()


def test_a_recording_of_another_form(tmp_path):
    path = write(tmp_path / "odd.json", {"device_traces": [[{"what": 1}]], "segments": []})
    with pytest.raises(UsageError, match="unexpected form"):
        replay(path)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(UsageError, match="cannot be read"):
        replay(tmp_path / "nowhere.json")


# -- views ---------------------------------------------------------------------------------------------


def test_text_and_html(tmp_path):
    good = write(tmp_path / "good-<b>.json", recording())
    data = recording()
    invent(data)
    bad = write(tmp_path / ("a-very-long-name-of-a-recording-" * 3 + "end.json"), data)
    results = Replays.of([good, bad])
    text = results.to_text(width=80)
    assert max(map(len, text.splitlines()[:4])) <= 80
    assert "exact" in text
    assert "differs" in text
    assert "-end" in text
    html = results.to_html()
    assert "good-&lt;b&gt;" in html
    assert "<b>" not in html
    assert results.to_dict()["exact"] is False
    assert [t["exact"] for t in results.to_dict()["traces"]] == [True, False]
