"""Looks shared by every html view: palette, states, theme, and the frame a view stands in.

Every class starts with `hfgpu-` because a notebook page is one document, and every view carries
its style inline because an output may be all that is left of the page.
"""

from __future__ import annotations

import functools
import re
from html import escape
from importlib.resources import files
from typing import Final

#: Okabe and Ito's palette, told apart under every common colour blindness (https://jfly.uni-koeln.de/color/):
#: one colour per category of memory.  Grey stands in for its black, which a dark theme would swallow.
CATEGORY_COLORS: Final = {
    "parameters": "#0072b2",
    "gradients": "#d55e00",
    "optimizer": "#009e73",
    "activations": "#e69f00",
    "buffers": "#56b4e9",
    "inputs": "#cc79a7",
    "workspace": "#f0e442",
    "other": "#999999",
}

#: State -> (icon, word).  The word always accompanies the colour.
STATES: Final = {
    "pass": ("✓", "pass"),
    "warn": ("⚠", "warning"),
    "fail": ("✗", "fail"),
    "skip": ("–", "skipped"),
}


@functools.cache
def css(name: str) -> str:
    """`views/css/NAME.css` without comments and spare blanks."""
    text = (files(__package__) / "css" / f"{name}.css").read_text(encoding="utf-8")
    text = re.sub(r"/\*.*?\*/", "", text, flags=re.DOTALL)
    return re.sub(r"\s*([{};,])\s*", r"\1", re.sub(r"\s+", " ", text)).replace(";}", "}").strip()


def block(name: str, body: str) -> str:
    """One self-contained piece of html: `base.css`, `NAME.css`, then `body` in the themed root."""
    return f'<div class="hfgpu-root hfgpu-{name}"><style>{css("base")}{css(name)}</style>{body}</div>'


def page(title: str, body: str) -> str:
    """A whole document around a block, for a file of its own."""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        '<meta name="color-scheme" content="light dark">'
        f"<title>{escape(title)}</title><style>body{{margin:0;padding:.5rem;background:#fff}}"
        "@media (prefers-color-scheme:dark){body{background:#1c1c1c}}</style></head>\n"
        f"<body>{body}</body></html>\n"
    )


def state(name: str, word: str | None = None) -> str:
    """Icon and word of a state ("pass", "warn", "fail", "skip"); `word` replaces its own word."""
    icon, own = STATES[name]
    said = escape(word or own)
    return f'<span class="hfgpu-state-{name}"><span aria-hidden="true">{icon}</span> {said}</span>'
