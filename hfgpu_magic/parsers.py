"""One parser per verb, shared by its magic, its terminal command, and the help of both.

A mistake becomes a one-line `UsageError` and a request for help becomes `HelpRequested`; neither
is ever a `SystemExit`, which inside IPython would offer to end the kernel.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, Literal, NoReturn

from .errors import UsageError

Edge = Literal["magic", "command"]

#: What `--for` accepts.  The requirement profiles themselves are a table of `checks`.
PROFILES: Final = ("inference", "training", "quantization", "distributed")

_WIDTH: Final = 80


class HelpRequested(Exception):  # noqa: N818 - not an error: somebody asked
    """`-h` was given.  The exception's text is the help to show."""


class _Formatter(argparse.HelpFormatter):
    """80 columns wherever it runs, and `NAME` for a name that may hold spaces."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, width=_WIDTH, max_help_position=24)

    def _format_args(self, action: argparse.Action, default_metavar: str) -> str:
        if isinstance(action, _Words):
            name = str(action.metavar or default_metavar)
            return f"[{name}]" if action.nargs == "*" else name
        return super()._format_args(action, default_metavar)


class _Words(argparse.Action):
    """Joins `a100 40gb` given without quotes back into one name."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,  # noqa: ARG002
        namespace: argparse.Namespace,
        values: str | Sequence[Any] | None,
        option_string: str | None = None,  # noqa: ARG002
    ) -> None:
        words = [values] if isinstance(values, str) else list(values or ())
        setattr(namespace, self.dest, " ".join(words) or None)


class _Help(argparse.Action):
    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,  # noqa: ARG002
        values: str | Sequence[Any] | None,  # noqa: ARG002
        option_string: str | None = None,  # noqa: ARG002
    ) -> None:
        raise HelpRequested(parser.format_help().rstrip())


class Parser(argparse.ArgumentParser):
    """An `ArgumentParser` that raises instead of ending the process."""

    def __init__(self, prog: str, description: str, epilog: str | None = None) -> None:
        super().__init__(
            prog=prog,
            description=description,
            epilog=epilog,
            add_help=False,
            allow_abbrev=False,
            formatter_class=_Formatter,
        )
        # Python 3.14 colours help when a terminal is near; this text also becomes a docstring.
        vars(self)["color"] = False
        self.add_argument("-h", "--help", action=_Help, nargs=0, help="show this help")

    def usage_line(self) -> str:
        """The synopsis on one line, without the word "usage"."""
        return " ".join(self.format_usage().split()).removeprefix("usage: ")

    def error(self, message: str) -> NoReturn:
        said = message[:1].upper() + message[1:] + _nearest(message, self)
        raise UsageError(f"{said}. Usage: {self.usage_line()}")

    def parse(self, words: Sequence[str]) -> argparse.Namespace:
        """`words` as options, or `UsageError`, or `HelpRequested`."""
        return self.parse_args(words)


def _nearest(message: str, parser: argparse.ArgumentParser) -> str:
    """The known option that an unknown one resembles, as a question in brackets."""
    wrong = [w.split("=")[0] for w in message.split() if w.startswith("--")]
    if not message.startswith("unrecognized") or not wrong:
        return ""
    from difflib import get_close_matches

    known = [s for a in parser._actions for s in a.option_strings]
    close = get_close_matches(wrong[0], known, n=1)
    return f" (did you mean {close[0]}?)" if close else ""


def _check(edge: Edge) -> Parser:
    p = Parser(
        _prog("check", edge),
        "Can this machine do the job? Looks at devices, driver, packages and settings without starting CUDA.",
    )
    judged = "judge this catalog GPU instead of this machine's"
    p.add_argument("--gpu", metavar="NAME", nargs="+", action=_Words, help=judged)
    task = f"what it must be fit for: {_or(PROFILES)}"
    p.add_argument("--for", dest="profile", choices=PROFILES, metavar="TASK", help=task)
    p.add_argument("--deep", action="store_true", help="import torch and ask it too (slower)")
    if edge == "command":
        p.add_argument("--strict", action="store_true", help="exit with 1 when a check fails")
    return _output(p, edge)


