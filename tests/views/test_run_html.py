"""The run report in a notebook: escaped, scoped, readable, and true to its numbers."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import pytest

from hfgpu_magic.views import _style
from hfgpu_magic.views.run_html import run_page
from hfgpu_magic.virtual.report import CATEGORIES, RunReport

REPORTS = ["fits", "oom", "caught", "failed", "two_devices"]
VOID = {"meta", "br", "hr", "img", "input", "link", "path"}


class Reader(HTMLParser):
    """Tags, attributes and text; fails on a tag that is closed out of turn."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.attributes: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.feed(html)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open[-1:] != ["style"]:
            self.text.append(data)


@pytest.fixture(params=REPORTS)
def report(request: pytest.FixtureRequest) -> RunReport:
    found: RunReport = request.getfixturevalue(request.param)
    return found


def test_it_is_well_formed_and_carries_no_script(report: RunReport) -> None:
    seen = {tag for tag, _ in Reader(report.to_html()).attributes}
    assert not seen & {"script", "b", "i", "link", "img", "iframe"}


def test_every_class_is_ours_and_nothing_has_an_id(report: RunReport) -> None:
    for _, attributes in Reader(report.to_html()).attributes:
        assert "id" not in attributes
        for name in (attributes.get("class") or "").split():
            assert name.startswith("hfgpu-")


def test_no_handler_and_nothing_to_fetch(report: RunReport) -> None:
    html = report.to_html()
    assert "http" not in html
    assert "url(" not in html
    assert not [
        n for _, a in Reader(html).attributes for n in a if n.startswith("on") or n in ("src", "href")
    ]


def test_what_the_user_wrote_is_shown_as_written(oom: RunReport) -> None:
    text = "".join(Reader(oom.to_html()).text)
    assert "loss.backward()  # <script>alert(1)</script>" in text
    assert "A note with <b>markup</b> in it." in text
    assert "model.<i>embed</i>" in text


def test_the_bar_s_parts_add_up_to_the_card(fits: RunReport) -> None:
    widths = [float(w) for w in re.findall(r"width:([\d.]+)%", fits.to_html())]
    assert sum(widths) == pytest.approx(100, abs=0.01)
    assert widths[0] == pytest.approx(100 * 3 / 16, abs=0.001)


def test_the_bar_has_a_table_twin_with_every_part_in_words(oom: RunReport) -> None:
    text = Reader(oom.to_html()).text
    for name in (*(c for c in CATEGORIES if c != "other"), "cached, unused", "CUDA context", "free"):
        assert name in text
    assert " asked for" in text
    assert "other" not in text, "a category without bytes is left out"


def test_the_bar_tells_a_screen_reader_its_numbers(fits: RunReport) -> None:
    labels = [a["aria-label"] or "" for _, a in Reader(fits.to_html()).attributes if a.get("role") == "img"]
    assert labels[0].startswith("T4 when it was fullest: parameters 3.00 GiB, gradients 2.00 GiB")
    assert labels[1].endswith("allocated peaks at 10.00 GiB")


def test_thinning_keeps_the_one_operation_that_was_the_peak(fits: RunReport) -> None:
    (area,) = re.findall(r'class="hfgpu-area" d="([^"]+)"', fits.to_html())
    heights = [float(h) for h in re.findall(r"[V ]([\d.]+)", area.removesuffix("V100H0Z"))]
    assert len(heights) < 700
    assert min(heights) == pytest.approx(100 - 100 * 10 / 15, abs=0.02)  # 15 GiB: the card less the context


def test_a_run_without_a_timeline_has_no_chart(fits: RunReport) -> None:
    import dataclasses

    assert "<svg" not in dataclasses.replace(fits, timeline=()).to_html()


def test_each_of_several_devices_has_a_bar(two_devices: RunReport) -> None:
    html = two_devices.to_html()
    assert html.count('class="hfgpu-bar"') == 2
    assert "GPU 1: Tesla T4" in html


def test_the_page_is_a_document_with_an_escaped_title(fits: RunReport) -> None:
    page = run_page(fits, title="<x>.py")
    assert page.startswith("<!doctype html>")
    assert "<title>&lt;x&gt;.py on T4</title>" in page
    Reader(page.removeprefix("<!doctype html>"))


def test_the_bundle_has_both_kinds(report: RunReport) -> None:
    bundle = report._repr_mimebundle_()
    assert set(bundle) == {"text/plain", "text/html"}
    assert "object at 0x" not in bundle["text/plain"]


class TestStyle:
    @pytest.mark.parametrize("name", ["base", "run", "gpus"])
    def test_every_selector_is_inside_our_root(self, name: str) -> None:
        css = _style.css(name)
        assert "/*" not in css
        css = re.sub(r"@media[^{]+\{(.*?\})\}", r"\1", css)
        selectors = [s for rule in re.findall(r"([^{}]+)\{", css) for s in rule.split(",")]
        assert selectors
        assert all(".hfgpu-root" in s for s in selectors), selectors

    @pytest.mark.parametrize(("name", "color"), _style.CATEGORY_COLORS.items())
    def test_a_label_stands_out_from_its_category(self, name: str, color: str) -> None:
        from hfgpu_magic.views.run_html import _BLACK, _ON

        assert contrast(_ON.get(name, _BLACK), color) >= 4.5

    @pytest.mark.parametrize("ground", ["#ffffff", "#1c1c1c"])
    def test_states_stand_out_in_both_themes(self, ground: str) -> None:
        pattern = ";".join(rf"--hfgpu-{state}: (#\w+)" for state in ("good", "warn", "bad"))
        light, dark = re.findall(pattern, _style.css("base"))[:2]
        for color in light if ground == "#ffffff" else dark:
            assert contrast(color, ground) >= 4.5

    def test_a_state_is_said_in_a_word_and_hides_its_icon_from_readers(self) -> None:
        html = _style.state("fail", "<no>")
        assert "&lt;no&gt;" in html
        assert '<span aria-hidden="true">✗</span>' in html


def contrast(a: str, b: str) -> float:
    """WCAG 2's contrast ratio of two #rrggbb colours."""

    def luminance(color: str) -> float:
        channels = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    high, low = sorted((luminance(a), luminance(b)), reverse=True)
    return (high + 0.05) / (low + 0.05)
