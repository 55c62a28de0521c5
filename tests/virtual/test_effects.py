"""What operations take beside their results: sizes and order as CUDA's kernels have them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch

from hfgpu_magic.virtual import VirtualGPU
from hfgpu_magic.virtual.kernels.indexing import radix_sort_pairs_bytes
from hfgpu_magic.virtual.kernels.reductions import staging
from hfgpu_magic.virtual.libraries import LibraryRules, cublas_workspace_size, cublaslt_workspace_size

MiB = 1 << 20
A100 = {"sm_count": 108, "threads_per_sm": 2048}


@contextmanager
def recorded() -> Iterator[list[tuple[str, int]]]:
    """The allocations and frees of the block, as (action, bytes)."""
    events: list[tuple[str, int]] = []
    torch.cuda.memory._record_memory_history(clear_history=True)
    yield events
    trace = torch.cuda.memory._snapshot()["device_traces"][0]
    events += [(e["action"], e["size"]) for e in trace if e["action"] in ("alloc", "free_completed")]
    torch.cuda.memory._record_memory_history(enabled=None)


def allocations(work: Callable[[], Any]) -> list[int]:
    with recorded() as events:
        kept = work()
    del kept
    return [size for action, size in events if action == "alloc"]


class TestReductions:
    def meta(self, *size: int) -> torch.Tensor:
        return torch.empty(size, device="meta")

    def test_a_sum_of_everything_as_recorded(self) -> None:
        # attention_fwd_bwd_from_empty: output.sum() of (8, 4096, 16) took 4, 256 and 4 bytes.
        assert staging(self.meta(8, 4096, 16), [0, 1, 2], 4, **A100) == (256, 4)

    def test_rows_that_one_block_each_can_add_up_need_none(self) -> None:
        assert staging(self.meta(4096, 4096), [1], 4, **A100) == (0, 0)

    def test_columns_are_shared_by_blocks_and_each_thread_keeps_a_vector(self) -> None:
        size, semaphores = staging(self.meta(8192, 4096), [0], 4, **A100)
        assert semaphores == 4 * 32
        # 54 blocks per group of columns, 32 x 4 partial results of 4 bytes in each.
        assert size == 4 * 4096 * 54 * 32 * 4

    def test_dimensions_of_one_run_together(self) -> None:
        assert staging(self.meta(4, 128, 1024), [0, 1], 4, **A100) == staging(
            self.meta(512, 1024), [0], 4, **A100
        )

    def test_nothing_to_add(self) -> None:
        assert staging(self.meta(0, 8), [0], 4, **A100) == (0, 0)

    def test_the_buffer_lives_as_long_as_the_kernel(self, a100: VirtualGPU) -> None:
        x = torch.empty(8, 4096, 16, device="cuda")
        with recorded() as events:
            y = x.sum()
        assert events == [
            ("alloc", 4), ("alloc", 256), ("alloc", 4), ("free_completed", 4), ("free_completed", 256),
        ]  # fmt: skip
        del y


class TestLibraries:
    @pytest.mark.parametrize(
        ("version", "cublas", "kept"),
        [("1.4", False, False), ("1.12.1", False, False), ("1.13", True, False), ("2.6.0+cu124", True, False),
         ("2.7", True, True), ("2.14.1+cu130", True, True)],
    )  # fmt: skip
    def test_rules_by_version(self, version: str, cublas: bool, kept: bool) -> None:
        rules = LibraryRules.of(version, {})
        assert (rules.cublas, rules.lt_kept, rules.lt_shared) == (cublas, kept, False)

    def test_one_workspace_for_both_only_where_asked_for(self) -> None:
        unified = {"TORCH_CUBLASLT_UNIFIED_WORKSPACE": "1"}
        assert LibraryRules.of("2.9", unified).lt_shared
        assert not LibraryRules.of("2.6", unified).lt_shared

    def test_sizes(self) -> None:
        assert cublas_workspace_size((8, 0), {}) == 8_519_680
        assert cublas_workspace_size((9, 0), {}) == 32 * MiB
        assert cublas_workspace_size((9, 0), {"CUBLAS_WORKSPACE_CONFIG": ":16:8"}) == 128 << 10
        assert cublaslt_workspace_size({}) == MiB
        assert cublaslt_workspace_size({"CUBLASLT_WORKSPACE_SIZE": "2048"}) == 2 * MiB
        assert cublaslt_workspace_size({"CUBLASLT_WORKSPACE_SIZE": "many"}) == MiB

    def _linear(self, version: str) -> list[tuple[str, int]]:
        with VirtualGPU("A100", torch_version=version):
            layer = torch.nn.Linear(64, 32, device="cuda")
            x = torch.empty(16, 64, device="cuda")
            with recorded() as events:
                for _ in range(2):
                    layer(x)
        return [e for e in events if e[1] > 4096]

    def test_cublaslt_takes_its_workspace_each_time_before_2_7(self) -> None:
        assert self._linear("2.4") == [
            ("alloc", MiB), ("alloc", 8_519_680), ("free_completed", MiB),
            ("alloc", MiB), ("free_completed", MiB),
        ]  # fmt: skip

    def test_cublaslt_keeps_it_since(self) -> None:
        assert self._linear("2.9") == [("alloc", 8_519_680), ("alloc", MiB)]

    def test_no_workspace_in_the_allocator_before_1_13(self) -> None:
        assert 8_519_680 not in [size for _, size in self._linear("1.10")]

    def test_a_plain_product_needs_cublas_only(self, a100: VirtualGPU) -> None:
        a, b = torch.empty(8, 16, device="cuda"), torch.empty(16, 8, device="cuda")
        assert allocations(lambda: a @ b) == [256, 8_519_680]

    def test_an_empty_product_needs_no_library(self, a100: VirtualGPU) -> None:
        a, b = torch.empty(0, 16, device="cuda"), torch.empty(16, 8, device="cuda")
        assert allocations(lambda: a @ b) == []

    def test_a_matrix_in_no_blas_layout_is_copied(self, a100: VirtualGPU) -> None:
        a, b = torch.empty(8, 32, device="cuda")[:, ::2], torch.empty(16, 8, device="cuda")
        warm = b @ torch.empty(8, 4, device="cuda")
        assert allocations(lambda: a @ b) == [8 * 8 * 4, 8 * 16 * 4]
        assert allocations(lambda: b.t() @ b) == [8 * 8 * 4]
        del warm


class TestScatteredSums:
    def test_sort_buffers(self) -> None:
        # lm_medium_ctx256_training and lm_medium_ctx1024_training: 10,000 rows are 14 bits.
        assert radix_sort_pairs_bytes(1024, 8, 8, 14) == 1
        assert radix_sort_pairs_bytes(4096, 8, 8, 14) == 72_191

    def test_index_put_as_recorded(self, a100: VirtualGPU) -> None:
        weight = torch.empty(10_000, 64, device="cuda", requires_grad=True)
        tokens = torch.zeros(4, 128, dtype=torch.long, device="cuda")
        rows = weight[tokens, :]
        grad = torch.empty_like(rows)
        found = allocations(lambda: torch.autograd.grad(rows, weight, grad))
        n = 4 * 128 * 8
        assert found == [10_000 * 64 * 4, n, n, n, n, n, 1]

    def test_embedding_keeps_partial_sums_per_row(self, a100: VirtualGPU) -> None:
        table = torch.nn.Embedding(1000, 64, device="cuda")
        few = torch.zeros(3072, dtype=torch.long, device="cuda")
        many = torch.zeros(3073, dtype=torch.long, device="cuda")

        def backward(tokens: torch.Tensor) -> list[int]:
            out = table(tokens)
            grad = torch.empty_like(out)
            return allocations(lambda: torch.autograd.grad(out, table.weight, grad))

        assert backward(few) == [1000 * 64 * 4]
        assert max(backward(many)[1:]) == (3073 // 10 + 1000) * 64 * 4


class TestGroupNorm:
    def test_backward_carries_fourteen_bytes_per_sample_and_channel(self, a100: VirtualGPU) -> None:
        # Groups of four channels: three sums per channel, two per group, in fp32.
        n, c, pixels = 8, 32, 64
        layer = torch.nn.GroupNorm(c // 4, c, device="cuda")
        y = layer(torch.empty(n, c, pixels, device="cuda", requires_grad=True))
        grad = torch.empty_like(y)
        found = allocations(lambda: y.backward(grad))
        assert sum(found) == y.numel() * 4 + 2 * c * 4 + 14 * n * c


def test_gradients_of_two_branches_are_added_in_place(a100: VirtualGPU) -> None:
    """Nobody else holds the first one, so autograd needs no third tensor."""
    x = torch.empty(256, 256, device="cuda", requires_grad=True)
    between = x * 2
    out = between.exp() + between.sigmoid()
    grad = torch.empty_like(out)
    # One gradient from each branch and the input's own; their sum is no fourth.
    assert allocations(lambda: out.backward(grad)) == 3 * [x.numel() * 4]
