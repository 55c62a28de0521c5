"""`hfgpu`: the verbs in a terminal.  Parse, call, print; nothing else.

Exit status: 0 done (and it fits); 1 the script failed, or a check did under `--strict`; 2 the call
was wrong or could not be carried out; 3 out of memory on the virtual GPU; 130 interrupted.
"""

from __future__ import annotations

import contextlib
import os
import sys
from argparse import Namespace
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final, TextIO

from . import parsers
from .errors import HfgpuError, UsageError
from .views import _term

OK: Final = 0
FAILED: Final = 1
UNUSABLE: Final = 2
OUT_OF_MEMORY: Final = 3
INTERRUPTED: Final = 130

_INTERRUPTED: Final = "hfgpu: interrupted; nothing was left behind."


def entry() -> None:
    """The console script."""
    argv = sys.argv[1:]
    code = main(argv)
    with contextlib.suppress(OSError, ValueError):
        sys.stdout.flush()
        if _asks_json(argv):
            # The program that ran may still print from its atexit handlers: not behind the one object.
            os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    sys.exit(code)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command line (without the program's name) and returns its exit status."""
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        return _dispatch(words)
    except parsers.HelpRequested as e:
        _term.write(str(e), sys.stdout)
        return OK
    except HfgpuError as e:
        if _asks_json(words):
            _print_json({"error": {"type": type(e).__name__, "message": str(e)}})
        _term.write(f"hfgpu: {e}", sys.stderr)
        return UNUSABLE
    except KeyboardInterrupt:
        _term.write(_INTERRUPTED, sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        # The reader (`| head`) has seen enough.  Python would complain once more when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return OK


def _dispatch(words: list[str]) -> int:
    verb = words[0] if words else "help"
    if verb in {"-h", "--help"}:
        verb, words = "help", ["help"]
    if verb in {"-V", "--version"}:
        from ._version import __version__

        _term.write(f"hfgpu {__version__}", sys.stdout)
        return OK
    if verb not in parsers.verbs("command"):
        raise UsageError(_unknown_verb(verb))
    options = parsers.parser_for(verb, "command").parse(words[1:])
    handler = {"check": _check, "run": _run, "gpus": _gpus, "replay": _replay, "help": _help}[verb]
    return handler(options)


def _check(options: Namespace) -> int:
    from .checks import check

    with _stdout_for_json(options.json):
        report = check(gpu=options.gpu, profile=options.profile, deep=options.deep)
    _show(report, as_json=options.json)
    return FAILED if options.strict and not report.ok else OK


def _run(options: Namespace) -> int:
    from .devices.catalog import parse_gpus

    # Mistakes are told before torch is imported, which takes seconds.
    parse_gpus(options.gpu)
    script = Path(options.script)
    if not script.is_file():
        raise UsageError(f"No such script: {options.script}.")
    timeline = Path(options.timeline) if options.timeline else None
    if timeline and not timeline.resolve().parent.is_dir():
        raise UsageError(f"--timeline: there is no folder {timeline.resolve().parent}.")

    from .live import terminal_line
    from .runner import run_script

    line = terminal_line(not (options.json or options.no_progress))
    with _stdout_for_json(options.json), line.among(sys.stdout) if line else contextlib.nullcontext():
        report = run_script(
            script, tuple(options.args), gpu=options.gpu, json_mode=options.json, display=line
        )
    if timeline:
        from .views.run_html import run_page

        try:
            timeline.write_text(run_page(report, title=script.name), encoding="utf-8")
        except OSError as e:
            raise UsageError(f"--timeline: {timeline} cannot be written ({e.strerror}).") from None
    _show(report, as_json=options.json)
    if timeline and not options.json:
        _term.write(f"Timeline: {timeline}", sys.stdout)
    if report.error and report.error.startswith("KeyboardInterrupt"):
        _term.write(_INTERRUPTED, sys.stderr)
        return INTERRUPTED
    return {"fits": OK, "oom": OUT_OF_MEMORY, "error": FAILED}[report.outcome]


def _gpus(options: Namespace) -> int:
    from .devices.gpu_list import GPUList

    _show(GPUList.named(options.name), as_json=options.json)
    return OK


def _replay(options: Namespace) -> int:
    from .virtual.replay import replay

    for trace in options.traces:
        if not Path(trace).is_file():
            raise UsageError(f"No such trace: {trace}.")
    found = tuple(replay(trace) for trace in options.traces)
    if options.json:
        _print_json({"traces": [one.to_dict() for one in found]})
    else:
        from .views.replay import replay_text

        out = sys.stdout
        text = replay_text(found, color=_term.wants_color(out), width=_term.columns(out))
        _term.write(text, out)
    return OK


def _help(options: Namespace) -> int:
    from .views.help_text import help_for

    _term.write(help_for(options.verb, "command", _term.columns(sys.stdout)), sys.stdout)
    return OK


def _show(result: Any, *, as_json: bool) -> None:
    if as_json:
        _print_json(result.to_dict())
        return
    out = sys.stdout
    _term.write(result.to_text(color=_term.wants_color(out), width=_term.columns(out)), out)


def _print_json(data: dict[str, Any]) -> None:
    import json

    # ASCII only, so that any locale and any pipe carries it; NaN is not JSON.
    sys.stdout.write(json.dumps(data, indent=2, allow_nan=False) + "\n")
    sys.stdout.flush()


def _asks_json(words: Sequence[str]) -> bool:
    """Whether *we* were asked for JSON; a `--json` behind SCRIPT belongs to the script."""
    if "--json" not in words:
        return False
    if words[0] != "run":
        return True
    try:
        return bool(parsers.parser_for("run", "command").parse(words[1:]).json)
    except (UsageError, parsers.HelpRequested):
        return True


@contextlib.contextmanager
def _stdout_for_json(as_json: bool) -> Iterator[None]:
    """Sends what others print (Python code, C libraries, child processes) to standard error."""
    if not as_json:
        yield
        return
    with contextlib.redirect_stdout(sys.stderr), _descriptor_to_stderr(sys.stdout):
        yield


@contextlib.contextmanager
def _descriptor_to_stderr(stdout: TextIO) -> Iterator[None]:
    try:
        ours, theirs = sys.__stdout__.fileno(), sys.stderr.fileno()  # type: ignore[union-attr]
    except (AttributeError, OSError, ValueError):  # no descriptors: a notebook, a test
        yield
        return
    stdout.flush()
    saved = os.dup(ours)
    os.dup2(theirs, ours)
    try:
        yield
    finally:
        with contextlib.suppress(OSError, ValueError):
            stdout.flush()
        os.dup2(saved, ours)
        os.close(saved)


def _unknown_verb(verb: str) -> str:
    from difflib import get_close_matches

    names = parsers.verbs("command")
    near = get_close_matches(verb, names, n=1)
    hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(names)}."
    return f"No verb {verb!r}: {hint} `hfgpu help` explains them."
