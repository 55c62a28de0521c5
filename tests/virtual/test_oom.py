"""The text of the out-of-memory error, against messages people have pasted from real cards."""

from __future__ import annotations

import pytest

from hfgpu_magic.virtual.allocator import AllocationFailed, AllocatorSettings, CachingAllocator
from hfgpu_magic.virtual.memory import DeviceMemory
from hfgpu_magic.virtual.oom import format_size, out_of_memory_message, version_of

MiB, GiB = 1 << 20, 1 << 30


def size(text: str) -> int:
    number, unit = text.split()
    return round(float(number) * {"MiB": MiB, "GiB": GiB}[unit])


# version, device, tried, total, free, (other pid, its use), own use, allocated, unallocated, text
REPORTED = [
    (  # murong-xu/CADS issue 4
        "2.7.0", 0, "22.78 GiB", "31.47 GiB", "12.73 GiB", None, "18.73 GiB", "9.08 GiB", "9.35 GiB",
        ("CUDA out of memory. Tried to allocate 22.78 GiB. GPU 0 has a total capacity of 31.47 GiB of which "
        "12.73 GiB is free. Including non-PyTorch memory, this process has 18.73 GiB memory in use. Of the "
        "allocated memory 9.08 GiB is allocated by PyTorch, and 9.35 GiB is reserved by PyTorch but "
        "unallocated. If reserved but unallocated memory is large try setting "
        "PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True to avoid fragmentation.  See documentation for "
        "Memory Management  (https://pytorch.org/docs/stable/notes/cuda.html#environment-variables)"),
    ),
    (  # huggingface/trl pull request 5197, February 2026
        "2.10.0", 0, "2.60 GiB", "14.74 GiB", "2.44 GiB", (21197, "366.00 MiB"), None, "7.85 GiB",
        "86.90 MiB",
        ("CUDA out of memory. Tried to allocate 2.60 GiB. GPU 0 has a total capacity of 14.74 GiB of which "
        "2.44 GiB is free. Process 21197 has 366.00 MiB memory in use. Of the allocated memory 7.85 GiB is "
        "allocated by PyTorch, and 86.90 MiB is reserved by PyTorch but unallocated. If reserved but "
        "unallocated memory is large try setting PYTORCH_ALLOC_CONF=expandable_segments:True to avoid "
        "fragmentation.  See documentation for Memory Management  "
        "(https://pytorch.org/docs/stable/notes/cuda.html#environment-variables)"),
    ),
    (  # a run on a 10.56 GiB card with the link of January 2026
        "2.11.0+cu128", 0, "4.00 GiB", "10.56 GiB", "3.49 GiB", None, "7.06 GiB", "6.78 GiB", "97.98 MiB",
        ("CUDA out of memory. Tried to allocate 4.00 GiB. GPU 0 has a total capacity of 10.56 GiB of which "
        "3.49 GiB is free. Including non-PyTorch memory, this process has 7.06 GiB memory in use. Of the "
        "allocated memory 6.78 GiB is allocated by PyTorch, and 97.98 MiB is reserved by PyTorch but "
        "unallocated. If reserved but unallocated memory is large try setting "
        "PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True to avoid fragmentation.  See documentation for "
        "Memory Management  (https://docs.pytorch.org/docs/stable/notes/cuda.html"
        "#optimizing-memory-usage-with-pytorch-cuda-alloc-conf)"),
    ),
    (  # torch 2.1 on a shared card, misspelling included
        "2.1.2", 0, "4.50 GiB", "23.69 GiB", "3.19 GiB", (2006998, "256.00 MiB"), "20.23 GiB", "19.90 GiB",
        "32.75 MiB",
        ("CUDA out of memory. Tried to allocate 4.50 GiB. GPU 0 has a total capacty of 23.69 GiB of which "
        "3.19 GiB is free. Process 2006998 has 256.00 MiB memory in use. Including non-PyTorch memory, this "
        "process has 20.23 GiB memory in use. Of the allocated memory 19.90 GiB is allocated by PyTorch, and "
        "32.75 MiB is reserved by PyTorch but unallocated. If reserved but unallocated memory is large try "
        "setting max_split_size_mb to avoid fragmentation.  See documentation for Memory Management and "
        "PYTORCH_CUDA_ALLOC_CONF"),
    ),
    (  # torch 1.x, reported with 20 MiB tried
        "1.12.1", 0, "20.00 MiB", "4.00 GiB", "0.00 GiB", None, None, "3.40 GiB", "51.20 MiB",
        ("CUDA out of memory. Tried to allocate 20.00 MiB (GPU 0; 4.00 GiB total capacity; 3.40 GiB already "
        "allocated; 0 bytes free; 3.45 GiB reserved in total by PyTorch) If reserved memory is >> allocated "
        "memory try setting max_split_size_mb to avoid fragmentation.  See documentation for Memory "
        "Management and PYTORCH_CUDA_ALLOC_CONF"),
    ),
]  # fmt: skip


