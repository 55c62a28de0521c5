"""`torch.cuda` and the device names, as a program sees them on a virtual card."""

from __future__ import annotations

import copy
from collections.abc import Callable
from itertools import pairwise
from typing import Any, ClassVar

import pytest
import torch
from torch import nn

from hfgpu_magic.virtual import VirtualGPU

MIB = 1 << 20
CUDA0 = torch.device("cuda", 0)


class TestTheCard:
    def test_properties(self, t4: VirtualGPU) -> None:
        properties = torch.cuda.get_device_properties(0)
        assert properties.name == torch.cuda.get_device_name("cuda:0") == "Tesla T4"
        assert (properties.major, properties.minor) == torch.cuda.get_device_capability() == (7, 5)
        assert properties.total_memory == t4.gpu.memory_total
        assert properties.multi_processor_count == 40
        assert torch.cuda.device_count() == 1
        assert torch.cuda.current_device() == 0

    def test_there_is_one_card(self, t4: VirtualGPU) -> None:
        for use in (
            lambda: torch.ones(1, device="cuda:1"),
            lambda: torch.ones(1).to("cuda:1"),
            lambda: torch.ones(1).cuda(1),
            lambda: torch.cuda.set_device(1),
            lambda: torch.cuda.get_device_properties(1),
        ):
            with pytest.raises(
                (torch.AcceleratorError, AssertionError), match=r"invalid device ordinal|Invalid device id"
            ):
                use()

    def test_bf16_is_native_from_ampere_on(self) -> None:
        for name, native in (("T4", False), ("A100 40GB", True)):
            with VirtualGPU(name):
                assert torch.cuda.is_bf16_supported(including_emulation=False) is native

    def test_the_accelerator_api_answers_for_the_card(self, t4: VirtualGPU) -> None:
        assert torch.accelerator.is_available()
        assert torch.accelerator.current_accelerator() == torch.device("cuda")
        assert torch.accelerator.device_count() == 1
        torch.accelerator.synchronize()

    def test_streams_events_and_synchronization_are_accepted(self, a100: VirtualGPU) -> None:
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            x = torch.ones(1024, 1024, device="cuda")
            y = x @ x
            y.record_stream(stream)
        end.record()
        torch.cuda.synchronize()
        # At least as long as the card needs for 2 * 1024^3 FLOP in fp32.
        assert start.elapsed_time(end) >= 1e3 * 2 * 1024**3 / a100.gpu.rates["tf32"]


