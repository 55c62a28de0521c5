"""The catalog as people see it."""

from __future__ import annotations

import re

import pytest

from hfgpu_magic import UnknownGPUError, gpus
from hfgpu_magic.devices.gpu_list import GPUList


def test_the_list_names_every_card_once_under_its_architecture() -> None:
    lines = GPUList.named(None).to_text(width=80).splitlines()
    named = [line[2:].split("  ")[0] for line in lines if line.startswith("  ")][1:]
    assert named == [g.name for g in gpus()]
    assert {g.architecture for g in gpus()} <= set(lines)


def test_one_card_is_told_in_full() -> None:
    text = GPUList.named("t4").to_text(width=60)
    assert text.startswith("T4\n")
    assert re.search(r"bf16 +emulated: slow", text)
    assert max(map(len, text.splitlines())) <= 60


def test_html_lists_every_card_too() -> None:
    html = GPUList.named(None).to_html()
    assert re.findall(r'<th scope="row">([^<]+)<', html) == [g.name for g in gpus()]


def test_a_card_nobody_knows() -> None:
    with pytest.raises(UnknownGPUError):
        GPUList.named("t44")
