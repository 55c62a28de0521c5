"""PYTORCH_CUDA_ALLOC_CONF as PyTorch reads it, and PyTorch itself as the witness."""

from __future__ import annotations

import ctypes
import random
from pathlib import Path

import pytest

from hfgpu_magic.errors import UsageError
from hfgpu_magic.virtual.settings import UNLIMITED, AllocatorSettings, AllocatorSettingsError

MiB = 1 << 20


def test_defaults():
    s = AllocatorSettings.from_environ({})
    assert s == AllocatorSettings()
    assert (s.max_split_size, s.large_segment_size, s.expandable_segments) == (UNLIMITED, 20 * MiB, False)


def test_the_cuda_variable_comes_first():
    environ = {
        "PYTORCH_ALLOC_CONF": "max_split_size_mb:30",
        "PYTORCH_CUDA_ALLOC_CONF": "max_split_size_mb:40",
    }
    assert AllocatorSettings.from_environ(environ).max_split_size == 40 * MiB
    del environ["PYTORCH_CUDA_ALLOC_CONF"]
    assert AllocatorSettings.from_environ(environ).max_split_size == 30 * MiB


def test_everything_at_once():
    s = AllocatorSettings.parse(
        "expandable_segments:True, max_split_size_mb:128,garbage_collection_threshold:0.8,"
        "roundup_power2_divisions:[256:1,512:2,1024:4,>:8],max_non_split_rounding_mb:40,"
        "per_process_memory_fraction:0.5,pinned_use_background_threads:True,backend:native"
    )
    assert s.expandable_segments
    assert (s.max_split_size, s.max_non_split_rounding) == (128 * MiB, 40 * MiB)
    assert (s.garbage_collection_threshold, s.per_process_memory_fraction) == (0.8, 0.5)
    assert s.roundup_power2_divisions == (1,) * 9 + (2, 4) + (8,) * 5
    assert s.ignored == {"pinned_use_background_threads": "True"}
    assert s.notes == ()


def test_the_asynchronous_backend_is_named_as_not_modelled():
    (note,) = AllocatorSettings.parse("backend:cudaMallocAsync").notes
    assert "not modelled" in note


def test_what_a_second_text_keeps():
    first = AllocatorSettings.parse("expandable_segments:True,large_segment_size_mb:30,max_split_size_mb:64")
    second = AllocatorSettings.parse("garbage_collection_threshold:0.5", first)
    assert second.expandable_segments
    assert second.large_segment_size == second.max_non_split_rounding == 30 * MiB
    assert (second.max_split_size, second.garbage_collection_threshold) == (UNLIMITED, 0.5)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("max_split_size_mb:5", "CachingAllocator option max_split_size_mb too small, must be >= 20"),
        (
            "max_non_split_rounding_mb:1",
            "CachingAllocator option max_non_split_rounding_mb too small, must be >= 20",
        ),
        ("large_segment_size_mb:10", "CachingAllocator option large_segment_size_mb must be > 10 MB"),
        ("garbage_collection_threshold:1", "garbage_collect_threshold is invalid, set it in (0.0, 1.0)"),
        (
            "expandable_segments:true",
            "Expected 'True' or 'False' at index 2 in ConfigTokenizer but got 'true'",
        ),
        ("roundup_power2_divisions:3", "For roundups, the divisions has to be power of 2 "),
        ("roundup_power2_divisions:[3:2]", "For roundups, the intervals have to be power of 2 "),
        (
            "roundup_power2_divisions:[4:3]",
            "For roundups, the divisions has to be power of 2 or 0 to disable roundup ",
        ),
        ("max_split_size:5", "Unrecognized key 'max_split_size' in CUDA allocator config."),
        ("backend:fast", "Unknown allocator backend, options are native and cudaMallocAsync"),
        ("per_process_memory_fraction:2", "per_process_memory_fraction is invalid, set it in [0.0, 1.0]"),
        ("pinned_num_register_threads:3", "Number of register threads has to be power of 2, got 3"),
        (
            "pinned_num_register_threads:256",
            "Number of register threads should be less than or equal to 128, got 256",
        ),
        ("pinned_reserve_segment_size_mb:0", "Pinned reserve segment size has to be greater than 0"),
        ("max_split_size_mb:x", "stoull"),
        ("garbage_collection_threshold:x", "stod"),
    ],
)
def test_refusals_in_pytorchs_words(text, message):
    with pytest.raises(AllocatorSettingsError) as caught:
        AllocatorSettings.parse(text)
    assert str(caught.value) == message
    assert isinstance(caught.value, (ValueError, UsageError))


