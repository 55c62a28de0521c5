"""Whatever way a run is left, PyTorch is as it was: names, modes, hooks, random state, threads, imports."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import textwrap
import threading
import warnings
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
import torch

from hfgpu_magic.errors import VirtualGPUError
from hfgpu_magic.virtual import VirtualGPU, edge, hollow, hub, state

PARTS = (
    "cuda_c",
    "cuda_python",
    "tensors",
    "storages",
    "generators",
    "factories",
    "autocast",
    "misc",
    "fake",
)


def _owners() -> list[Any]:
    """Every place a program could meet a changed name: PyTorch's loaded modules and a few classes."""
    from torch._subclasses import fake_tensor
    from torch.utils import _device

    # torch.ops and torch.classes look operators up on the first mention of a name and keep them.
    modules: list[Any] = [
        m
        for name, m in sorted(sys.modules.items())
        if name.split(".")[0] == "torch"
        and isinstance(m, ModuleType)
        and not name.startswith(("torch.ops", "torch.classes"))
    ]
    loaders = [
        getattr(sys.modules.get("transformers.modeling_utils"), "PreTrainedModel", None),
        getattr(sys.modules.get("transformers.configuration_utils"), "PreTrainedConfig", None),
        getattr(sys.modules.get("transformers.models.auto.auto_factory"), "_BaseAutoModelClass", None),
    ]
    classes = [
        torch.Tensor, torch._C.TensorBase, torch.nn.Parameter, torch.nn.Module, torch.UntypedStorage,
        torch.TypedStorage, torch.storage._StorageBase, torch._C.StorageBase, torch._C.Generator,
        fake_tensor.FakeTensor, fake_tensor.FakeTensorMode, _device.DeviceContext, torch.autocast,
        torch.optim.Optimizer, *[c for c in loaders if c is not None],
    ]  # fmt: skip
    return [*modules, *classes]


def _snapshot() -> dict[str, Any]:
    """What has to be equal before and after.  Attributes by identity, the rest by value."""
    from torch.nn.modules import module
    from torch.optim import optimizer
    from torch.utils import _device

    names: dict[str, Any] = {}
    for owner in _owners():
        path = owner.__name__ if isinstance(owner, ModuleType) else f"{owner.__module__}.{owner.__qualname__}"
        for name, value in list(vars(owner).items()):
            names[f"{path}:{name}"] = value if type(value) in (bool, int, str) else id(value)
    return {
        "names": names,
        "default device": (torch.get_default_device(), _device.CURRENT_DEVICE),
        "default dtype": torch.get_default_dtype(),
        "modes": (torch._C._len_torch_function_stack(), torch._C._len_torch_dispatch_stack()),
        "grad": (torch.is_grad_enabled(), torch.is_inference_mode_enabled()),
        "autocast": [
            (d, torch.is_autocast_enabled(d), torch.get_autocast_dtype(d)) for d in ("cpu", "cuda", "vgpu")
        ],
        "random": (torch.get_rng_state().tolist(), random.getstate()),
        "meta path": list(sys.meta_path),
        "accelerator": (
            torch.accelerator.is_available(), torch.accelerator.current_accelerator(),
            torch.accelerator.device_count(),
        ),
        "cuda": (
            torch.cuda.is_available(), torch.cuda.device_count(), torch.cuda.is_initialized(),
            torch.version.cuda,
        ),
        "hooks": [
            len(getattr(where, name))
            for where, name in [
                (owner, n)
                for owner in (module, optimizer)
                for n in vars(owner)
                if n.startswith("_global_") and n.endswith("hooks")
            ]
        ],
        "threads": {t.ident for t in threading.enumerate()},
        "warnings": list(warnings.filters),
        "signals": [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)],
        "running": state.active,
    }  # fmt: skip