def _run(edge: Edge) -> Parser:
    what = "this cell" if edge == "magic" else "a script"
    p = Parser(
        _prog("run", edge),
        f"What would {what} do on that GPU? Runs it unmodified on a virtual one, without data, and reports "
        "the memory it would take or the line where it runs out.",
        epilog={
            "magic": "Where the notebook can use a real GPU, a virtual one has a process of its own.",
            "command": "Exit status: 0 it fits, 3 out of memory, 1 the script failed.",
        }[edge],
    )
    if edge == "magic":
        which = "a GPU of %%gpus, or auto: this machine's own, measured, and a virtual T4 where there is none"
        p.add_argument("gpu", metavar="NAME", nargs="+", action=_Words, help=which)
        p.add_argument("--into", metavar="VAR", help="also keep the report in this variable")
        more = "if it does not fit, run it again with memory to spare and say how much it would have needed"
        p.add_argument("--demand", action="store_true", help=more)
        return _output(p, edge)
    p.add_argument("--gpu", metavar="NAME", required=True, help="a GPU of `hfgpu gpus`")
    p.add_argument("--no-progress", action="store_true", help="no status line while it works")
    p.add_argument("--timeline", metavar="FILE", help="write the report with its timeline here as html")
    _output(p, edge)
    p.add_argument("script", metavar="SCRIPT", help="the program to run")
    p.add_argument("args", metavar="ARGS", nargs=argparse.REMAINDER, help="the program's own arguments")
    return p


def _mem(edge: Edge) -> Parser:
    about = "What does this cell take? Runs it on this machine's own GPU and measures its peak."
    p = Parser(_prog("mem", edge), about)
    p.add_argument("--into", metavar="VAR", help="also keep the result in this variable")
    also = "run it once more on a virtual card of the same kind, in a process of its own, and show both"
    p.add_argument("--compare", action="store_true", help=also)
    return _output(p, edge)


def _gpus(edge: Edge) -> Parser:
    p = Parser(_prog("gpus", edge), "Lists the GPUs that the other verbs know, or tells about one.")
    p.add_argument("name", metavar="NAME", nargs="*", action=_Words, help="only this one, in detail")
    return _output(p, edge)


def _replay(edge: Edge) -> Parser:
    p = Parser(
        _prog("replay", edge),
        "Replays recorded CUDA allocator traces through this package's allocator and compares them address "
        "by address.",
    )
    trace = "a recording made with torch.cuda.memory._snapshot"
    p.add_argument("traces", metavar="TRACE", nargs="+", help=trace)
    return _output(p, edge)


def _help(edge: Edge) -> Parser:
    p = Parser(_prog("help", edge), "Lists the verbs on one screen, or explains one.")
    p.add_argument("verb", metavar="VERB", nargs="?", choices=verbs(edge), help=f"one of {_or(verbs(edge))}")
    return p


def _output(p: Parser, edge: Edge) -> Parser:
    if edge == "command":
        p.add_argument("--json", action="store_true", help="print one JSON object on standard output")
    else:
        p.add_argument("--plain", action="store_true", help="text only, no html")
    return p


_BUILDERS: Final[dict[str, Callable[[Edge], Parser]]] = {
    "check": _check,
    "run": _run,
    "mem": _mem,
    "gpus": _gpus,
    "replay": _replay,
    "help": _help,
}

#: Verbs about a cell, which a terminal does not have.
_CELLS_ONLY: Final = ("mem",)

#: The magic of each verb that has one.
MAGICS: Final = {
    "check": "%gpucheck",
    "run": "%%gpurun",
    "mem": "%%gpumem",
    "gpus": "%gpus",
    "help": "%gpuhelp",
}


def verbs(edge: Edge) -> tuple[str, ...]:
    """The verbs that this edge offers, in the order in which help lists them."""
    return tuple(v for v in _BUILDERS if (v not in _CELLS_ONLY if edge == "command" else v in MAGICS))


def parser_for(verb: str, edge: Edge) -> Parser:
    """The parser of `verb` as its magic or as its command."""
    return _BUILDERS[verb](edge)


def split(line: str) -> list[str]:
    """A magic's line as words, quotes honoured."""
    import shlex

    try:
        return shlex.split(line)
    except ValueError as e:
        raise UsageError(f"{e} in {line!r}.") from None


def _prog(verb: str, edge: Edge) -> str:
    return f"hfgpu {verb}" if edge == "command" else MAGICS[verb]


def _or(words: Iterable[str]) -> str:
    *most, last = words
    return f"{', '.join(most)} or {last}"