@pytest.mark.parametrize("text", ["max_split_size_mb", "max_split_size_mb:", "roundup_power2_divisions:[1:2"])
def test_a_text_that_ends_too_early(text):
    with pytest.raises(AllocatorSettingsError, match="Index out of bounds in ConfigTokenizer"):
        AllocatorSettings.parse(text)


class Torch:
    """The parser inside libc10, which every build of torch has, GPU or not."""

    def __init__(self) -> None:
        torch = pytest.importorskip("torch")
        if tuple(int(n) for n in torch.__version__.split(".")[:2]) < (2, 13):
            pytest.skip("torch is older than the parser that is modelled")
        path = Path(torch.__file__).parent / "lib" / "libc10.so"
        if not path.exists():
            pytest.skip("no libc10.so to ask")
        self.set = torch._C._accelerator_setAllocatorSettings
        self.divisions = ctypes.CDLL(str(path))[
            "_ZN3c1016CachingAllocator26AcceleratorAllocatorConfig24roundup_power2_divisionsEm"
        ]
        self.divisions.restype, self.divisions.argtypes = ctypes.c_size_t, [ctypes.c_size_t]


@pytest.fixture
def torch_parser():
    parser = Torch()
    yield parser
    parser.set("expandable_segments:False,large_segment_size_mb:20")


def texts() -> list[str]:
    """Well-formed and damaged roundup tables and other settings, always the same ones."""
    rng = random.Random(7)
    found = ["", ":", ",", "roundup_power2_divisions:[]", "roundup_power2_divisions:[>:4]"]
    for _ in range(300):
        entries = [
            f"{rng.choice(['1', '2', '4', '64', '512', '65536', '131072', '3', '>'])}:{rng.choice('0124838')}"
            for _ in range(rng.randrange(1, 4))
        ]
        text = f"roundup_power2_divisions:[{','.join(entries)}]"
        if rng.random() < 0.2:
            text = rng.choice(
                ["roundup_power2_divisions:4", "roundup_power2_divisions:0", "max_split_size_mb:5"]
            )
        if rng.random() < 0.2:
            text += rng.choice(
                [",max_split_size_mb:30", ",expandable_segments:yes", " , ", ",max_split_size_mb"]
            )
        found.append(text)
    return found


def test_pytorch_agrees(torch_parser):
    """Same tables, same refusals, for every text."""
    accepted = 0
    for text in texts():
        ours = theirs = None
        try:
            torch_parser.set(text)
        except (ValueError, RuntimeError, IndexError) as error:
            theirs = str(error).splitlines()[0]
        try:
            settings = AllocatorSettings.parse(text)
        except AllocatorSettingsError as error:
            ours = str(error)
        if theirs is None:
            assert ours is None, text
            sizes = [1 << p for p in range(9, 38)] + [(1 << p) + 1 for p in range(20, 37)]
            assert [settings.divisions_for(n) for n in sizes] == [torch_parser.divisions(n) for n in sizes], (
                text
            )
            accepted += 1
        elif "Index out of bounds" in theirs:
            assert ours is not None, text
            assert ours.startswith("Index out of bounds"), text
        else:
            assert ours == theirs.strip("\n"), text
    assert accepted > 50