def _differences(before: dict[str, Any], after: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {
        k: (before[k], after[k]) for k in before if k != "names" and before[k] != after[k]
    }
    old, new = before["names"], after["names"]
    found |= {
        name: (old.get(name, "absent"), new.get(name, "absent"))
        for name in old.keys() | new.keys()
        if old.get(name, "absent") != new.get(name, "absent")
    }
    return found


@pytest.fixture(scope="module", autouse=True)
def _warm() -> None:
    """The first run of a process imports parts of PyTorch and registers the device type for good."""
    with VirtualGPU("T4"):
        _work()


def _work() -> None:
    model = torch.nn.Linear(64, 64).cuda()
    optimizer = torch.optim.AdamW(model.parameters())
    with torch.autocast("cuda", dtype=torch.float16):
        model(torch.randn(4, 64, device="cuda")).sum().backward()
    optimizer.step()


def _leave_normally() -> None:
    with VirtualGPU("T4"):
        _work()


def _leave_by(error: type[BaseException]) -> None:
    with pytest.raises(error), VirtualGPU("T4"):
        _work()
        raise error("leaving")


def _leave_inside_everything() -> None:
    """Out of an autocast, a no_grad, a default device and a forward, all at once."""

    class Breaks(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            raise ValueError("in forward")

    with (
        pytest.raises(ValueError, match="in forward"),
        VirtualGPU("T4"),
        torch.autocast("cuda"),
        torch.no_grad(),
        torch.device("cuda"),
    ):
        torch.nn.Sequential(torch.nn.Linear(2, 2), Breaks())(torch.ones(1, 2))


def _leave_switched() -> None:
    """A program that sets global switches and never sets them back."""
    with VirtualGPU("T4"):
        torch.set_default_device("cuda")
        torch.set_default_dtype(torch.float16)
        torch.set_grad_enabled(False)
        torch.set_autocast_enabled("cuda", True)
        torch.set_autocast_dtype("cuda", torch.bfloat16)
        torch.manual_seed(7)
        torch.randn(10, device="cpu")
        assert torch.zeros(2).is_cuda


def _nest() -> None:
    with VirtualGPU("T4"), pytest.raises(VirtualGPUError), VirtualGPU("T4"):
        pass


def _out_of_memory() -> None:
    with pytest.raises(torch.OutOfMemoryError), VirtualGPU("T4"):
        torch.empty(20 << 30, dtype=torch.uint8, device="cuda")


WAYS_OUT: dict[str, Callable[[], None]] = {
    "normal exit": _leave_normally,
    "exception": lambda: _leave_by(ValueError),
    "KeyboardInterrupt": lambda: _leave_by(KeyboardInterrupt),
    "SystemExit": lambda: _leave_by(SystemExit),
    "out of memory": _out_of_memory,
    "inside modes and hooks": _leave_inside_everything,
    "global switches left on": _leave_switched,
    "nested use refused": _nest,
}


@pytest.mark.parametrize("way", WAYS_OUT)
def test_pytorch_is_as_before_after(way: str) -> None:
    before = _snapshot()
    WAYS_OUT[way]()
    assert _differences(before, _snapshot()) == {}


def _failing_start(monkeypatch: pytest.MonkeyPatch, part: Any) -> None:
    def broken(*args: Any, **kwargs: Any) -> None:
        raise ZeroDivisionError("this part cannot be installed")

    with monkeypatch.context() as patch:
        patch.setattr(part, "install", broken)
        with pytest.raises(ZeroDivisionError), VirtualGPU("T4"):
            pytest.fail("the block must not run")


@pytest.mark.parametrize("part", PARTS)
def test_a_start_that_fails_half_way_leaves_nothing(part: str, monkeypatch: pytest.MonkeyPatch) -> None:
    before = _snapshot()
    _failing_start(monkeypatch, getattr(edge, part))
    assert _differences(before, _snapshot()) == {}
    _leave_normally()  # and the next run works


@pytest.mark.parametrize("part", [hollow, hub], ids=["hollow", "hub"])
def test_a_start_that_fails_at_the_end_leaves_nothing(part: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    before = _snapshot()
    _failing_start(monkeypatch, part)
    assert _differences(before, _snapshot()) == {}


def test_fifty_random_starts_failures_and_nestings(monkeypatch: pytest.MonkeyPatch) -> None:
    before = _snapshot()
    draw = random.Random(20)
    ways: list[Callable[[], None]] = [*WAYS_OUT.values()]
    ways += [lambda part=part: _failing_start(monkeypatch, getattr(edge, part)) for part in PARTS]  # type: ignore[misc]
    for _ in range(50):
        draw.choice(ways)()
    assert _differences(before, _snapshot()) == {}


def test_cpu_training_gives_the_same_numbers_after_a_run() -> None:
    def train() -> list[float]:
        torch.manual_seed(0)
        model = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.ReLU(), torch.nn.Linear(16, 1))
        optimizer = torch.optim.AdamW(model.parameters())
        losses = []
        for _ in range(3):
            loss = model(torch.randn(4, 8)).square().mean()
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            losses.append(loss.item())
        return losses

    with torch.random.fork_rng(devices=[]):
        before = train()
        _leave_normally()
        assert train() == before


ENDED = "lived on a virtual GPU whose run has ended"


def _survivors() -> dict[str, Any]:
    with VirtualGPU("T4"):
        x = torch.ones(4, 4, device="cuda")
        model = torch.nn.Linear(4, 4).cuda()
        loss = model(x).sum()
        loss.backward()
        return {
            "x": x,
            "model": model,
            "loss": loss,
            "optimizer": torch.optim.SGD(model.parameters(), lr=0.1),
        }


USES: dict[str, Callable[[dict[str, Any]], Any]] = {
    "add": lambda s: s["x"] + 1,
    "in place": lambda s: s["x"].add_(1),
    "matmul": lambda s: s["x"] @ s["x"],
    "read a number": lambda s: s["loss"].item(),
    "copy to the host": lambda s: s["x"].cpu(),
    "forward": lambda s: s["model"](s["x"]),
    "optimizer step": lambda s: s["optimizer"].step(),
    "mask": lambda s: s["x"][s["x"] > 0],
    "nonzero": lambda s: s["x"].nonzero(),
    "clone": lambda s: s["x"].clone(),
    "print": lambda s: repr(s["x"]),
}


@pytest.mark.parametrize("use", USES)
def test_a_tensor_that_outlives_its_run_is_refused(use: str) -> None:
    survivors = _survivors()
    with pytest.raises(VirtualGPUError, match=ENDED):
        USES[use](survivors)


@pytest.mark.parametrize("use", USES)
def test_it_is_refused_inside_a_second_run_too(use: str) -> None:
    survivors = _survivors()
    with VirtualGPU("T4"):
        with pytest.raises(VirtualGPUError, match=ENDED):
            USES[use](survivors)
        assert torch.cuda.memory_allocated() == 0


def test_survivors_can_be_dropped_during_a_later_run() -> None:
    survivors = _survivors()
    with VirtualGPU("T4") as gpu:
        kept = torch.ones(4, 4, device="cuda")
        survivors.clear()
        assert (kept + 1).is_cuda
        assert torch.cuda.memory_allocated() == 512
    assert gpu.report.outcome == "fits"


def test_what_the_first_run_of_a_process_leaves_for_good() -> None:
    """The device type cannot be unregistered; everything a program can see of it is listed here."""
    script = textwrap.dedent(
        """
        import torch, torch._dynamo, torch.utils.checkpoint, torch.cuda.nvtx, json
        watched = {"torch": torch, "torch._C": torch._C, "torch.cuda": torch.cuda, "Tensor": torch.Tensor,
                   "UntypedStorage": torch.UntypedStorage, "torch.accelerator": torch.accelerator,
                   "Module": torch.nn.Module, "Generator": torch.Generator}
        before = {n: dict(vars(o)) for n, o in watched.items()}
        answers = lambda: [str(torch.accelerator.current_accelerator()), torch.accelerator.is_available(),
                           torch.cuda.is_available(), torch.cuda.device_count(), str(torch.device("cpu"))]
        asked = answers()
        from hfgpu_magic.virtual import VirtualGPU
        with VirtualGPU("T4"):
            torch.ones(2, device="cuda").sum().item()
        assert answers() == asked, (answers(), asked)
        changed = [f"{n}.{k}" for n, o in watched.items() for k, v in vars(o).items()
                   if before[n].get(k, None) is not v]
        print(json.dumps(sorted(changed)))
        """
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    left = set(__import__("json").loads(done.stdout))
    expected = {
        "torch.vgpu", "Tensor.is_vgpu", "Tensor.vgpu", "Module.vgpu",  # the registered name
        "torch._C._accelerator_getAccelerator", "torch._C._get_accelerator",  # answer as before, see above
    }  # fmt: skip
    assert left - expected == set()
