"""What is shown while a program runs: a terminal's status line, a notebook cell's bar."""

from __future__ import annotations

import io
import re
import sys
from collections.abc import Callable
from typing import Any

import pytest

from hfgpu_magic.live import CellBar, StatusLine, terminal_line
from hfgpu_magic.units import GiB
from hfgpu_magic.views.live import live_html, live_text
from hfgpu_magic.virtual.progress import EVERY, Moment

MOMENT = Moment("T4", 16 * GiB, 6 * GiB, 8 * GiB, 4 * GiB, 2, 12_345, 6_789.0)


class Terminal(io.StringIO):
    """A screen that understands what the status line sends."""

    encoding = "utf-8"

    def isatty(self) -> bool:
        return True

    def screen(self) -> list[str]:
        lines: list[list[str]] = [[]]
        row = column = 0
        for token in re.findall(r"\x1b\[\d*[AGK]|[^\x1b]", self.getvalue()):
            if token == "\n":
                row, column = row + 1, 0
                lines.extend([] for _ in range(row + 1 - len(lines)))
            elif token == "\r":
                column = 0
            elif token.endswith("A") and token[0] == "\x1b":
                row -= int(token[2:-1])
            elif token.endswith("G") and token[0] == "\x1b":
                column = int(token[2:-1]) - 1
            elif token == "\x1b[K":
                del lines[row][column:]
            else:
                lines[row].extend(" " * (column - len(lines[row])))
                lines[row][column : column + 1] = [token]
                column += 1
        return ["".join(line).rstrip() for line in lines]


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    monkeypatch.setenv("COLUMNS", "80")
    return Terminal()


def test_the_line_tells_memory_peak_step_and_pace() -> None:
    assert live_text(MOMENT, 100).split(" · ") == [
        "T4 [██████▓▓▓░░░············] 6.00 GiB of 16.00 GiB", "peak 8.00 GiB", "step 2", "6,789 op/s",
    ]  # fmt: skip


@pytest.mark.parametrize("width", [40, 60, 80])
def test_the_line_fits_the_terminal(width: int) -> None:
    assert len(live_text(MOMENT, width)) <= width


def test_the_bar_of_a_cell_is_a_meter_with_words() -> None:
    html = live_html(MOMENT)
    assert 'role="meter"' in html
    assert 'aria-valuetext="6.00 GiB of 16.00 GiB"' in html
    assert "width:37.5%" in html


def test_the_program_s_output_is_what_it_would_have_been(terminal: Terminal) -> None:
    line = StatusLine(terminal)
    with line.among(terminal):
        print("first", file=terminal)
        line.show(MOMENT)
        assert "6.00 GiB of 16.00 GiB" in terminal.screen()[1]
        print("second", file=terminal)
        assert terminal.screen()[:2] == ["first", "second"]
        line.show(MOMENT)
    assert terminal.screen() == ["first", "second", ""]


def test_a_progress_bar_of_the_program_keeps_its_line(terminal: Terminal) -> None:
    line = StatusLine(terminal)
    with line.among(terminal):
        for percent in (10, 20, 30):
            terminal.write(f"\r{percent}% done")
            line.show(MOMENT)
            assert terminal.screen()[0] == f"{percent}% done"
            assert "T4 [" in terminal.screen()[1]
        terminal.write("\n")
    assert [text for text in terminal.screen() if text] == ["30% done"]


def test_the_streams_are_as_before(terminal: Terminal) -> None:
    with StatusLine(terminal).among(terminal):
        assert "write" in vars(terminal)
    assert "write" not in vars(terminal)


def test_no_line_without_a_terminal(monkeypatch: pytest.MonkeyPatch, terminal: Terminal) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys, "stderr", terminal)
    assert terminal_line() is not None
    assert terminal_line(wanted=False) is None
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    assert terminal_line() is None


class Recorded:
    """A display that keeps what it is shown."""

    def __init__(self, interval: float, act: Callable[[Moment], None] = lambda moment: None) -> None:
        self.interval = interval
        self.moments: list[Moment] = []
        self._act = act

    def show(self, moment: Moment) -> None:
        self.moments.append(moment)
        self._act(moment)


def _allocate(n: int) -> None:
    torch = pytest.importorskip("torch")
    for _ in range(n):
        torch.empty(256, device="cuda").add(1)


class TestMoments:
    def test_they_are_the_card_s(self) -> None:
        from hfgpu_magic.virtual import VirtualGPU

        display = Recorded(0.0)
        with VirtualGPU("T4", display=display) as gpu:
            _allocate(EVERY)
        first, last = display.moments[0], display.moments[-1]
        assert first.total == gpu.report.total_memory
        assert last.peak == gpu.report.peak.device
        assert 0 < first.operations < last.operations <= gpu.report.operations

    def test_no_more_often_than_asked(self) -> None:
        from hfgpu_magic.virtual import VirtualGPU

        display = Recorded(3600.0)
        with VirtualGPU("T4", display=display):
            _allocate(4 * EVERY)
        assert display.moments == []

    def test_a_terminal_that_went_away_does_not_end_the_program(self) -> None:
        from hfgpu_magic.virtual import VirtualGPU

        def gone(moment: Moment) -> None:
            raise BrokenPipeError

        display = Recorded(0.0, gone)
        with VirtualGPU("T4", display=display) as gpu:
            _allocate(2 * EVERY)
        assert gpu.report.outcome == "fits"
        assert len(display.moments) == 1


def test_a_cell_s_bar_gives_way_to_the_report(monkeypatch: pytest.MonkeyPatch) -> None:
    display_module = pytest.importorskip("IPython.display")
    shown: list[dict[str, str]] = []

    class Handle:
        def update(self, bundle: dict[str, str], raw: bool) -> None:
            shown[-1] = bundle

    def display(bundle: dict[str, str], **options: Any) -> Handle:
        shown.append(bundle)
        return Handle()

    monkeypatch.setattr(display_module, "display", display)
    bar = CellBar()
    assert not bar.replace({"text/plain": "nothing was shown before"})
    bar.show(MOMENT)
    bar.show(MOMENT)
    assert bar.replace({"text/plain": "the report"})
    assert shown == [{"text/plain": "the report"}]
