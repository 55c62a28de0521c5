"""Number formats: what the visible cards have units for, and TF32 switches."""

from __future__ import annotations

import pytest
from machines import by_id, card, machine, only

from hfgpu_magic.checks.facts import TorchBuild, TorchState
from hfgpu_magic.checks.rules import precision
from hfgpu_magic.devices.na import NA


@pytest.mark.parametrize(
    ("name", "bf16", "fp16"),
    [
        ("T4", "warn", "pass"),
        ("V100", "warn", "pass"),
        ("P100", "warn", "pass"),
        ("GTX 1080", "warn", "warn"),
        ("A100", "pass", "pass"),
        ("RTX 5090", "pass", "pass"),
    ],
)
def test_bf16_is_native_from_8_0_and_fp16_fast_where_there_is_hardware(
    name: str, bf16: str, fp16: str
) -> None:
    checks = by_id(precision.formats, machine(name))
    assert (checks["precision.bf16"].status, checks["precision.fp16"].status) == (bf16, fp16)


def test_a_t4_is_told_that_bf16_is_emulated_although_torch_says_true() -> None:
    check = by_id(precision.formats, machine("T4"))["precision.bf16"]
    assert "emulated: slow, although torch.cuda.is_bf16_supported() says True" in check.found
    assert check.fix is not None
    assert "fp16=True" in check.fix


@pytest.mark.parametrize(
    ("name", "fp8", "fp4", "tf32"),
    [
        ("T4", "skip", "skip", "skip"),
        ("A100", "skip", "skip", "pass"),
        ("L4", "pass", "skip", "pass"),
        ("H100", "pass", "skip", "pass"),
        ("B200", "pass", "pass", "pass"),
    ],
)
def test_fp8_starts_at_8_9_fp4_at_10_0_and_tf32_at_8_0(name: str, fp8: str, fp4: str, tf32: str) -> None:
    checks = by_id(precision.formats, machine(name))
    assert (checks["precision.fp8"].status, checks["precision.fp4"].status) == (fp8, fp4)
    assert only(precision.tf32, machine(name)).status == tf32


def test_the_weakest_visible_card_decides() -> None:
    mixed = machine("A100", "T4")
    assert by_id(precision.formats, mixed)["precision.bf16"].status == "warn"
    assert only(precision.advice, mixed).found.startswith("Turing: fp16=True")


def test_a_card_that_tells_no_capability_gets_no_verdict() -> None:
    assert precision.formats(machine(card("T4", capability=NA))) == []


def test_tf32_defaults_are_told_apart_for_products_and_convolutions() -> None:
    assert (
        only(precision.tf32, machine("A100")).found == "torch's default: matrix products off, convolutions on"
    )
    state = TorchState(matmul_fp32="tf32", conv_fp32="ieee")
    assert (
        only(precision.tf32, machine("A100", torch_state=state)).found
        == "matrix products on, convolutions off"
    )


def test_the_way_to_turn_tf32_on_is_that_of_the_installed_torch() -> None:
    new = only(precision.tf32, machine("A100"))
    assert 'torch.backends.fp32_precision = "tf32"' in new.why
    old = only(precision.tf32, machine("A100", torch=TorchBuild("2.8.0+cu128", "12.8")))
    assert 'torch.set_float32_matmul_precision("high")' in old.why


def test_mixing_the_two_tf32_interfaces_is_a_warning() -> None:
    assert (
        only(precision.tf32, machine("A100", torch_state=TorchState("tf32", "tf32", mixed_apis=True))).status
        == "warn"
    )


def test_without_flash_kernels_attention_is_memory_efficient() -> None:
    assert "no flash attention" in only(precision.attention, machine("T4")).found
    assert only(precision.attention, machine("A100")).found == "SDPA with flash attention kernels"
