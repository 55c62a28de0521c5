"""The catalog of known GPUs: names, figures against data sheets, and what is derived from reports."""

from __future__ import annotations

import itertools
import tomllib
from pathlib import Path
from time import process_time

import pytest

import hfgpu_magic.devices
from hfgpu_magic.devices import catalog, context_size
from hfgpu_magic.devices.catalog import GPU, context_under, find_gpu, gpus, parse_gpus
from hfgpu_magic.errors import UnknownGPUError, UsageError
from hfgpu_magic.units import GiB, MiB

FOLDER = Path(hfgpu_magic.devices.__file__).parent
TABLE = tomllib.loads((FOLDER / "gpus.toml").read_text(encoding="utf-8"))


# ------------------------------------------------------------------------------------------------ names


@pytest.mark.parametrize(
    ("asked", "name"),
    [
        ("t4", "T4"),
        ("Tesla T4", "T4"),
        ("a100 40gb", "A100 SXM4 40GB"),
        ("A100", "A100 SXM4 40GB"),
        ("a100-80gb", "A100 SXM4 80GB"),
        ("NVIDIA A100 80GB PCIe", "A100 PCIe 80GB"),
        ("NVIDIA A100-SXM4-80GB", "A100 SXM4 80GB"),
        ("RTX 4090", "RTX 4090"),
        ("rtx4090", "RTX 4090"),
        ("4090", "RTX 4090"),
        ("NVIDIA GeForce RTX 4090", "RTX 4090"),
        ("4090 laptop", "RTX 4090 Laptop"),
        ("4070 ti super", "RTX 4070 Ti SUPER"),
        ("gtx1080ti", "GTX 1080 Ti"),
        ("h100", "H100 SXM"),
        ("H100 PCIe", "H100 PCIe"),
        ("v100", "V100 SXM2 16GB"),
        ("V100 32GB", "V100 SXM2 32GB"),
        ("p100", "P100 PCIe 16GB"),
        ("a6000", "RTX A6000"),
        ("rtx 6000 ada", "RTX 6000 Ada"),
        ("5060 ti 16 GB", "RTX 5060 Ti 16GB"),
        ("dgx spark", "GB10"),
        ("jetson orin nano", "Jetson Orin Nano 8GB"),
        ("rtx pro 6000", "RTX PRO 6000 Blackwell"),
    ],
)
def test_forgiving_names(asked: str, name: str) -> None:
    assert find_gpu(asked).name == name


def test_every_card_answers_to_its_names() -> None:
    for card in gpus():
        for name in (card.name, card.name.lower(), card.name.replace(" ", ""), *card.aliases):
            assert find_gpu(name) is card, name
        # Two memory sizes of one card share the driver's name: then the smaller is meant.
        same = [c for c in gpus() if c.driver_name == card.driver_name]
        assert find_gpu(card.driver_name).memory_total == min(c.memory_total for c in same)


@pytest.mark.parametrize(("asked", "near"), [("rtx 4091", "RTX 4090"), ("a1000", "A100"), ("tesla t5", "T4")])
def test_unknown_name_lists_the_nearest(asked: str, near: str) -> None:
    with pytest.raises(UnknownGPUError) as error:
        find_gpu(asked)
    assert any(near in name for name in error.value.nearest)
    assert asked in str(error.value)
    assert error.value.nearest[0] in str(error.value)


@pytest.mark.parametrize("asked", ["", "   ", "?!", "geforce", "banana"])
def test_nonsense_is_unknown(asked: str) -> None:
    with pytest.raises(UnknownGPUError):
        find_gpu(asked)


@pytest.mark.parametrize(
    ("spec", "name", "count"),
    [
        ("T4", "T4", 1),
        ("T4x2", "T4", 2),
        ("h100x8", "H100 SXM", 8),
        ("8xH100", "H100 SXM", 8),
        ("2 x RTX 3090", "RTX 3090", 2),
        ("RTX 3090 × 2", "RTX 3090", 2),
        ("GTX 1060", "GTX 1060 6GB", 1),
        ("gtx1060x2", "GTX 1060 6GB", 2),
        ("A100 80GB:4", "A100 SXM4 80GB", 4),
    ],
)
def test_parse_gpus(spec: str, name: str, count: int) -> None:
    card, n = parse_gpus(spec)
    assert (card.name, n) == (name, count)


def test_parse_gpus_refuses() -> None:
    with pytest.raises(UsageError, match="0 GPUs"):
        parse_gpus("T4x0")
    with pytest.raises(UnknownGPUError, match="bananax2"):
        parse_gpus("bananax2")


# ---------------------------------------------------------------------------------------------- figures


