"""Several GPUs: launchers, ranks, NCCL."""

from __future__ import annotations

from ...devices.na import NotAvailable
from ...devices.snapshot import DeviceSnapshot
from ...units import GiB, format_bytes
from ..facts import Facts
from ..rule import Check, Topic
from .devices import listing

#: Docker's default /dev/shm is 64 MiB; NCCL and DataLoader workers pass buffers through it.
_SHARED_MEMORY = 1 * GiB


def devices(facts: Facts) -> list[Check]:
    count = len(facts.usable)
    if count < 2 and not facts.on("distributed"):
        return []
    source = "transformers 5.23 training_args.py (n_gpu)"
    if count < 2:
        return [
            Topic("distributed.devices", "Several GPUs", ">= 2", source).warn(
                f"{count} usable",
                "there is nothing to distribute over",
                "# to plan for such a machine:\nhfgpu check --gpu T4x2 --for distributed",
            )
        ]
    kinds = {(d.name, d.total) for d in facts.usable}
    if len(kinds) > 1:
        return [
            Topic("distributed.devices", "Several GPUs", "cards of one kind", source).warn(
                listing(facts.usable),
                "every step waits for the slowest card, and the smallest memory limits all",
                _largest_kind(facts),
            )
        ]
    return [
        Topic("distributed.devices", "Several GPUs", ">= 2 of one kind", source).ok(
            listing(facts.usable), "one process a card"
        )
    ]


def _largest_kind(facts: Facts) -> str | None:
    """The setting that leaves the kind of card with most memory in all; by UUID, whatever the order is."""
    kinds: dict[object, list[DeviceSnapshot]] = {}
    for device in facts.cuda:
        kinds.setdefault((device.name, device.total), []).append(device)

    def memory(cards: list[DeviceSnapshot]) -> int:
        return sum(0 if isinstance(d.total, NotAvailable) else d.total for d in cards)

    best = max(kinds.values(), key=memory, default=[])
    return "export CUDA_VISIBLE_DEVICES=" + ",".join(str(d.uuid) for d in best) if best else None


def launcher(facts: Facts) -> list[Check]:
    """Several visible GPUs and one process: Trainer falls back to nn.DataParallel."""
    if len(facts.cuda) < 2:
        return []
    source = "transformers 5.23 training_args.py, trainer.py (nn.DataParallel)"
    title = "Launcher"
    if facts.environ.get("WORLD_SIZE", "") not in ("", "1"):
        return [
            Topic("distributed.launcher", title, "one process a GPU", source).ok(
                f"{facts.environ['WORLD_SIZE']} processes", "each process trains on its own card"
            )
        ]
    n = len(facts.cuda)
    launch = f"accelerate launch --num_processes {n} your_script.py"
    if facts.system.notebook:
        launch = f"accelerate.notebook_launcher(train, num_processes={n})  # before anything touches CUDA"
    return [
        Topic("distributed.launcher", title, "one process a GPU", source).warn(
            f"{n} GPUs, one process",
            "Trainer would use DataParallel: slow, and GPU 0 holds more than the others and runs out first",
            f"{launch}\n# or one card: export CUDA_VISIBLE_DEVICES=0",
        )
    ]


def ranks(facts: Facts) -> list[Check]:
    names = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE")
    given = {n: facts.environ[n] for n in names if facts.environ.get(n, "") != ""}
    if not given:
        return []
    source = "torch.distributed env:// initialisation; transformers 5.23 training_args.py"
    numbers: dict[str, int] = {}
    problems = []
    for name, value in given.items():
        if value.lstrip("-").isdigit():
            numbers[name] = int(value)
        else:
            problems.append(f"{name}={value!r} is no integer")
    rank, local, world = (numbers.get(n) for n in ("RANK", "LOCAL_RANK", "WORLD_SIZE"))
    if world is not None and world < 1:
        problems.append(f"WORLD_SIZE={world} is less than 1")
    if rank is not None and world is not None and not 0 <= rank < max(world, 1):
        problems.append(f"RANK={rank} is outside 0..{world - 1}")
    if local is not None and facts.cuda and local >= len(facts.cuda):
        problems.append(f"LOCAL_RANK={local}, but only {len(facts.cuda)} GPU(s) are visible")
    if world is not None and world > 1:
        missing = [
            n for n in ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT") if not facts.environ.get(n)
        ]
        if missing:
            problems.append(f"WORLD_SIZE={world}, but {', '.join(missing)} not set")
    shown = ", ".join(f"{n}={v}" for n, v in given.items())
    if problems:
        return [
            Topic("distributed.ranks", "Ranks", "what a launcher sets", source).warn(
                "; ".join(problems),
                "transformers believes it is one of several processes and waits for the others",
                f"unset {' '.join(given)}\n# or start through accelerate launch or torchrun",
            )
        ]
    return [
        Topic("distributed.ranks", "Ranks", "what a launcher sets", source).ok(
            shown, "each process finds its card by it"
        )
    ]


def nccl(facts: Facts) -> list[Check]:
    if len(facts.cuda) < 2 and not facts.on("distributed"):
        return []
    checks = []
    source = "torch.distributed backends; torch wheel METADATA"
    brought = next((f"{n} {v}" for n, v in facts.versions.items() if n.startswith("nvidia-nccl")), "")
    if facts.system.os != "Linux":
        checks.append(
            Topic("distributed.nccl", "NCCL", "Linux", source).warn(
                f"none on {facts.system.os}",
                "torch falls back to gloo, which is slow between GPUs",
                "use Linux or WSL2",
            )
        )
    elif facts.torch and facts.torch.cuda:
        checks.append(
            Topic("distributed.nccl", "NCCL", "comes with torch", source).ok(
                brought or "in the torch build", "it carries the gradients between the GPUs"
            )
        )
    size = facts.system.shared_memory
    if facts.system.container and not isinstance(size, NotAvailable) and size < _SHARED_MEMORY:
        checks.append(
            Topic(
                "distributed.shm",
                "Shared memory",
                f">= {format_bytes(_SHARED_MEMORY)}",
                "torch/utils/data/dataloader.py; NCCL user guide",
            ).warn(
                f"{format_bytes(size)} in /dev/shm",
                "NCCL and DataLoader workers stop with 'Bus error' or 'unhandled system error'",
                "docker run --shm-size=8g ... (or --ipc=host)",
            )
        )
    return checks


def untouched(facts: Facts) -> list[Check]:
    if facts.torch_state is None or not facts.torch_state.cuda_initialized or len(facts.cuda) < 2:
        return []
    return [
        Topic(
            "distributed.untouched",
            "CUDA untouched",
            "not started",
            "torch 2.13 cuda/__init__.py _lazy_init; accelerate 1.15 launchers.py",
        ).warn(
            "this process has already started CUDA",
            "notebook_launcher and other forks fail with 'Cannot re-initialize CUDA in forked subprocess'",
            "restart the kernel and launch before any .cuda() or .to('cuda')",
        )
    ]


RULES = (devices, launcher, ranks, nccl, untouched)
