"""The run report in a terminal."""

from __future__ import annotations

import re

import pytest

from hfgpu_magic.views import _term
from hfgpu_magic.views._bars import CACHED, CONTEXT, FREE, cells, parts, share
from hfgpu_magic.virtual.report import CATEGORIES, Peak, RunReport

GiB = 1 << 30


def test_a_fit_is_summed_up_in_its_first_line(fits: RunReport) -> None:
    assert fits.to_text(width=100).splitlines()[0] == (
        "✓ Fits on T4: 12.00 GiB of 16.00 GiB at the peak (75.0%), 4.00 GiB to spare"
    )


def test_running_out_names_line_code_and_message(oom: RunReport) -> None:
    text = oom.to_text(width=100)
    assert text.startswith(
        "✗ Out of memory on T4: 5.00 GiB more asked for; the peak was 12.00 GiB of 16.00 GiB\n"
    )
    assert "Ran out at train.py:31\n    loss.backward()" in text
    assert "CUDA out of memory. Tried to allocate 5.00 GiB." in text
    assert re.search(r"! asked for +5\.00 GiB +31\.2%", text)


def test_an_error_that_was_caught_is_told_but_does_not_fail_the_run(caught: RunReport) -> None:
    text = caught.to_text()
    assert text.startswith("✓ Fits on T4")
    assert "the program caught it and went on" in text
    assert "asked for " not in text


def test_a_failed_program_is_told_with_what_was_measured(failed: RunReport) -> None:
    text = failed.to_text(width=100)
    assert text.startswith("✗ The program failed on T4; until then it took 12.00 GiB of 16.00 GiB")
    assert "ValueError: mine" in text


@pytest.mark.parametrize("width", [40, 60, 80, 100])
def test_no_line_is_wider_than_the_terminal(oom: RunReport, width: int) -> None:
    assert max(map(len, oom.to_text(width=width).splitlines())) <= width


def test_colour_adds_only_colour(oom: RunReport) -> None:
    plain, painted = oom.to_text(width=80), oom.to_text(width=80, color=True)
    assert "\x1b" not in plain
    assert re.sub(r"\x1b\[[\d;]*m", "", painted) == plain


def test_every_category_has_its_own_letter() -> None:
    shown = parts(dict.fromkeys(CATEGORIES, GiB), Peak(8 * GiB, 9 * GiB, 10 * GiB), 16 * GiB)
    letters = [p.letter for p in shown]
    assert len(set(letters)) == len(letters) == len(CATEGORIES) + 3


def test_the_parts_fill_the_card_exactly() -> None:
    shown = parts({"parameters": 5 * GiB, "other": 1 * GiB}, Peak(6 * GiB, 7 * GiB, 8 * GiB), 16 * GiB)
    assert {p.name: p.bytes // GiB for p in shown} == {
        "parameters": 5, "other": 1, CACHED: 1, CONTEXT: 1, FREE: 8,
    }  # fmt: skip


def test_a_full_card_shows_no_free_part() -> None:
    shown = parts({"activations": 15 * GiB}, Peak(15 * GiB, 15 * GiB, 16 * GiB), 16 * GiB)
    assert FREE not in {p.name for p in shown}


@pytest.mark.parametrize("sizes", [[1], [1, 1], [1, 999], [3, 3, 3], [0, 5, 0], [1] * 50, [10**12, 1, 10**6]])
@pytest.mark.parametrize("width", [1, 7, 78])
def test_cells_add_up_to_the_width(sizes: list[int], width: int) -> None:
    given = cells(sizes, width)
    assert sum(given) == width
    assert all(g == 0 for g, s in zip(given, sizes, strict=True) if s == 0)


def test_cells_of_nothing() -> None:
    assert cells([], 10) == []
    assert cells([0, 0], 10) == [0, 0]


def test_what_is_tiny_is_not_called_zero() -> None:
    assert (share(0, 100), share(1, 10**6), share(1, 1000)) == ("0.0%", "<0.1%", "0.1%")


def test_what_was_needed_is_told_where_it_is_known(oom: RunReport) -> None:
    import dataclasses

    assert "to spare" not in oom.to_text()
    wanted = dataclasses.replace(oom.devices[0], peak=Peak(30 * GiB, 31 * GiB, 32 * GiB))
    known = dataclasses.replace(oom, demand=wanted)
    said = "With memory to spare it would have reached 32.00 GiB, 2.0 times the card."
    assert said in known.to_text(width=100)
    assert said in known.to_html()


def test_a_measured_run_has_no_estimate(fits: RunReport) -> None:
    import dataclasses

    text = dataclasses.replace(fits, measured=True).to_text()
    assert "estimate" not in text
    assert "Measured on the card itself: 3.2 s." in text


def test_several_devices_are_told_one_by_one(two_devices: RunReport) -> None:
    text = two_devices.to_text()
    assert "GPU 0: Tesla T4, 12.00 GiB of 16.00 GiB" in text
    assert "GPU 1: Tesla T4, 3.00 GiB of 16.00 GiB" in text


def test_a_notebook_s_line_is_called_the_cell_s(oom: RunReport) -> None:
    import dataclasses

    assert oom.oom is not None
    for file in ("/tmp/ipykernel_77/123.py", "<ipython-input-3-abc>"):
        there = dataclasses.replace(oom, oom=dataclasses.replace(oom.oom, file=file))
        assert "Ran out at line 31 of the cell" in there.to_text()


class TestTerminal:
    def test_what_an_encoding_lacks_is_said_in_ascii(self, oom: RunReport) -> None:
        said = _term.encodable(oom.to_text(), "ascii")
        assert said.isascii()
        assert "?" not in said
        assert _term.encodable("✓ ok", "utf-8") == "✓ ok"

    @pytest.mark.parametrize("variable", [("NO_COLOR", "1"), ("TERM", "dumb")])
    def test_colour_can_be_refused(self, monkeypatch: pytest.MonkeyPatch, variable: tuple[str, str]) -> None:
        class Terminal:
            def isatty(self) -> bool:
                return True

        monkeypatch.delenv("NO_COLOR", raising=False)
        monkeypatch.setenv("TERM", "xterm")
        assert _term.wants_color(Terminal())  # type: ignore[arg-type]
        monkeypatch.setenv(*variable)
        assert not _term.wants_color(Terminal())  # type: ignore[arg-type]