def test_enough_cards_of_every_kind() -> None:
    cards = gpus()
    assert len(cards) >= 60
    assert {c.architecture for c in cards} == {
        "Pascal", "Volta", "Turing", "Ampere", "Ada Lovelace", "Hopper", "Blackwell",
    }  # fmt: skip
    assert {c.kind for c in cards} == {"laptop", "desktop", "workstation", "datacenter", "jetson"}
    lent = {(lender, c.name) for c in cards for lender in c.lenders}
    assert lent >= {
        ("Colab", "T4"), ("Colab", "L4"), ("Colab", "A100 SXM4 40GB"), ("Colab", "A100 SXM4 80GB"),
        ("Colab", "H100 SXM"), ("Colab", "RTX PRO 6000 Blackwell Server"), ("Kaggle", "P100 PCIe 16GB"),
        ("Kaggle", "T4"), ("SageMaker Studio Lab", "T4"),
    }  # fmt: skip


# Peaks as the vendor prints them, in TFLOP/s, dense.  The catalog computes them from clocks.
DATA_SHEETS = [
    ("T4", {"fp32": 8.1, "fp16": 65, "int8": 130}),
    ("P100 PCIe", {"fp64": 4.7, "fp32": 9.3, "fp16": 18.7}),
    ("P40", {"fp32": 12, "int8": 47}),
    ("V100", {"fp64": 7.8, "fp32": 15.7, "fp16": 125}),
    ("RTX 2080 Ti", {"fp32": 13.4, "fp16": 53.8}),
    ("A100", {"fp64": 19.5, "fp32": 19.5, "tf32": 156, "fp16": 312, "bf16": 312, "int8": 624}),
    ("A10", {"fp32": 31.2, "tf32": 62.5, "bf16": 125, "int8": 250}),
    ("A10G", {"fp32": 35, "tf32": 35, "bf16": 70, "int8": 280}),
    ("RTX A6000", {"fp32": 38.7, "tf32": 77.4, "fp16": 154.8}),
    ("RTX 3090", {"fp32": 35.6, "tf32": 35.6, "fp16": 71, "int8": 284}),
    ("L4", {"fp32": 30.3, "tf32": 60, "fp16": 121, "fp8": 242}),
    ("L40", {"fp32": 90.5, "tf32": 90.5, "fp16": 181, "fp8": 362}),
    ("L40S", {"fp32": 91.6, "tf32": 183, "fp16": 362, "fp8": 733}),
    ("RTX 4090", {"fp32": 82.6, "tf32": 82.6, "fp16": 165.2, "fp8": 330.3, "int8": 660.6}),
    ("H100 PCIe", {"fp32": 51.2, "fp16": 756.5, "fp8": 1513}),
    ("H100 SXM", {"fp64": 66.9, "fp32": 66.9, "tf32": 494.7, "fp16": 989.4, "fp8": 1978.9}),
    ("H100 NVL", {"fp32": 60, "fp16": 835}),
    ("B200", {"fp64": 37, "fp32": 75, "fp16": 2250, "fp8": 4500, "fp4": 9000}),
    ("RTX 5090", {"fp32": 104.8, "fp16": 209.5, "fp8": 419, "fp4": 1676}),
    ("RTX PRO 6000", {"fp32": 125, "fp4": 2000}),
    ("GB10", {"fp32": 31, "fp4": 500}),
    ("Jetson AGX Thor", {"fp4": 1035}),
    ("Jetson AGX Orin", {"fp32": 5.3, "int8": 85}),
]


@pytest.mark.parametrize(("name", "printed"), DATA_SHEETS, ids=[n for n, _ in DATA_SHEETS])
def test_rates_agree_with_data_sheets(name: str, printed: dict[str, float]) -> None:
    rates = find_gpu(name).rates
    for dtype, tera in printed.items():
        assert rates[dtype] / 1e12 == pytest.approx(tera, rel=0.025), dtype


@pytest.mark.parametrize("card", gpus(), ids=lambda c: c.name)
def test_figures_are_plausible(card: GPU) -> None:
    assert card.memory_low <= card.memory_total <= card.memory_high
    if isinstance(card.memory_nvml, int):
        # The driver keeps a little for itself, never more than a few percent (10 % on the smallest cards).
        assert 0.9 * card.memory_nvml < card.memory_total < card.memory_nvml
    else:
        assert card.unified
    assert 50 * MiB < card.context_low < card.context < card.context_high < 0.1 * card.memory_total
    assert 50e9 < card.bandwidth < 10e12
    assert 1 * MiB <= card.l2 <= 128 * MiB
    # What the hardware can do follows from its generation.
    assert ("bf16" in card.rates) == ("tf32" in card.rates) == (card.capability >= (8, 0))
    assert ("fp8" in card.rates) == (card.capability >= (8, 9))
    assert ("fp4" in card.rates) == (card.capability >= (10, 0))
    assert card.native_bf16 == ("bf16" in card.rates)
    assert card.source
    assert card.memory_source


