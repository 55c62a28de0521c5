"""The verbs in a notebook.  Parse, call, display; nothing else."""

from __future__ import annotations

import contextlib
import sys
from argparse import Namespace
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from IPython.core.error import UsageError as IPythonUsageError
from IPython.core.magic import Magics, cell_magic, line_magic, magics_class

from . import parsers
from .errors import HfgpuError, UsageError
from .virtual import AUTO

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell

    from .live import CellBar

_F = TypeVar("_F", bound=Callable[..., Any])


def _documented(verb: str) -> Callable[[_F], _F]:
    """Gives a magic the help of its parser, which `%name?` then shows."""

    def decorate(function: _F) -> _F:
        function.__doc__ = "::\n\n" + parsers.parser_for(verb, "magic").format_help().rstrip()
        return function

    return decorate


@magics_class
class HfgpuMagics(Magics):
    """Every magic of this package."""

    shell: InteractiveShell

    @line_magic
    @_documented("check")
    def gpucheck(self, line: str) -> None:
        def call(options: Namespace) -> None:
            from .checks import check

            self._show(check(gpu=options.gpu, profile=options.profile, deep=options.deep), options)

        _carry_out("check", line, call)

    @cell_magic
    @_documented("run")
    def gpurun(self, line: str, cell: str) -> None:
        def call(options: Namespace) -> None:
            from .devices.catalog import parse_gpus

            _check_into(options)
            if options.gpu != AUTO:
                parse_gpus(options.gpu)  # a wrong name is told before torch is imported

            from .measured import has_real_gpu

            apart = options.gpu != AUTO and has_real_gpu()
            (self._apart if apart else self._here)(options, f"%%gpurun {line}", cell)

        _carry_out("run", line, call)

    @cell_magic
    @_documented("mem")
    def gpumem(self, line: str, cell: str) -> None:
        def call(options: Namespace) -> None:
            from .cells import as_function, as_python
            from .measured import measure
            from .runner import let_go, run_on

            _check_into(options)
            title = f"%%gpumem {line}"
            execute = as_function(self.shell, title, cell)
            report, error = run_on(measure(), execute)
            result: Any = report
            if options.compare:
                from .apart import run_apart
                from .comparison import compare

                predicted = run_apart(title, as_python(self.shell, cell), gpu=report.gpu)
                result = compare({"measured": report, "predicted": predicted})
            self._keep(result, options)
            if error is not None and report.outcome == "error":
                execute.draw(error)
                raise error
            let_go(error)

        _carry_out("mem", line, call)

    def _here(self, options: Namespace, line: str, cell: str) -> None:
        from .cells import as_function
        from .live import CellBar, terminal_line
        from .runner import let_go, run_callable

        execute = as_function(self.shell, line, cell)
        if self._in_terminal:
            shown = terminal_line()
            with shown.among(sys.stdout) if shown else contextlib.nullcontext():
                report, error = run_callable(execute, gpu=options.gpu, demand=options.demand, display=shown)
            self._keep(report, options)
        else:
            # Only a kernel's front end can change what it has shown.
            bar = CellBar() if hasattr(self.shell, "kernel") and not options.plain else None
            report, error = run_callable(execute, gpu=options.gpu, demand=options.demand, display=bar)
            self._keep(report, options, bar)
        # Running out is a result, told by the report; any other error stays the cell's own.
        if error is not None and report.outcome == "error":
            execute.draw(error)
            raise error
        let_go(error)

    def _apart(self, options: Namespace, line: str, cell: str) -> None:
        from .apart import run_apart
        from .cells import as_python

        report = run_apart(line, as_python(self.shell, cell), gpu=options.gpu, demand=options.demand)
        self._keep(report, options)
        if report.outcome == "error":
            raise HfgpuError(f"The cell failed with {report.error}; its traceback is above.")

    def _keep(self, result: Any, options: Namespace, bar: CellBar | None = None) -> None:
        if options.into:
            self.shell.user_ns[options.into] = result
        self._show(result, options, bar)

    @property
    def _in_terminal(self) -> bool:
        """In terminal IPython, which cannot show html."""
        return hasattr(self.shell, "pt_app") or hasattr(self.shell, "prompt_for_code")

    @line_magic
    @_documented("gpus")
    def gpus(self, line: str) -> None:
        def call(options: Namespace) -> None:
            from .devices.gpu_list import GPUList

            self._show(GPUList.named(options.name), options)

        _carry_out("gpus", line, call)

    @line_magic
    @_documented("help")
    def gpuhelp(self, line: str) -> None:
        def call(options: Namespace) -> None:
            from .views.help_text import help_for

            print(help_for(options.verb, "magic"))

        _carry_out("help", line, call)

    def _show(self, result: Any, options: Namespace, bar: CellBar | None = None) -> None:
        """Text for a terminal, text and html for a notebook, there in place of the `bar` if one was shown."""
        from IPython.display import display

        if self._in_terminal:
            from .views import _term

            out = sys.stdout
            _term.write(result.to_text(color=_term.wants_color(out), width=_term.columns(out)), out)
            return
        bundle = {"text/plain": result.to_text(color=False, width=80)}
        if not options.plain:
            bundle["text/html"] = result.to_html()
        if bar is None or not bar.replace(bundle):
            display(bundle, raw=True)


def _check_into(options: Namespace) -> None:
    if options.into and not options.into.isidentifier():
        raise UsageError(f"--into needs a variable name, not {options.into!r}.")


def _carry_out(verb: str, line: str, call: Callable[[Namespace], None]) -> None:
    """Parses and calls; a mistake becomes IPython's one line, a wish for help becomes the help."""
    try:
        call(parsers.parser_for(verb, "magic").parse(parsers.split(line)))
    except parsers.HelpRequested as e:
        print(e)
    except HfgpuError as e:
        # IPython prints this type as one line and stops "run all"; no traceback.
        raise IPythonUsageError(str(e)) from None


def register(shell: InteractiveShell) -> None:
    """Adds the magics; a second time replaces them by themselves."""
    shell.register_magics(HfgpuMagics)


def unregister(shell: InteractiveShell) -> None:
    """Removes what `register` added.  IPython has no call for that, so its tables are edited."""
    manager = shell.magics_manager
    for table in manager.magics.values():
        for name in [n for n, f in table.items() if isinstance(getattr(f, "__self__", None), HfgpuMagics)]:
            del table[name]
    manager.registry.pop(HfgpuMagics.__name__, None)
