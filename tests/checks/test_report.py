"""Weighing for the task, the summary, and what the report looks like."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from machines import GOOD_VERSIONS, card, machine

from hfgpu_magic.checks import check
from hfgpu_magic.checks.facts import PROFILES, Facts, System, Target, TorchBuild
from hfgpu_magic.checks.report import CheckReport, evaluate, report
from hfgpu_magic.checks.rule import Check, Topic
from hfgpu_magic.checks.rules import RULES
from hfgpu_magic.checks.tables import package_names, table, wheels
from hfgpu_magic.devices.na import NA
from hfgpu_magic.devices.snapshot import DriverInfo, Inventory, ProcessInfo
from hfgpu_magic.errors import UnknownGPUError, UsageError

EVIL = '<script>alert("x")</script><img src=x onerror=alert(1)>'


def evil_report() -> CheckReport:
    """Untrusted text in every place that could carry it."""
    evil = card("T4", name=EVIL, free=1 << 30, message=EVIL, processes=(ProcessInfo(1, EVIL, 5 << 30),))
    return report(
        machine(
            evil,
            inventory=Inventory(DriverInfo("ok", EVIL, (13, 2)), (evil,), (EVIL,)),
            environ={"CUDA_VISIBLE_DEVICES": EVIL, "PYTORCH_ALLOC_CONF": EVIL, "LOCAL_RANK": EVIL},
            allocator_problem=EVIL,
            visible_problem=EVIL,
            versions=GOOD_VERSIONS | {"torchvision": EVIL},
            torch=TorchBuild(f"2.15.0+{EVIL}", "13.2"),
            system=System(distribution=EVIL, c_compiler=EVIL, container=EVIL),
        )
    )


class Outline(HTMLParser):
    """Elements in order, and whether they nest."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self._open: list[str] = []
        self.feed(html)
        assert self._open == [], f"not closed: {self._open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag


# --- weighing


@pytest.mark.parametrize("profile", PROFILES)
def test_a_good_machine_is_ready_for_every_task(profile: str) -> None:
    found = report(
        machine(
            "A100",
            "A100",
            profile=profile,
            environ={
                "RANK": "0",
                "LOCAL_RANK": "0",
                "WORLD_SIZE": "2",
                "MASTER_ADDR": "h",
                "MASTER_PORT": "1",
            },
        )
    )
    assert found.ok
    assert found.by_status("fail") == ()


@pytest.mark.parametrize(
    ("profile", "status"),
    [
        ("general", "warn"),
        ("inference", "warn"),
        ("quantization", "warn"),
        ("training", "fail"),
        ("distributed", "fail"),
    ],
)
def test_no_gpu_weighs_more_where_the_task_cannot_do_without(profile: str, status: str) -> None:
    assert report(machine(profile=profile))["gpu.present"].status == status


def test_a_profile_leaves_out_what_does_not_matter() -> None:
    two = machine("T4", "T4")
    assert "distributed.launcher" in report(replace(two, profile="training"))
    assert "distributed.launcher" not in report(replace(two, profile="inference"))


def test_the_worst_comes_first_and_what_can_be_fixed_before_what_cannot() -> None:
    order = [
        Topic("a", "A", "", "").ok("", ""),
        Topic("b", "B", "", "").fail("", "", None),
        Topic("c", "C", "", "").warn("", "", "x"),
        Topic("d", "D", "", "").fail("", "", "x"),
    ]
    assert [c.id for c in evaluate(machine(), [lambda _: order])] == ["d", "b", "c", "a"]


@pytest.mark.parametrize(
    "facts",
    [
        Facts(),
        Facts(torch=TorchBuild("unknown", "13.0")),
        machine(card("T4", name=NA, total=NA, used=NA, free=NA, capability=NA, processes=NA)),
        machine("GTX 1080", "RTX 5090", "H100"),
        machine("T4", torch=None, versions={}),
        machine("T4", system=System(os="Windows", machine="AMD64", python=(3, 10, 0))),
        machine("T4", target=Target("T4", "T4")),
    ],
)
@pytest.mark.parametrize("profile", PROFILES)
def test_no_machine_is_so_odd_that_a_rule_breaks(facts: Facts, profile: str) -> None:
    found = report(replace(facts, profile=profile))  # type: ignore[arg-type]
    assert len({c.id for c in found.checks}) == len(found.checks)
    json.dumps(found.to_dict())
    assert found.to_text()
    Outline(found.to_html())


def test_every_rule_gives_a_source_and_a_reason() -> None:
    poor = machine("GTX 1080", "GTX 1650", torch=TorchBuild("2.5.0+cpu"), versions={"transformers": "4.40.0"})
    for rule in RULES:
        for found in rule(poor):
            assert found.source, found.id
            assert found.why, found.id
            assert found.required, found.id


def test_every_row_of_every_table_has_a_source() -> None:
    rows = [
        row
        for name in ("requirements", "precision", "quantizers", "drivers", "backends", "tasks", "wheels")
        for group in table(name).values()
        if isinstance(group, list)
        for row in group
        if isinstance(row, dict)
    ]
    assert len(rows) > 80
    assert [row for row in rows if not row.get("source")] == []
    assert all(w.source for w in wheels())


