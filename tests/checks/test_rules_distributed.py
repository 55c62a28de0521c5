"""Several GPUs: launchers, ranks, unlike cards, shared memory, NCCL."""

from __future__ import annotations

import pytest
from machines import by_id, machine, only

from hfgpu_magic.checks.facts import System, TorchState
from hfgpu_magic.checks.rules import distributed


def test_several_gpus_without_a_launcher_warn_of_data_parallel() -> None:
    check = only(distributed.launcher, machine("T4", "T4"))
    assert check.status == "warn"
    assert check.fix is not None
    assert check.fix.startswith("accelerate launch --num_processes 2")
    assert only(distributed.launcher, machine("T4", "T4", environ={"WORLD_SIZE": "2"})).status == "pass"
    assert distributed.launcher(machine("T4")) == []


def test_in_a_notebook_the_launcher_is_another() -> None:
    fix = only(distributed.launcher, machine("T4", "T4", system=System(notebook=True))).fix
    assert fix is not None
    assert "notebook_launcher" in fix


def test_one_gpu_is_too_few_only_for_the_distributed_profile() -> None:
    assert distributed.devices(machine("T4")) == []
    assert only(distributed.devices, machine("T4", profile="distributed")).status == "warn"
    assert only(distributed.devices, machine("H100", "H100")).status == "pass"


def test_unlike_cards_are_pinned_by_uuid_to_the_kind_with_most_memory() -> None:
    check = only(distributed.devices, machine("GTX 1650", "A100"))
    assert check.status == "warn"
    assert check.fix == "export CUDA_VISIBLE_DEVICES=GPU-00000001-1111-2222-3333-444444444444"


@pytest.mark.parametrize(
    ("environ", "word"),
    [
        ({"LOCAL_RANK": "a"}, "no integer"),
        ({"LOCAL_RANK": "3"}, "only 2 GPU"),
        (
            {"RANK": "4", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "MASTER_ADDR": "h", "MASTER_PORT": "1"},
            "outside 0..1",
        ),
        ({"WORLD_SIZE": "2"}, "MASTER_ADDR"),
        ({"WORLD_SIZE": "0"}, "less than 1"),
    ],
)
def test_inconsistent_ranks_say_which_part(environ: dict[str, str], word: str) -> None:
    check = only(distributed.ranks, machine("T4", "T4", environ=environ))
    assert check.status == "warn"
    assert word in check.found


def test_what_a_launcher_sets_passes_and_nothing_set_is_no_topic() -> None:
    environ = {
        "RANK": "1",
        "LOCAL_RANK": "1",
        "WORLD_SIZE": "2",
        "MASTER_ADDR": "localhost",
        "MASTER_PORT": "29500",
    }
    assert only(distributed.ranks, machine("T4", "T4", environ=environ)).status == "pass"
    assert distributed.ranks(machine("T4", environ={"LOCAL_RANK": ""})) == []


def test_dockers_default_shared_memory_is_too_small() -> None:
    small = machine("T4", "T4", system=System(container="docker", shared_memory=64 << 20))
    assert by_id(distributed.nccl, small)["distributed.shm"].status == "warn"
    large = machine("T4", "T4", system=System(container="docker", shared_memory=8 << 30))
    assert "distributed.shm" not in by_id(distributed.nccl, large)


def test_there_is_no_nccl_on_windows() -> None:
    assert (
        by_id(distributed.nccl, machine("T4", "T4", system=System(os="Windows")))["distributed.nccl"].status
        == "warn"
    )
    assert by_id(distributed.nccl, machine("T4", "T4"))["distributed.nccl"].status == "pass"


def test_cuda_already_started_spoils_the_notebook_launcher() -> None:
    started = machine("T4", "T4", torch_state=TorchState(cuda_initialized=True))
    assert only(distributed.untouched, started).status == "warn"
    assert distributed.untouched(machine("T4", "T4", torch_state=TorchState())) == []