def test_memory_is_the_drivers_not_the_marketing_figure() -> None:
    assert find_gpu("T4").memory_total / GiB == pytest.approx(14.56, abs=0.01)
    assert find_gpu("T4").memory_nvml == 15360 * MiB
    assert find_gpu("RTX 4090").memory_total / GiB == pytest.approx(23.64, abs=0.02)
    assert find_gpu("H100").memory_high < 79.3 * GiB


def test_reported_memory_names_its_report_and_the_rest_says_derived() -> None:
    rows = {row["name"]: row for row in TABLE["gpu"]}
    assert len(rows) == len(TABLE["gpu"]) == len(gpus())
    for card in gpus():
        derived = "memory_total" not in rows[card.name]
        assert card.memory_source.startswith("derived") == derived, card.name
    assert sum("memory_total" in row for row in rows.values()) >= 45


def test_derived_memory_would_have_been_right_for_the_reported() -> None:
    # Leave one report out, derive it from the others: how wrong is the rule?
    rows = [{**r, "chip_name": r["chip"], "chip": TABLE["chips"][r["chip"]]} for r in TABLE["gpu"]]
    reported = [r for r in rows if "memory_total" in r and "nvml_mib" in r]
    errors = []
    for left_out in reported:
        kept = catalog._kept_by_driver([r for r in reported if r is not left_out])
        family = next(
            f for f in (left_out["chip_name"], left_out["chip"]["architecture"], "any") if f in kept
        )
        total = catalog._size(left_out["memory_total"])
        errors.append(abs(left_out["nvml_mib"] * MiB - kept[family] - total) / total)
    assert context_size.median(errors) < 0.01
    assert max(errors) < 0.04


# ---------------------------------------------------------------------------------------------- context


def test_context_law_predicts_a_card_it_has_not_seen() -> None:
    cards = {c.name: c for c in gpus()}
    seen = [
        (context_size.resident_threads(cards[o.card].capability, cards[o.card].sm_count), o.context, o.card)
        for o in context_size.observations()
    ]
    assert len(seen) >= 25
    misses = []
    for card in {name for _, _, name in seen}:
        law = context_size.fit([(x, y) for x, y, name in seen if name != card])
        for x, y, _ in (s for s in seen if s[2] == card):
            misses.append(abs(law.base + law.per_thread * x - y) / y)
    assert context_size.median(misses) < 0.08
    assert sum(m < 0.25 for m in misses) >= 0.8 * len(misses)


def test_one_strange_message_does_not_bend_the_law() -> None:
    line = [(1000 * x, 50 * MiB + 2000 * 1000 * x) for x in range(40, 300, 20)]
    straight = context_size.fit(line)
    assert straight.per_thread == pytest.approx(2000)
    assert straight.base == pytest.approx(50 * MiB)
    bent = context_size.fit([*line, (300_000, 5 * GiB), (40_000, 2 * GiB)])
    assert bent.per_thread == pytest.approx(2000, rel=0.02)


def test_observations_are_read_as_printed() -> None:
    first = context_size.observations()[0]
    assert first.in_use == round(4.11 * GiB)
    assert first.context == round(4.11 * GiB) - round(3.72 * GiB) - round(264.21 * MiB)
    assert all(o.source and o.context > 0 for o in context_size.observations())
    with pytest.raises(ValueError, match="14 GB"):
        context_size.parse_size("14 GB")


def test_quantile() -> None:
    assert context_size.median([3, 1, 2]) == 2
    assert context_size.median([4, 1, 2, 3]) == 2.5
    assert context_size.quantile([0, 10, 20], 0.9) == 18


# ------------------------------------------------------------------------------------------------ speed


def test_the_table_loads_in_a_blink_and_once() -> None:
    def load() -> float:
        start = process_time()
        catalog._load.__wrapped__()
        return process_time() - start

    # Budget 10 ms; twice that for slow machines.
    assert min(load() for _ in range(5)) < 0.020
    assert gpus() is gpus()
    assert all(a is b for a, b in itertools.pairwise([find_gpu("t4")] * 3))


def test_contexts_before_lazy_loading_hold_every_kernel():
    card = find_gpu("TITAN RTX")
    assert context_under(card, (2, 1)) == context_under(card, (1, 13)) == card.context
    eager = context_under(card, (1, 4)) - card.context
    seen = [s.context - find_gpu(s.card).context for s in context_size.eager_observations() if s.cuda == 10]
    assert min(seen) <= eager <= max(seen)
    newer = find_gpu("RTX 3090")
    assert context_under(newer, (1, 8)) - newer.context > eager