class TestMemoryNumbers:
    def test_allocated_reserved_and_free_are_consistent(self, t4: VirtualGPU) -> None:
        free, total = torch.cuda.mem_get_info()
        assert total == t4.gpu.memory_total
        x = torch.empty(3 * MIB, dtype=torch.uint8, device="cuda")
        assert torch.cuda.memory_allocated() == 3 * MIB
        assert torch.cuda.memory_reserved() == 20 * MIB  # requests of 1 to 10 MiB take a 20 MiB segment
        assert torch.cuda.mem_get_info()[0] == free - 20 * MIB
        del x
        assert torch.cuda.memory_allocated() == 0
        assert torch.cuda.memory_reserved() == 20 * MIB
        torch.cuda.empty_cache()
        assert torch.cuda.memory_reserved() == 0
        assert torch.cuda.mem_get_info()[0] == free

    def test_peaks_stay_until_reset(self, t4: VirtualGPU) -> None:
        x = torch.empty(8 * MIB, dtype=torch.uint8, device="cuda")
        del x
        assert torch.cuda.max_memory_allocated() == 8 * MIB
        assert torch.cuda.max_memory_reserved() == 20 * MIB
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        assert torch.cuda.max_memory_allocated() == 0
        assert torch.cuda.max_memory_reserved() == 0

    def test_the_report_keeps_the_peak_a_program_has_reset(self, t4: VirtualGPU) -> None:
        x = torch.empty(64 * MIB, dtype=torch.uint8, device="cuda")
        del x
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        assert t4.report.peak.allocated == 64 * MIB
        assert t4.report.peak.reserved == 64 * MIB

    def test_statistics_and_summary(self, t4: VirtualGPU) -> None:
        kept = torch.empty(1000, dtype=torch.uint8, device="cuda")
        stats = torch.cuda.memory_stats()
        assert stats["allocated_bytes.all.current"] == 1024
        assert stats["requested_bytes.all.current"] == 1000
        assert stats["reserved_bytes.small_pool.current"] == 2 * MIB
        assert stats["num_ooms"] == 0
        assert "PyTorch CUDA memory summary" in torch.cuda.memory_summary()
        assert "GPU reserved memory" in torch.cuda.memory_summary()
        assert torch.cuda.memory_snapshot()[0]["total_size"] == 2 * MIB
        assert kept.numel() == 1000

    def test_a_fraction_of_the_card_can_be_set(self, t4: VirtualGPU) -> None:
        assert torch.cuda.get_per_process_memory_fraction() == 1.0
        torch.cuda.set_per_process_memory_fraction(0.25)
        assert torch.cuda.get_per_process_memory_fraction() == pytest.approx(0.25)
        with pytest.raises(torch.OutOfMemoryError, match=r"allowed"):
            torch.empty(t4.gpu.memory_total // 2, dtype=torch.uint8, device="cuda")
        torch.empty(t4.gpu.memory_total // 8, dtype=torch.uint8, device="cuda")

    def test_views_share_memory_and_copies_do_not(self, t4: VirtualGPU) -> None:
        x = torch.empty(MIB, device="cuda")
        before = torch.cuda.memory_allocated()
        views = [
            x.view(1024, -1),
            x[5:],
            x.reshape(2, -1),
            x.expand(4, -1),
            x.detach(),
            x.unfold(0, 4, 2),
            x.flatten(),
        ]
        assert torch.cuda.memory_allocated() == before
        assert {v.untyped_storage().data_ptr() for v in views} == {x.untyped_storage().data_ptr()}
        kept = x.clone()
        assert torch.cuda.memory_allocated() == before + kept.nbytes

    def test_addresses_are_distinct_and_aligned(self, t4: VirtualGPU) -> None:
        tensors = [torch.empty(n, device="cuda") for n in (1, 1000, MIB)]
        spans = sorted((t.data_ptr(), t.data_ptr() + t.nbytes) for t in tensors)
        assert all(start % 512 == 0 for start, _ in spans)
        assert all(end <= start for (_, end), (start, _) in pairwise(spans))


class TestDevices:
    def test_a_device_is_cuda_everywhere(self, t4: VirtualGPU) -> None:
        x = torch.ones(2, device="cuda")
        assert x.device == CUDA0
        assert x.is_cuda
        assert not x.is_cpu
        assert x.get_device() == 0
        assert x.type() == "torch.cuda.FloatTensor"
        assert x.untyped_storage().device == CUDA0
        assert "device='cuda:0'" in repr(x)
        assert "vgpu" not in repr(x) + repr(x.untyped_storage().device) + str(x.device)

    @pytest.mark.parametrize("device", ["cuda", "cuda:0", 0, torch.device("cuda"), CUDA0], ids=repr)
    def test_every_spelling_moves_there(self, device: Any, t4: VirtualGPU) -> None:
        for moved in (
            torch.ones(2).to(device),
            torch.ones(2, device=device),
            torch.tensor([1], device=device),
            torch.ones(2).cuda(device),
            nn.Linear(1, 1).to(device).weight,
            torch.as_tensor([1], device=device),
            torch.ones(2).new_zeros(3, device=device),
            torch.randn(2, device=device),
            torch.arange(3, device=device),
            torch.empty_like(torch.ones(2), device=device),
            torch.eye(2, device=device),
        ):
            assert moved.device == CUDA0

    def test_an_index_made_into_a_device(self, t4: VirtualGPU) -> None:
        assert torch.ones(1, device=torch.device(torch.cuda.current_device())).is_cuda

    def test_set_default_device_and_the_context(self, t4: VirtualGPU) -> None:
        with torch.device("cuda"):
            assert torch.zeros(2).is_cuda
            assert nn.Linear(2, 2).weight.is_cuda
            assert torch.tensor([1.0]).is_cuda
        torch.set_default_device("cuda")
        assert torch.get_default_device() == CUDA0
        assert torch.arange(3).is_cuda
        torch.set_default_device("cpu")
        assert torch.zeros(2).is_cpu

    def test_typed_tensors(self, t4: VirtualGPU) -> None:
        assert isinstance(torch.ones(1, device="cuda"), torch.cuda.FloatTensor)
        assert not isinstance(torch.ones(1), torch.cuda.FloatTensor)
        assert not isinstance(torch.ones(1, device="cuda").half(), torch.cuda.FloatTensor)
        assert torch.cuda.LongTensor([1, 2]).device == CUDA0  # type: ignore[attr-defined]

    def test_numpy_is_refused_as_on_a_card(self, t4: VirtualGPU) -> None:
        with pytest.raises(TypeError, match="can't convert cuda:0 device type tensor to numpy"):
            torch.ones(1, device="cuda").numpy()

    MIXED: ClassVar[dict[str, Callable[[torch.Tensor, torch.Tensor], Any]]] = {
        "add": lambda a, b: a + b,
        "mul in place": lambda a, b: a.mul_(b),
        "matmul": lambda a, b: a @ b,
        "cat": lambda a, b: torch.cat([a, b]),
        "linear": lambda a, b: nn.functional.linear(a, b),
        "where": lambda a, b: torch.where(a > 0, a, b),
        "cross entropy": lambda a, b: nn.functional.cross_entropy(a, b),
        "embedding": lambda a, b: nn.functional.embedding(b.long(), a),
    }

    @pytest.mark.parametrize("operation", MIXED)
    def test_mixing_devices_is_refused_in_pytorchs_words(self, operation: str) -> None:
        with pytest.raises(RuntimeError, match="on the same device") as caught, VirtualGPU("T4"):
            self.MIXED[operation](torch.ones(2, 2, device="cuda"), torch.ones(2, 2))
        assert "cuda:0" in str(caught.value)
        assert "vgpu" not in str(caught.value)

    def test_mixing_dtypes_in_a_matmul_is_refused(self, t4: VirtualGPU) -> None:
        with pytest.raises(RuntimeError, match=r"same dtype, but got: float != c10::Half"):
            torch.ones(2, 2, device="cuda") @ torch.ones(2, 2, device="cuda").half()


class TestIdentity:
    def test_moving_a_module_keeps_its_parameters(self, t4: VirtualGPU) -> None:
        model = nn.Linear(2, 2)
        before = dict(model.named_parameters())
        model.cuda()
        assert all(p is before[name] for name, p in model.named_parameters())
        model.half().to("cuda").float()
        assert all(p is before[name] for name, p in model.named_parameters())

    def test_an_optimizer_built_before_cuda_trains_the_same_parameters(self, t4: VirtualGPU) -> None:
        model = nn.Linear(2, 2, bias=False)
        with torch.no_grad():
            model.weight.fill_(1.0)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
        model.cuda()
        model(torch.ones(1, 2, device="cuda")).sum().backward()
        optimizer.step()
        assert optimizer.param_groups[0]["params"][0] is model.weight
        assert model.weight.tolist() == [[0.5, 0.5], [0.5, 0.5]]  # small values are computed for real

    def test_gradients_move_with_their_parameters(self, t4: VirtualGPU) -> None:
        model = nn.Linear(2, 2)
        model(torch.ones(1, 2)).sum().backward()
        model.cuda()
        assert model.weight.grad is not None
        assert model.weight.grad.is_cuda

    def test_tied_weights_stay_tied(self, t4: VirtualGPU) -> None:
        model = nn.Sequential(nn.Linear(256, 256, bias=False), nn.Linear(256, 256, bias=False))
        model[1].weight = model[0].weight
        model.cuda()
        assert model[1].weight is model[0].weight
        assert torch.cuda.memory_allocated() == 256 * 256 * 4

    def test_a_module_goes_back_to_the_host(self, t4: VirtualGPU) -> None:
        model = nn.Linear(2, 2)
        weight = model.weight.tolist()
        model.cuda().cpu()
        assert model.weight.device.type == "cpu"
        assert model.weight.tolist() == weight
        assert torch.cuda.memory_allocated() == 0

    def test_deepcopy(self, t4: VirtualGPU) -> None:
        model = nn.Linear(256, 256).cuda()
        before = torch.cuda.memory_allocated()
        twin = copy.deepcopy(model)
        assert twin.weight.device == CUDA0
        assert torch.cuda.memory_allocated() == 2 * before
        assert copy.deepcopy(torch.arange(3, device="cuda")).tolist() == [0, 1, 2]

    def test_swap_tensors(self, t4: VirtualGPU) -> None:
        a, b = torch.ones(2, device="cuda"), torch.zeros(3)
        torch.utils.swap_tensors(a, b)
        assert (a.device.type, b.device) == ("cpu", CUDA0)
        torch.__future__.set_swap_module_params_on_conversion(True)
        try:
            assert nn.Linear(2, 2).cuda().weight.is_cuda
        finally:
            torch.__future__.set_swap_module_params_on_conversion(False)

    def test_data_can_be_assigned(self, t4: VirtualGPU) -> None:
        weight = nn.Parameter(torch.ones(2, 2))
        weight.data = torch.zeros(3, 3, device="cuda")
        assert (weight.device, weight.shape) == (CUDA0, (3, 3))
        assert weight.is_leaf
        assert weight.requires_grad


class TestRandom:
    def test_generators_and_seeds_are_accepted(self, t4: VirtualGPU) -> None:
        generator = torch.Generator("cuda").manual_seed(0)
        assert isinstance(generator, torch.Generator)
        assert generator.device == CUDA0
        assert torch.randn(3, device="cuda", generator=generator).is_cuda
        torch.cuda.manual_seed_all(1)
        torch.cuda.set_rng_state(torch.cuda.get_rng_state())
        assert torch.cuda.initial_seed() == 1

    def test_dropout_and_sampling_leave_the_hosts_random_state_alone(self, t4: VirtualGPU) -> None:
        before = torch.get_rng_state()
        x = torch.randn(1000, device="cuda")
        nn.functional.dropout(x)
        torch.randperm(10, device="cuda")
        torch.multinomial(torch.ones(4, device="cuda"), 2)
        torch.rand(3, device="cuda").normal_()
        assert torch.equal(torch.get_rng_state(), before)


OPERATIONS: dict[str, Callable[[torch.Tensor], Any]] = {
    "topk": lambda x: x.topk(3),
    "sort": lambda x: x.sort(-1),
    "cumsum": lambda x: x.cumsum(0),
    "einsum": lambda x: torch.einsum("ij,kj->ik", x, x),
    "svd": torch.linalg.svd,
    "norm": torch.linalg.norm,
    "median": lambda x: x.median(),
    "std": lambda x: x.std(),
    "argmax": lambda x: x.argmax(-1),
    "cdist": lambda x: torch.cdist(x, x),
    "histc": torch.histc,
    "stack": lambda x: torch.stack([x, x]),
    "index put": lambda x: x.index_put_(
        (torch.tensor([1], device=x.device),), torch.ones(8, device=x.device)
    ),
    "gather": lambda x: x.gather(1, torch.zeros(8, 1, dtype=torch.long, device=x.device)),
    "interpolate": lambda x: nn.functional.interpolate(x[None, None], scale_factor=2),
    "layer norm": lambda x: nn.functional.layer_norm(x, (8,)),
    "softmax": lambda x: x.softmax(-1),
    "conv transpose": lambda x: nn.functional.conv_transpose2d(
        x[None, None], torch.ones(1, 1, 3, 3, device=x.device)
    ),
    "group norm": lambda x: nn.functional.group_norm(x[None], 2),
    "complex": lambda x: torch.fft.rfft(x),
    "attention": lambda x: nn.functional.scaled_dot_product_attention(*[x[None, None]] * 3),
    "triu": lambda x: x.triu(),
    "roll": lambda x: x.roll(1),
    "kthvalue": lambda x: x.kthvalue(2),
    "logsumexp": lambda x: x.logsumexp(-1),
    "bmm": lambda x: torch.bmm(x[None], x[None]),
    "inverse": torch.linalg.inv,
    "where": lambda x: torch.where(x > 0, x, 0.0),
    "masked fill": lambda x: x.masked_fill(x > 0, 0),
    "pad": lambda x: nn.functional.pad(x, (1, 1)),
    "embedding bag": lambda x: nn.functional.embedding_bag(
        torch.zeros(2, 2, dtype=torch.long, device=x.device), x
    ),
    "multihead attention": lambda x: nn.MultiheadAttention(8, 2).to(x.device)(x[None], x[None], x[None])[0],
    "one hot": lambda x: nn.functional.one_hot(torch.arange(3, device=x.device), 5),
    "meshgrid": lambda x: torch.meshgrid(x[0], x[1], indexing="ij"),
    "repeat interleave": lambda x: x.repeat_interleave(2, 0),
    "scatter add": lambda x: x.scatter_add(0, torch.zeros(8, 8, dtype=torch.long, device=x.device), x),
}


def _described(x: Any) -> Any:
    if isinstance(x, torch.Tensor):
        return x.shape, x.dtype
    return [_described(y) for y in x]


@pytest.mark.parametrize("name", OPERATIONS)
def test_an_operation_gives_the_shapes_it_gives_on_the_host(name: str, t4: VirtualGPU) -> None:
    expected = _described(OPERATIONS[name](torch.rand(8, 8)))
    assert _described(OPERATIONS[name](torch.rand(8, 8).cuda())) == expected


def test_compiled_code_runs_eagerly_and_says_so(t4: VirtualGPU) -> None:
    model = torch.compile(nn.Linear(2, 2).cuda())
    assert model(torch.ones(1, 2, device="cuda")).is_cuda
    assert any("torch.compile" in note for note in t4.report.notes)