def test_generations_leave_no_gap_between_5_0_and_12_1() -> None:
    rows = table("precision")["generation"]
    assert [a["below"] for a in rows[:-1]] == [b["from"] for b in rows[1:]]


# --- summary


def test_the_summary_names_verdict_card_torch_and_the_first_thing_to_fix() -> None:
    good = report(machine("A100"))
    assert good.summary == "Ready. NVIDIA A100-SXM4-40GB, torch 2.15.0+cu132"
    bad = report(machine("GTX 1080", profile="training"))
    assert bad.summary == (
        "Not ready for fine-tuning: 1 problem, 3 warnings; fix first: GPU kernels in this torch. "
        "NVIDIA GeForce GTX 1080, torch 2.15.0+cu132"
    )
    assert "on the CPU" in report(machine()).summary


def test_versions_list_every_package_and_none_for_the_absent() -> None:
    versions = report(machine("T4")).versions
    assert set(package_names()) <= set(versions)
    assert versions["torch"] == "2.15.0+cu132"
    assert versions["torch.cuda"] == "13.2"
    assert versions["deepspeed"] is None
    assert versions["driver"] == "595.45.04"
    assert versions["driver.cuda"] == "13.2"


# --- text


@pytest.mark.parametrize("width", [60, 80, 120])
def test_text_keeps_to_the_width_except_for_commands(width: int) -> None:
    text = report(machine("GTX 1080", "T4")).to_text(width=width)
    command = re.compile(r"^(  fix      |           )\S")
    assert [line for line in text.splitlines() if len(line) > width and not command.match(line)] == []


def test_text_without_colour_holds_no_escape_and_with_colour_the_same_words() -> None:
    found = report(machine("T4"))
    plain, painted = found.to_text(), found.to_text(color=True)
    assert "\x1b" not in plain
    assert re.sub(r"\x1b\[[0-9;]*m", "", painted) == plain


def test_text_shows_the_card_and_every_finding_with_all_its_parts() -> None:
    text = report(machine(card("T4", used=3 << 30, temperature=61, power=55.3, power_limit=70.0))).to_text()
    assert "3.00 GiB of 15.00 GiB used" in text
    assert "61 °C · 55 of 70 W" in text
    assert "⚠ warning: bf16" in text
    for part in ("found", "needed", "why", "fix"):
        assert f"\n  {part:<9}" in text


def test_commands_stay_on_their_lines_to_be_copied() -> None:
    text = report(machine("GTX 1080")).to_text(width=60)
    assert (
        '\n  fix      pip install "torch==2.15.0+cu126" --index-url https://download.pytorch.org/whl/cu126\n'
        in text
    )


def test_a_device_that_tells_nothing_shows_n_a_never_zero() -> None:
    silent = card("T4", name=NA, capability=NA, total=NA, used=NA, free=NA, processes=NA)
    text = report(machine(silent)).to_text()
    assert "memory N/A" in text
    assert "0 bytes" not in text


# --- html


def test_html_escapes_everything_that_came_from_outside() -> None:
    html = evil_report().to_html()
    assert html.count("&lt;script&gt;") >= 8
    outline = Outline(html)
    assert not {"script", "img"} & set(outline.tags)
    assert not any(name.startswith("on") for name, _ in outline.attributes)


def test_html_is_self_contained_and_prefixed() -> None:
    html = report(machine("T4")).to_html()
    outline = Outline(html)
    names = {c for name, value in outline.attributes if name == "class" for c in (value or "").split()}
    assert all(name.startswith("hfgpu-") for name in names)
    assert not {"link", "script", "iframe"} & set(outline.tags)
    assert "http-equiv" not in html
    assert "var(--jp-" in html


def test_html_says_states_in_words_and_meters_in_numbers() -> None:
    html = report(machine(card("T4", used=3 << 30))).to_html()
    assert 'role="meter"' in html
    assert 'aria-valuenow="20"' in html
    assert 'aria-valuetext="3.00 GiB of 15.00 GiB used"' in html
    assert "warning" in html


def test_what_is_fine_is_folded_and_what_is_not_is_open() -> None:
    found = report(machine("T4"))
    html = found.to_html()
    folded = html[html.index('<details class="hfgpu-folded">') :]
    for entry in found.by_status("pass"):
        assert f"<summary>{entry.title}" in folded
    assert "bf16</h4>" in html.removesuffix(folded)
    assert "bf16</h4>" not in folded


def test_the_notebook_gets_text_and_html() -> None:
    bundle = report(machine("T4"))._repr_mimebundle_()
    assert set(bundle) == {"text/plain", "text/html"}


# --- the public call


def test_an_unknown_profile_or_card_is_one_sentence() -> None:
    with pytest.raises(UsageError, match=r"No profile called 'serving'; there are inference, training"):
        check(profile="serving")
    with pytest.raises(UnknownGPUError, match="Nearest"):
        check(gpu="T44")


def test_a_missing_check_is_a_key_error() -> None:
    found = report(machine("T4"))
    assert isinstance(found["gpu.present"], Check)
    with pytest.raises(KeyError):
        found["gpu.absent"]
