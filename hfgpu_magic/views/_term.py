"""What a terminal can show: colour, width, characters."""

from __future__ import annotations

import os
import shutil
from typing import Final, TextIO

_SGR: Final = {
    "bold": "1",
    "dim": "2",
    "red": "31",
    "green": "32",
    "yellow": "33",
    "blue": "34",
    "magenta": "35",
    "cyan": "36",
}

#: For an output that cannot encode the left-hand characters.
_ASCII: Final = str.maketrans({
    "█": "#", "▓": "%", "▒": "+", "░": ".", "▏": "|", "─": "-", "│": "|", "·": "-", "–": "-", "—": "-",
    "…": "...", "×": "x", "✓": "+", "✗": "x", "✔": "+", "✘": "x", "⚠": "!", "•": "*", "→": "->", "≤": "<=",
    "≥": ">=", "‘": "'", "’": "'", "“": '"', "”": '"', "é": "e", "µ": "u",
})  # fmt: skip


def paint(text: str, *styles: str, color: bool) -> str:
    """`text` in the given styles ("bold", "red", …) if `color`."""
    if not color or not styles:
        return text
    return f"\x1b[{';'.join(_SGR[s] for s in styles)}m{text}\x1b[0m"


def wants_color(stream: TextIO) -> bool:
    """A terminal that takes colour, whose owner has not said no (NO_COLOR, TERM=dumb)."""
    if os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
        return False
    return stream.isatty()


def columns(stream: TextIO) -> int:
    """Width to draw for: the terminal's, between 40 and 100; 80 where there is none."""
    if not stream.isatty() and "COLUMNS" not in os.environ:
        return 80
    return min(max(shutil.get_terminal_size((80, 24)).columns, 40), 100)


def encodable(text: str, encoding: str | None) -> str:
    """`text`, or its nearest in plain ASCII where `encoding` lacks a character."""
    try:
        text.encode(encoding or "utf-8")
    except UnicodeEncodeError:
        return text.translate(_ASCII).encode("ascii", "replace").decode("ascii")
    return text


def write(text: str, stream: TextIO) -> None:
    """One text and a newline, in characters the stream can take."""
    stream.write(encodable(text, getattr(stream, "encoding", None)) + "\n")
    stream.flush()
