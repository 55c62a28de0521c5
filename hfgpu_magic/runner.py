"""Running a whole program, or one notebook cell, on a card: a virtual one, or this machine's own."""

from __future__ import annotations

import contextlib
import gc
import linecache
import os
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from .devices.catalog import parse_gpus
from .errors import UsageError
from .virtual import AUTO, DEFAULT
from .virtual.report import RunReport
from .virtual.user_code import OURS

if TYPE_CHECKING:
    from .virtual.progress import Display


@contextlib.contextmanager
def _as_main(path: Path, args: Sequence[str]) -> Iterator[ModuleType]:
    """A fresh `__main__`, `sys.argv` and `sys.path[0]`, as `python script.py args` has them."""
    module = ModuleType("__main__")
    module.__file__ = str(path)
    module.__builtins__ = __builtins__  # type: ignore[attr-defined]
    saved = sys.argv, sys.path[0], sys.modules.get("__main__")
    sys.argv = [str(path), *args]
    sys.path[0] = str(path.parent)
    sys.modules["__main__"] = module
    try:
        yield module
    finally:
        sys.argv, sys.path[0] = saved[0], saved[1]
        if saved[2] is not None:
            sys.modules["__main__"] = saved[2]


def run_script(
    path: str | os.PathLike[str],
    args: Sequence[str] = (),
    *,
    gpu: str,
    json_mode: bool = False,
    display: Display | None = None,
) -> RunReport:
    """Run `python path args...` on the virtual `gpu` and report what it used.

    Meant for a process of its own (`hfgpu run`): real GPUs are hidden from it before torch is imported.
    The program's output goes where it goes; with `json_mode` its stdout goes to stderr.  An error of the
    program is printed with the program's own traceback and kept in `report.error`; Ctrl-C ends the run
    and leaves the report of what was measured so far.  `display` is shown the card as it fills up.

    Raises `UsageError` for a missing script, `UnknownGPUError` for an unknown card.
    """
    script = Path(path)
    if not script.is_file():
        raise UsageError(f"No script at {str(path)!r}. Usage: hfgpu run --gpu NAME script.py [args...]")
    try:
        code = compile(script.read_bytes(), str(script), "exec")
    except (SyntaxError, ValueError) as why:
        raise UsageError(f"{script} is not a Python program: {why}") from None
    parse_gpus(gpu)

    def program() -> None:
        redirect = contextlib.redirect_stdout(sys.stderr) if json_mode else contextlib.nullcontext()
        with _as_main(script, args) as main, redirect:
            exec(code, main.__dict__)

    with _hidden_gpus():
        report, error = run_callable(program, gpu=gpu, display=display)
    if isinstance(error, SystemExit):
        if not isinstance(error.code, (int, type(None))):  # sys.exit("why"): Python prints it
            print(error.code, file=sys.stderr)
    elif error is not None and not isinstance(error, KeyboardInterrupt):
        print_traceback(error)
    let_go(error)
    return report


@contextlib.contextmanager
def _hidden_gpus() -> Iterator[None]:
    """No real GPU for this process and its children, as far as CUDA has not started yet."""
    name = "CUDA_VISIBLE_DEVICES"
    before = os.environ.get(name)
    os.environ[name] = ""
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


@contextlib.contextmanager
def uncollected() -> Iterator[None]:
    """Without the collector of cycles, which is put back as it was."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


#: "Memory to spare" for the run that finds a program's demand (bytes).
_AMPLE = 1 << 40


def run_callable(
    execute: Callable[[], Any], *, gpu: str, demand: bool = False, display: Display | None = None
) -> tuple[RunReport, BaseException | None]:
    """Call `execute` on `gpu` and report what it used, with the error that ended it, if any.

    `gpu` is a card of the catalog, run virtually, or "auto": this machine's own GPU, measured, where there
    is one, and a virtual T4 elsewhere.  With `demand`, what runs out of memory on a virtual card is executed
    a second time on the same card with memory to spare, and `report.demand` says what it would have needed.
    `display` is shown a virtual card as it fills up.

    Raises `VirtualGPUError` when a virtual card cannot run in this process, because it can see a real one.
    """
    if gpu == AUTO:
        from .measured import MeasuredGPU, has_real_gpu

        if has_real_gpu():
            return run_on(MeasuredGPU(), execute)
        gpu = DEFAULT
    with uncollected():  # importing PyTorch makes objects by the million, and all of them stay
        from .virtual.session import VirtualGPU

    report, error = run_on(VirtualGPU(gpu, display=display), execute)
    if demand and report.outcome == "oom":
        ample, _ = run_on(VirtualGPU(gpu, memory=_AMPLE, display=display), execute)
        if ample.outcome == "fits":
            report = replace(report, demand=ample.devices[0])
    return report, error


def run_cell(
    source: str, namespace: dict[str, Any], *, gpu: str, demand: bool = False, filename: str = "<cell>"
) -> RunReport:
    """Execute `source` in `namespace` on `gpu` and report what it used; see `run_callable`.

    The plain function behind `%%gpurun`, for front ends without magics.  An out-of-memory error is a
    result, told by the report alone; any other error of the cell is printed with its traceback too.  No
    exception is kept, so none holds the cell's tensors.
    """
    linecache.cache[filename] = (len(source), None, source.splitlines(keepends=True), filename)
    code = compile(source, filename, "exec")
    report, error = run_callable(lambda: exec(code, namespace), gpu=gpu, demand=demand)
    if error is not None and report.outcome == "error" and not isinstance(error, KeyboardInterrupt):
        print_traceback(error)
    let_go(error)
    return report


def run_on(
    card: AbstractContextManager[Any], program: Callable[[], Any]
) -> tuple[RunReport, BaseException | None]:
    """Run `program` in the block of a `VirtualGPU` or a `MeasuredGPU`: the report, and what ended it."""
    error: BaseException | None = None
    try:
        with card:
            program()
    except BaseException as caught:
        if card.never_started:  # type: ignore[attr-defined]
            raise
        error = caught
    report: RunReport = card.report  # type: ignore[attr-defined]
    return report, error


def let_go(error: BaseException | None) -> None:
    """Forget where `error` came from, once that has been shown.

    A traceback holds its frames, a frame its caller's, and one of those the error: a circle that would keep
    every tensor of the failed program until Python next looks for circles.
    """
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        error.__traceback__ = None
        error = error.__cause__ or error.__context__


def print_traceback(error: BaseException) -> None:
    """The program's own traceback, without the frames of this package."""
    summary = traceback.TracebackException.from_exception(error)
    seen: set[int] = set()
    part: traceback.TracebackException | None = summary
    while part is not None and id(part) not in seen:
        seen.add(id(part))
        _drop_our_frames(part)
        part = part.__cause__ or part.__context__
    print("".join(summary.format()), end="", file=sys.stderr)


def _drop_our_frames(summary: traceback.TracebackException) -> None:
    kept = [f for f in summary.stack if not str(Path(f.filename)).startswith(OURS)]
    summary.stack = traceback.StackSummary.from_list(kept)
