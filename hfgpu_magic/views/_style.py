"""Looks shared by every html view: colours, type, theme, and the few pieces they are built from.

Every class starts with `hfgpu-` because a notebook page is one document.  Colours come from
JupyterLab's or VS Code's variables; where a front end has neither (Colab, a plain page) the
reader's light or dark preference decides.  Text always stands on a background set here.
"""

from __future__ import annotations

from html import escape
from typing import Final

#: Okabe and Ito's palette, told apart under every common colour blindness (https://jfly.uni-koeln.de/color/),
#: one colour per category of memory; grey stands in for its black, which a dark theme would swallow.
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

#: State → (icon, word, colour variable).  The word always accompanies the colour.
STATES: Final = {
    "pass": ("✓", "pass", "--hfgpu-good"),
    "warn": ("⚠", "warning", "--hfgpu-warn"),
    "fail": ("✗", "fail", "--hfgpu-bad"),
    "skip": ("–", "skipped", "--hfgpu-dim"),
}

_DARK: Final = (
    "--hfgpu-fg0:#e8e8e8;--hfgpu-bg0:#1c1c1c;--hfgpu-soft0:#2a2a2a;--hfgpu-line0:#4a4a4a;--hfgpu-dim0:#b0b0b0;"
    "--hfgpu-good:#4cc9a0;--hfgpu-warn:#f0b429;--hfgpu-bad:#ff8f5a;--hfgpu-link0:#7cc4f2;"
)
_LIGHT: Final = (
    "--hfgpu-fg0:#1f1f1f;--hfgpu-bg0:#ffffff;--hfgpu-soft0:#f4f4f4;--hfgpu-line0:#cccccc;--hfgpu-dim0:#5c5c5c;"
    "--hfgpu-good:#00694d;--hfgpu-warn:#7a5200;--hfgpu-bad:#a84300;--hfgpu-link0:#005a8d;"
)

BASE_CSS: Final = (
    f".hfgpu-root{{{_LIGHT}"
    "--hfgpu-fg:var(--jp-content-font-color1,var(--vscode-editor-foreground,var(--hfgpu-fg0)));"
    "--hfgpu-bg:var(--jp-layout-color1,var(--vscode-editor-background,var(--hfgpu-bg0)));"
    "--hfgpu-soft:var(--jp-layout-color2,var(--vscode-editorWidget-background,var(--hfgpu-soft0)));"
    "--hfgpu-line:var(--jp-border-color2,var(--vscode-editorWidget-border,var(--hfgpu-line0)));"
    "--hfgpu-dim:var(--jp-content-font-color2,var(--vscode-descriptionForeground,var(--hfgpu-dim0)));"
    "color:var(--hfgpu-fg);background:var(--hfgpu-bg);box-sizing:border-box;max-width:62rem;padding:.6rem .8rem;"
    "font-family:var(--jp-content-font-family,system-ui,sans-serif);font-size:.875rem;line-height:1.45;"
    "overflow-wrap:anywhere;text-align:left}"
    # Front ends with no variables of their own follow the reader; Jupyter's and Colab's word comes after it.
    f"@media (prefers-color-scheme:dark){{.hfgpu-root{{{_DARK}}}}}"
    f"[data-jp-theme-light=true] .hfgpu-root,html[theme=light] .hfgpu-root{{{_LIGHT}}}"
    f"[data-jp-theme-light=false] .hfgpu-root,.vscode-dark .hfgpu-root,html[theme=dark] .hfgpu-root{{{_DARK}}}"
    ".hfgpu-root *{box-sizing:border-box}"
    ".hfgpu-root h4{margin:.9rem 0 .3rem;font-size:.875rem;font-weight:600;color:var(--hfgpu-fg)}"
    ".hfgpu-root p{margin:.3rem 0}.hfgpu-root ul{margin:.3rem 0;padding-left:1.2rem}"
    ".hfgpu-summary{font-size:1.05rem;font-weight:600;margin:0 0 .5rem!important}"
    ".hfgpu-dim{color:var(--hfgpu-dim)}.hfgpu-num{text-align:right!important;font-variant-numeric:tabular-nums;"
    "white-space:nowrap}"
    ".hfgpu-state-pass{color:var(--hfgpu-good)}.hfgpu-state-warn{color:var(--hfgpu-warn)}"
    ".hfgpu-state-fail{color:var(--hfgpu-bad)}.hfgpu-state-skip{color:var(--hfgpu-dim)}"
    ".hfgpu-root table.hfgpu-table{border-collapse:collapse;margin:.3rem 0;color:var(--hfgpu-fg);"
    "background:none;font-size:inherit;border:0;width:auto;max-width:100%;table-layout:auto}"
    ".hfgpu-root .hfgpu-table tr{background:none!important;border:0}"
    ".hfgpu-root .hfgpu-table th,.hfgpu-root .hfgpu-table td{padding:.15rem .7rem .15rem 0;border:0;text-align:left;"
    "vertical-align:top;color:inherit;max-width:none;white-space:normal}"
    ".hfgpu-root .hfgpu-table thead th{color:var(--hfgpu-dim);font-weight:400;"
    "border-bottom:1px solid var(--hfgpu-line)}"
    ".hfgpu-root .hfgpu-table tbody th{font-weight:400}"
    ".hfgpu-root pre,.hfgpu-root code{font-family:var(--jp-code-font-family,ui-monospace,monospace);font-size:.8125rem;"
    "color:var(--hfgpu-fg);background:var(--hfgpu-soft)}"
    ".hfgpu-root pre{margin:.3rem 0;padding:.4rem .6rem;border:1px solid var(--hfgpu-line);white-space:pre-wrap}"
    ".hfgpu-root code{padding:0 .2rem}.hfgpu-root pre code{padding:0}"
    ".hfgpu-root summary{cursor:pointer;padding:.2rem 0}"
    ".hfgpu-root summary:focus-visible{outline:2px solid var(--hfgpu-link0);outline-offset:2px}"
)


def block(name: str, css: str, body: str) -> str:
    """One self-contained piece of html: its style, then `body` inside the themed root."""
    return f'<div class="hfgpu-root hfgpu-{escape(name)}"><style>{BASE_CSS}{css}</style>{body}</div>'


def page(title: str, body: str) -> str:
    """A whole document around a block, for a file of its own."""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        '<meta name="color-scheme" content="light dark">'
        f"<title>{escape(title)}</title>"
        "<style>body{margin:0;padding:1rem;background:#fff}"
        "@media (prefers-color-scheme:dark){body{background:#1c1c1c}}</style></head>"
        f"<body>{body}</body></html>\n"
    )


def state(name: str, word: str | None = None) -> str:
    """Icon and word of a state ("pass", "warn", "fail", "skip"); `word` replaces its own word."""
    icon, own, _ = STATES[name]
    return f'<span class="hfgpu-state-{name}"><span aria-hidden="true">{icon}</span> {escape(word or own)}</span>'
