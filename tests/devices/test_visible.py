"""CUDA_VISIBLE_DEVICES by CUDA's own rules."""

from __future__ import annotations

import pytest

from hfgpu_magic.devices.na import NA
from hfgpu_magic.devices.snapshot import DeviceSnapshot
from hfgpu_magic.devices.visible import cuda_order, match_uuids, parse_visible


def card(index: int, uuid: str, **fields: object) -> DeviceSnapshot:
    return DeviceSnapshot(uuid, index, **{"name": "NVIDIA L4", "capability": (8, 9), **fields})  # type: ignore[arg-type]


A = card(0, "GPU-aaaa1111-0000-4000-8000-000000000000")
B = card(1, "GPU-aabb2222-0000-4000-8000-000000000000")
C = card(2, "GPU-cccc3333-0000-4000-8000-000000000000")
THREE = (A, B, C)


@pytest.mark.parametrize(
    ("value", "seen"),
    [
        (None, THREE),
        ("", ()),
        ("-1", ()),
        (" ", ()),
        ("0", (A,)),
        ("2,0", (C, A)),
        (" 1 , 2 ", (B, C)),
        ("+1", (B,)),
        ("01", (B,)),
        ("0,", (A,)),
        ("0,2,-1", (A, C)),
        ("GPU-aaaa1111-0000-4000-8000-000000000000", (A,)),
        ("GPU-c", (C,)),
        ("GPU-cccc,GPU-aaaa", (C, A)),
    ],
)
def test_accepted_as_it_stands(value: str | None, seen: tuple[DeviceSnapshot, ...]) -> None:
    visible = parse_visible(value, THREE)
    assert visible.devices == seen
    assert visible.order == tuple(d.uuid for d in seen)
    assert visible.problem is None


@pytest.mark.parametrize(
    ("value", "seen", "problem"),
    [
        ("abc", (), "'abc' is neither a number nor a GPU-... or MIG-... id; CUDA ignores it."),
        ("NoDevFiles", (), "'NoDevFiles' is neither a number"),
        ("cuda:0", (), "'cuda:0' is neither a number"),
        ('"0"', (), "(the quotes are part of the value)"),
        ("0,x,1", (A,), "entry 2, 'x', is neither a number nor a GPU-... or MIG-... id; CUDA ignores it and"),
        ("0,7,1", (A,), "entry 2, '7', is out of range, this machine has GPUs 0 to 2; CUDA ignores it and"),
        ("3", (), "'3' is out of range, this machine has GPUs 0 to 2; CUDA ignores it."),
        ("0,2,-1,1", (A, C), "entry 3, '-1', ends the list; CUDA ignores it and everything after it."),
        ("0,,1", (A,), "entry 2 is empty; CUDA ignores it and everything after it."),
        ("1gpu", (B,), "'1gpu' is read by CUDA as 1, 'gpu' is dropped."),
        ("0;1", (A,), "'0;1' is read by CUDA as 0, ';1' is dropped."),
        ("0 1", (A,), "'0 1' is read by CUDA as 0, '1' is dropped."),
        ("1,1", (), "entry 2, '1', names GPU 1 (NVIDIA L4) a second time; CUDA then shows no device."),
        ("GPU-aaaa,GPU-aaaa1", (), "names GPU 0 (NVIDIA L4) a second time"),
        ("GPU-aa", (), "'GPU-aa' fits 2 GPUs, give more of the UUID; CUDA ignores it."),
        ("GPU-dead", (), "'GPU-dead' is the UUID of no GPU here"),
        ("GPU-cccc,0", (C,), "entry 2, '0', is not a GPU-... id like the entries before it"),
        ("0,GPU-cccc", (A,), "entry 2, 'GPU-cccc', is neither a number"),
        ("MIG-1/2/3", (), "'MIG-1/2/3' names a MIG instance, and no GPU here has one"),
    ],
)
def test_rejected_part_is_named(value: str, seen: tuple[DeviceSnapshot, ...], problem: str) -> None:
    visible = parse_visible(value, THREE)
    assert visible.devices == seen
    assert visible.problem is not None
    assert visible.problem.startswith(f"CUDA_VISIBLE_DEVICES={value!r}: ")
    assert problem in visible.problem


@pytest.mark.parametrize("value", ["0", "0,1", "GPU-abc", "-1", ""])
def test_without_any_gpu_only_nonsense_is_a_problem(value: str) -> None:
    assert parse_visible(value, ()).problem is None
    assert parse_visible("zero", ()).problem is not None
    later = parse_visible("0,x,1", ()).problem
    assert later is not None
    assert "entry 2, 'x'" in later


def test_a_gpu_without_uuid_is_still_counted() -> None:
    nameless = DeviceSnapshot(NA, 0)
    assert parse_visible("0", [nameless]).devices == (nameless,)


