"""The verbs on one screen, built from the parsers themselves."""

from __future__ import annotations

import textwrap

from .. import parsers

_INDENT = 2


def help_screen(edge: parsers.Edge, width: int = 80) -> str:
    """What there is and how to call it, for a notebook or a terminal; fits 80 x 24."""
    first = {
        "magic": "hfgpu_magic: GPU checks and a virtual GPU for notebooks",
        "command": "hfgpu: GPU checks and a virtual GPU for the terminal",
    }[edge]
    names = {v: parsers.MAGICS[v] if edge == "magic" else f"hfgpu {v}" for v in parsers.verbs(edge)}
    column = _INDENT + max(map(len, names.values())) + 2
    lines = [first, ""]
    for verb, name in names.items():
        about = parsers.parser_for(verb, edge).description or ""
        wrapped = textwrap.wrap(about, max(width - column, 24))
        lines.append(" " * _INDENT + name.ljust(column - _INDENT) + wrapped[0])
        lines += [" " * column + more for more in wrapped[1:]]
    lines += ["", {
        "magic": "Options of one: %gpuhelp check, or %gpucheck? in a cell of its own.",
        "command": "Options of one: hfgpu VERB --help.  In a notebook: %load_ext hfgpu_magic",
    }[edge]]  # fmt: skip
    return "\n".join(lines)


def help_for(verb: str | None, edge: parsers.Edge, width: int = 80) -> str:
    """The screen of all verbs, or the full help of one."""
    if verb is None:
        return help_screen(edge, width)
    return parsers.parser_for(verb, edge).format_help().rstrip()
