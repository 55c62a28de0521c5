"""What a terminal or a notebook cell shows while a program runs on a virtual card; gone when it has ended."""

from __future__ import annotations

import contextlib
import re
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Final, TextIO

from .views import _term
from .views.live import live_html, live_text

if TYPE_CHECKING:
    from .virtual.progress import Moment

_CLEAR: Final = "\x1b[K"
_COLOUR: Final = re.compile(r"\x1b\[[0-9;]*m")


class StatusLine:
    """One line at the foot of a terminal, on standard error.

    It never mixes with what the program prints: it goes before each write of the program, and where the
    program left the cursor inside a line (a progress bar) it stands on the next one.
    """

    interval = 0.2

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._column = 0
        self._below = False
        self._shown = False

    @contextlib.contextmanager
    def among(self, *others: TextIO) -> Iterator[StatusLine]:
        """While this stands, writes to `others` (those that are terminals) clear the line first."""
        watched = [s for s in dict.fromkeys((self._stream, *others)) if _is_terminal(s)]
        undo = [self._intercept(s) for s in watched]
        try:
            yield self
        finally:
            for restore in undo:
                restore()
            with contextlib.suppress(OSError, ValueError):
                self.clear()

    def show(self, moment: Moment) -> None:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        width = _term.columns(self._stream) - 1
        text = _term.encodable(live_text(moment, width), getattr(self._stream, "encoding", None))
        self.clear()
        self._below = self._column > 0
        self._raw(f"\n{text}{self._back()}" if self._below else f"\r{text}{_CLEAR}")
        self._shown = True

    def clear(self) -> None:
        """Take the line away; the cursor is where the program left it."""
        if self._shown:
            self._shown = False
            self._raw(f"\n{_CLEAR}{self._back()}" if self._below else f"\r{_CLEAR}")

    def _back(self) -> str:
        """Up again, to the column where the program was."""
        return f"\x1b[1A\x1b[{self._column + 1}G"

    def _raw(self, text: str) -> None:
        type(self._stream).write(self._stream, text)  # past our own interception
        self._stream.flush()

    def _intercept(self, stream: TextIO) -> Callable[[], None]:
        write = stream.write

        def written(text: str) -> int:
            self.clear()
            self._follow(text)
            return write(text)

        # On the object, so that it stays the stream it is for whoever asks (isatty, buffer, encoding).
        stream.write = written  # type: ignore[method-assign]
        return lambda: stream.__dict__.pop("write", None)

    def _follow(self, text: str) -> None:
        """Where `text` leaves the cursor: 0 at the start of a line."""
        start = max(text.rfind("\n"), text.rfind("\r")) + 1
        length = len(_COLOUR.sub("", text[start:]))
        at = length if start else self._column + length
        width = _term.columns(self._stream)
        # A carriage return alone goes back to the start of a line that still stands there.
        stands = not length and start and text[start - 1] == "\r"
        self._column = 1 if stands else at % width


def _is_terminal(stream: Any) -> bool:
    try:
        return bool(stream.isatty()) and hasattr(stream, "__dict__")
    except (AttributeError, ValueError):
        return False


def terminal_line(wanted: bool = True) -> StatusLine | None:
    """A status line on standard error; None where none is wanted, or that is no terminal to draw on."""
    import os

    drawable = wanted and _is_terminal(sys.stderr) and os.environ.get("TERM") != "dumb"
    return StatusLine(sys.stderr) if drawable else None


class CellBar:
    """A bar in a notebook cell's output, which the final report takes the place of.

    The first one appears after `interval` seconds, so that a short cell shows its report alone.
    """

    interval = 0.5

    def __init__(self) -> None:
        self._handle: Any = None

    def show(self, moment: Moment) -> None:
        bundle = {"text/plain": live_text(moment, 80), "text/html": live_html(moment)}
        if self._handle is None:
            from IPython.display import display

            self._handle = display(bundle, raw=True, display_id=True)
        else:
            self._handle.update(bundle, raw=True)

    def replace(self, bundle: dict[str, str]) -> bool:
        """Put the final report where the bar is; False when there was none."""
        if self._handle is None:
            return False
        self._handle.update(bundle, raw=True)
        self._handle = None
        return True