# ---- order ------------------------------------------------------------------------------------------

SLOW = card(0, "GPU-01", name="NVIDIA GeForce GTX 1650", capability=(7, 5), cores=896, max_sm_clock=2100)
FAST = card(1, "GPU-02", name="NVIDIA GeForce RTX 3090", capability=(8, 6), cores=10496, max_sm_clock=2100)


def test_fastest_first_is_the_default_and_a_guess_for_unlike_cards() -> None:
    assert cuda_order([SLOW, FAST]) == ((FAST, SLOW), True)
    assert cuda_order([SLOW, FAST], "FASTEST_FIRST") == ((FAST, SLOW), True)


def test_pci_order_is_nvml_order() -> None:
    assert cuda_order([FAST, SLOW], "PCI_BUS_ID") == ((SLOW, FAST), False)


def test_like_cards_keep_the_bus_order_for_certain() -> None:
    assert cuda_order([C, A, B]) == (THREE, False)


def test_without_core_counts_the_newer_capability_goes_first() -> None:
    old = card(0, "GPU-01", name="old", capability=(7, 0))
    new = card(1, "GPU-02", name="new", capability=(9, 0))
    assert cuda_order([old, new]) == ((new, old), True)


def test_ordinals_follow_the_order_and_uuids_do_not_care() -> None:
    assert parse_visible("0", [SLOW, FAST]).devices == (FAST,)
    assert parse_visible("0", [SLOW, FAST]).uncertain
    assert parse_visible("0", [SLOW, FAST], order="PCI_BUS_ID").devices == (SLOW,)
    assert not parse_visible("GPU-01", [SLOW, FAST]).uncertain
    assert not parse_visible("", [SLOW, FAST]).uncertain


def test_a_lost_card_has_no_ordinal() -> None:
    lost = card(0, "GPU-00", state="lost")
    assert parse_visible(None, [lost, B]).devices == (B,)
    assert parse_visible("0", [lost, B]).devices == (B,)


# ---- MIG --------------------------------------------------------------------------------------------

CUT = card(0, "GPU-5d5ba0d6", name="NVIDIA A100", mig_enabled=True)
M1 = card(0, "MIG-11111111-aaaa", name="A100 MIG 3g", mig_parent=CUT.uuid, mig_instance=(2, 0))
M2 = card(0, "MIG-22222222-bbbb", name="A100 MIG 1g", mig_parent=CUT.uuid, mig_instance=(9, 0))
WHOLE = card(1, "GPU-6c1f4f2e", name="NVIDIA A100", mig_enabled=False)
MIG = (CUT, M1, M2, WHOLE)


@pytest.mark.parametrize(
    ("value", "seen"),
    [
        ("MIG-22222222-bbbb", M2),
        ("MIG-GPU-5d5ba0d6/9/0", M2),
        ("MIG-GPU-5d5ba0d6/2/0", M1),
        ("0", M1),
        ("GPU-5d5b", M1),
        ("1", WHOLE),
    ],
)
def test_one_mig_instance(value: str, seen: DeviceSnapshot) -> None:
    visible = parse_visible(value, MIG)
    assert visible.devices == (seen,)
    assert visible.problem is None


def test_several_instances_leave_the_first_and_a_note() -> None:
    visible = parse_visible("MIG-22222222-bbbb,MIG-11111111-aaaa", MIG)
    assert visible.devices == (M2,)
    (note,) = visible.notes
    assert "MIG-22222222-bbbb" in note
    assert "1 other MIG instance" in note


def test_an_instance_hides_whole_gpus() -> None:
    visible = parse_visible(None, MIG)
    assert visible.devices == (M1,)
    assert "1 whole GPU" in visible.notes[0]


@pytest.mark.parametrize("value", ["MIG-2222", "MIG-GPU-5d5ba0d6/5/0", "MIG-GPU-ffff/9/0"])
def test_unknown_mig_id(value: str) -> None:
    visible = parse_visible(value, MIG)
    assert visible.devices == ()
    assert "no MIG instance here" in (visible.problem or "")


def test_mig_mode_without_instance_is_unusable() -> None:
    visible = parse_visible(None, [CUT, WHOLE])
    assert visible.devices == (WHOLE,)
    assert "has no instance" in visible.notes[0]


# ---- CUDA's own list --------------------------------------------------------------------------------


def test_uuids_match_with_and_without_prefix_and_dashes() -> None:
    bare = str(C.uuid).removeprefix("GPU-")
    assert match_uuids([bare, str(A.uuid), str(B.uuid)[4:].replace("-", "").upper()], THREE) == (C, A, B)


def test_a_uuid_that_nvml_does_not_know_matches_nothing() -> None:
    assert match_uuids([str(A.uuid), "GPU-00000000"], THREE) is None
