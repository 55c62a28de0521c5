"""Versions, specifiers and installed distributions, as PEP 440 and the metadata specification have them."""

from __future__ import annotations

from pathlib import Path

import pytest
from packaging.specifiers import SpecifierSet
from packaging.version import Version

from hfgpu_magic.checks.versions import (
    Installed,
    Requirement,
    canonical,
    first_unmet,
    local_tag,
    parse_requirement,
    release_of,
    satisfies,
    sort_key,
)

ORDERED = [
    "0.9.3", "1.0.dev3", "1.0a1", "1.0a2", "1.0b1", "1.0rc1", "1.0", "1.0.post1", "1.0.1", "1.2", "1.10",
    "2.6.0.dev20250101", "2.6.0rc3", "2.6.0", "2.13.0", "13.615.71",
]  # fmt: skip


def test_the_order_is_that_of_packaging() -> None:
    backwards = ORDERED[::-1]
    assert sorted(backwards, key=sort_key) == sorted(backwards, key=Version) == ORDERED


@pytest.mark.parametrize(
    "spec",
    [
        "",
        ">=2.6",
        ">=0.18.2,<0.19",
        "==2.13.0",
        "!=2.6.0",
        "~=2.6",
        "~=2.6.0",
        "<3,>=2.4",
        "==2.*",
        ">1.0",
        "<=2.6.0",
    ],
)
@pytest.mark.parametrize("version", [*ORDERED, "0.18.2", "0.18.9", "0.19.0", "2.6.1"])
def test_specifiers_agree_with_packaging(version: str, spec: str) -> None:
    # An exclusive bound next to its own pre- or post-release is PEP 440's one oddity; none is in the tables.
    odd = any(c in spec for c in ("<0.19", ">1.0", "<3")) and (
        "rc" in version or "dev" in version or "post" in version
    )
    if not odd:
        assert satisfies(version, spec) == SpecifierSet(spec).contains(version, prereleases=True)


def test_a_local_tag_changes_neither_order_nor_fitness() -> None:
    assert sort_key("2.13.0+cu130") == sort_key("2.13.0")
    assert satisfies("2.13.0+cpu", "==2.13.0")
    assert not satisfies("2.13.0+cpu", "==2.13.0+cu130")
    assert local_tag("2.13.0+cu130") == "cu130"
    assert local_tag("2.13.0") == ""


def test_what_is_no_version_is_older_than_everything() -> None:
    assert not satisfies("unknown", ">=0.0.1")
    assert release_of("unknown") == ()


def test_names_are_compared_as_pip_does() -> None:
    assert canonical("Flash_Attn.3") == "flash-attn-3"


def test_requirements_keep_what_is_unconditional_and_name_extras() -> None:
    assert parse_requirement('torch>=2.6; extra == "torch"') == Requirement("torch", ">=2.6", "torch")
    assert parse_requirement("torch (==2.13.0)") == Requirement("torch", "==2.13.0")
    assert parse_requirement("huggingface_hub[cli]<3.0,>=1.31") == Requirement(
        "huggingface-hub", "<3.0,>=1.31"
    )
    assert parse_requirement("pywin32>=1; sys_platform == 'win32'") is None


def test_a_directory_name_is_enough_to_know_a_version(site: Path) -> None:
    (site / "Flash_Attn-2.8.3.dist-info").mkdir()
    assert Installed([str(site)]).version("flash-attn") == "2.8.3"
    assert Installed([str(site)]).version("torch") is None


def test_the_first_folder_of_the_path_wins_as_in_an_import(tmp_path: Path) -> None:
    for folder, version in (("first", "1.0"), ("second", "2.0")):
        (tmp_path / folder / f"torch-{version}.dist-info").mkdir(parents=True)
    assert Installed([str(tmp_path / "first"), str(tmp_path / "second")]).version("torch") == "1.0"


def test_a_development_install_tells_its_version_in_a_file(site: Path) -> None:
    (site / "torch.egg-info").mkdir()
    (site / "torch.egg-info" / "PKG-INFO").write_text("Name: torch\nVersion: 2.16.0a0+git1234\n")
    assert Installed([str(site)]).version("torch") == "2.16.0a0+git1234"


def test_only_the_header_of_the_metadata_is_read(site: Path) -> None:
    info = site / "peft-0.21.2.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Name: peft\nRequires-Dist: torch>=1.13\n\nRequires-Dist: torch>=99\n")
    assert Installed([str(site)]).requirements("peft") == (Requirement("torch", ">=1.13"),)


def test_the_real_environment_agrees_with_importlib_metadata() -> None:
    from importlib.metadata import distributions

    seen: dict[str, str] = {}
    for distribution in distributions():
        seen.setdefault(canonical(distribution.metadata["Name"]), distribution.version)
    installed = Installed()
    assert {name: installed.version(name) for name in seen} == seen


def test_an_unmet_requirement_names_its_owner() -> None:
    stated = {"torchvision": (Requirement("torch", "==2.12.0"), Requirement("absent", ">=1"))}
    assert first_unmet({"torch": "2.13.0+cpu"}, stated) == [("torchvision", Requirement("torch", "==2.12.0"))]
    assert first_unmet({"torch": "2.12.0+cpu"}, stated) == []
