"""Which torch runs on which card: the SASS rule, and the command that puts it right."""

from __future__ import annotations

import pytest

from hfgpu_magic.checks.facts import System, TorchBuild
from hfgpu_magic.checks.tables import table, wheels
from hfgpu_magic.checks.wheels import (
    built_for,
    choose,
    driver_floor,
    driver_major,
    has_kernels,
    install_command,
    runs_on,
)
from hfgpu_magic.devices.na import NA
from hfgpu_magic.devices.snapshot import DriverInfo

LINUX = System()


@pytest.mark.parametrize(
    ("capability", "binary", "runs"),
    [
        ((8, 6), 80, True),
        ((8, 9), 86, True),
        ((8, 0), 86, False),  # older minor
        ((9, 0), 80, False),  # another major
        ((12, 0), 100, False),  # 10.x and 12.x are different families
        ((12, 1), 120, True),
        ((6, 1), 60, True),
        ((6, 2), 60, False),  # Jetson TX2 is not a desktop Pascal
        ((7, 2), 70, False),
        ((11, 0), 101, True),  # Thor, before it was renumbered
    ],
)
def test_a_binary_runs_on_its_own_major_from_its_own_minor_on(
    capability: tuple[int, int], binary: int, runs: bool
) -> None:
    assert runs_on(capability, binary, (13, 0)) is runs


def test_orin_takes_desktop_ampere_binaries_from_cuda_13_2_on() -> None:
    assert not runs_on((8, 7), 80, (13, 0))
    assert runs_on((8, 7), 80, (13, 2))


def test_the_rule_agrees_with_the_installed_torch_for_every_pair() -> None:
    torch_cuda = pytest.importorskip("torch.cuda")
    requirement = getattr(torch_cuda, "DEVICE_REQUIREMENT", None)
    if requirement is None:
        pytest.skip("this torch has no table of its own")
    import torch

    cuda = (13, 0) if torch.__version__.startswith("2.13") else (99, 0)
    cards = (50, 52, 53, 60, 61, 62, 70, 72, 75, 80, 86, 87, 89, 90, 100, 103, 110, 120, 121)
    differing = [
        (card, binary)
        for binary in requirement
        for card in cards
        if (card in requirement[binary]) != runs_on(divmod(card, 10), binary, cuda)
    ]
    assert differing == []


def test_the_table_of_builds_agrees_with_the_installed_torch() -> None:
    torch = pytest.importorskip("torch")
    own = getattr(torch.cuda, "PYTORCH_RELEASES_CODE_CC", None)
    release = tuple(int(n) for n in torch.__version__.split("+")[0].split(".")[:2])
    if own is None or release < (2, 13):
        pytest.skip("no trustworthy table in this torch")
    ours = {(f"{w.cuda[0]}.{w.cuda[1]}", w.machine): set(w.sass) for w in wheels() if w.torch == release}
    assert ours == {(cuda, machine): ccs for cuda, rows in own.items() for machine, ccs in rows.items()}


def test_ptx_is_translated_for_newer_cards_only() -> None:
    assert has_kernels((12, 0), (75, 90), (90,), (12, 6))
    assert not has_kernels((7, 0), (75, 90), (90,), (12, 6))


def test_the_build_comes_from_the_binary_when_it_was_asked() -> None:
    asked = TorchBuild("2.15.0+cu132", "13.2", arch_list=("sm_90", "sm_100a", "compute_100"))
    assert built_for(asked, LINUX) == ((90, 100), (100,), "torch.cuda.get_arch_list() of the installed torch")


def test_somebodys_own_build_is_not_judged_by_the_published_list() -> None:
    assert built_for(TorchBuild("2.15.0a0+gitabc", "13.2"), LINUX) is None
    published = built_for(TorchBuild("2.15.0+cu132", "13.2"), LINUX)
    assert published is not None
    assert published[0] == (75, 80, 86, 90, 100, 120)


def test_a_build_for_arm_has_no_turing_kernels() -> None:
    found = built_for(TorchBuild("2.15.0+cu130", "13.0"), System(machine="aarch64"))
    assert found is not None
    assert found[0] == (80, 90, 100, 110, 120)


@pytest.mark.parametrize(
    ("capability", "driver_cuda", "tag"),
    [
        ((7, 5), 13, "cu132"),  # what PyPI gives
        ((7, 5), 12, "cu126"),  # no 12.x newer than 12.6 in 2.15
        ((6, 1), 13, "cu126"),  # Pascal lives in cu126 only
        ((7, 0), 13, "cu126"),  # and so does Volta
        ((12, 0), 13, "cu132"),
    ],
)
def test_the_newest_release_with_kernels_for_card_and_driver_is_chosen(
    capability: tuple[int, int], driver_cuda: int, tag: str
) -> None:
    wheel = choose([capability], system=LINUX, driver_cuda=driver_cuda)
    assert wheel is not None
    assert (wheel.torch, wheel.tag) == ((2, 15), tag)


def test_blackwell_behind_a_cuda_12_driver_gets_the_last_cuda_12_build_with_its_kernels() -> None:
    wheel = choose([(12, 0)], system=LINUX, driver_cuda=12)
    assert wheel is not None
    assert wheel.cuda[0] == 12
    assert 120 in wheel.sass


def test_the_installed_release_is_kept_where_it_has_a_fitting_build() -> None:
    wheel = choose([(6, 1)], system=LINUX, driver_cuda=13, prefer=(2, 13, 0))
    assert wheel is not None
    assert (wheel.torch, wheel.tag) == ((2, 13), "cu126")


def test_a_release_below_the_floor_of_transformers_is_never_proposed() -> None:
    wheel = choose([(7, 5)], system=LINUX, driver_cuda=13, prefer=(2, 4, 1))
    assert wheel is not None
    assert wheel.torch == (2, 15)


def test_nothing_runs_pascal_and_blackwell_together() -> None:
    assert choose([(6, 1), (12, 0)], system=LINUX, driver_cuda=13) is None


def test_the_command_spells_out_the_build_so_that_pip_replaces_a_cpu_build() -> None:
    wheel = choose([(6, 1)], system=LINUX, driver_cuda=12)
    assert wheel is not None
    assert install_command(wheel, {}) == (
        'pip install "torch==2.15.0+cu126" --index-url https://download.pytorch.org/whl/cu126'
    )
    both = install_command(wheel, {"torchvision": "0.30.0"})
    assert both.startswith('pip install --force-reinstall "torch==2.15.0+cu126" torchvision --index-url')


@pytest.mark.parametrize(
    ("version", "system", "major"),
    [
        ("450.80.02", LINUX, 11),
        ("525.60.13", LINUX, 12),
        ("579.99", LINUX, 12),
        ("580.65.06", LINUX, 13),
        ("440.33", LINUX, 0),
        ("528.33", System(os="Windows"), 12),
        ("526.00", System(wsl=2), 11),  # inside WSL2 the number is the Windows driver's
    ],
)
def test_a_driver_version_tells_which_cuda_it_runs(version: str, system: System, major: int) -> None:
    assert driver_major(DriverInfo("ok", version), system) == major


def test_the_drivers_own_word_beats_its_version_number() -> None:
    assert driver_major(DriverInfo("ok", "535.104.05", (13, 0)), LINUX) == 13  # cuda-compat is installed
    assert driver_major(DriverInfo("ok", NA, NA), LINUX) is None


def test_every_cuda_major_in_the_wheel_table_has_a_driver_floor() -> None:
    assert {w.cuda[0] for w in wheels()} <= {row["cuda"] for row in table("drivers")["floor"]}
    assert driver_floor(13, LINUX) == "580.65.06"