@pytest.mark.parametrize("row", REPORTED, ids=[row[0] for row in REPORTED])
def test_reported_messages(row):
    version, device, tried, total, free, other, own, allocated, unallocated, text = row
    if total == "4.00 GiB":
        total = "4.0001 GiB"  # exactly 4 GiB prints the same
    assert text == out_of_memory_message(
        version,
        requested=size(tried),
        device_index=device,
        total=size(total),
        free=size(free),
        process_memory=None if own is None else size(own),
        allocated=size(allocated),
        reserved_unallocated=size(unallocated),
        other_processes=() if other is None else ((other[0], size(other[1])),),
    )


def test_fraction_and_private_pools():
    """The order and arithmetic of a report from torch 2.9 (ROCm/TheRock issue 2118)."""
    text = out_of_memory_message(
        "2.9.0",
        requested=2 * MiB,
        device_index=0,
        total=size("255.98 GiB"),
        free=size("244.65 GiB"),
        process_memory=None,
        allowed=size("1.05 GiB"),
        allocated=1000 * MiB,
        reserved_unallocated=72 * MiB,
        private_pools=17 * MiB,
    )
    assert (
        "of which 244.65 GiB is free. 1.05 GiB allowed; Of the allocated memory 1017.00 MiB is allocated by "
        "PyTorch, with 17.00 MiB allocated in private pools (e.g., CUDA Graphs), and 55.00 MiB is reserved "
        "by PyTorch but unallocated."
    ) in text


@pytest.mark.parametrize(
    ("nbytes", "text"),
    [
        (0, "0 bytes"),
        (1024, "1024 bytes"),
        (1536, "1.50 KiB"),
        (MiB, "1024.00 KiB"),
        (20 * MiB, "20.00 MiB"),
        (GiB, "1024.00 MiB"),
        (GiB + GiB // 2, "1.50 GiB"),
        (17179869184 * GiB, "17179869184.00 GiB"),
    ],
)
def test_sizes(nbytes, text):
    assert format_size(nbytes) == text


@pytest.mark.parametrize(
    ("text", "version"), [("2.13.0+cu130", (2, 13)), ("2.4.0a0+git1", (2, 4)), ("1.9", (1, 9))]
)
def test_versions(text, version):
    assert version_of(text) == version


def test_not_a_version():
    with pytest.raises(ValueError, match="nightly"):
        version_of("nightly")


def test_a_failed_allocation_knows_its_message():
    a = CachingAllocator(DeviceMemory(8 * GiB, context=GiB // 2, other_processes=GiB))
    a.malloc(3 * GiB)
    with pytest.raises(AllocationFailed) as caught:
        a.malloc(4 * GiB + 1)
    text = caught.value.message("2.13.0", 1, [(4711, GiB)])
    assert text.startswith(
        "CUDA out of memory. Tried to allocate 4.00 GiB. GPU 1 has a total capacity of 8.00 GiB of which "
        "3.50 GiB is free. Process 4711 has 1024.00 MiB memory in use. Including non-PyTorch memory, this "
        "process has 3.50 GiB memory in use. Of the allocated memory 3.00 GiB is allocated by PyTorch, and "
        "0 bytes is reserved by PyTorch but unallocated. "
    )


def test_a_preemptive_refusal_says_so():
    a = CachingAllocator(
        DeviceMemory(GiB),
        AllocatorSettings.parse("per_process_memory_fraction:0.5,throw_on_cudamalloc_oom:True"),
    )
    with pytest.raises(AllocationFailed) as caught:
        a.malloc(600 * MiB)
    assert "preemptively rejected" in caught.value.message("2.14.1")
    assert "600.00 MiB" in caught.value.message("2.14.1")
