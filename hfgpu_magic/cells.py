"""Executing the body of a cell magic as if it were a cell: its own lines, its own traceback."""

from __future__ import annotations

import ast
from types import CodeType
from typing import TYPE_CHECKING

from .errors import UsageError

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell


class Cell:
    """A cell's code, to be called in the user's namespace."""

    def __init__(self, shell: InteractiveShell, name: str, statements: CodeType, shown: CodeType) -> None:
        self._shell = shell
        self._name = name
        self._code = (statements, shown)

    def __call__(self) -> None:
        for code in self._code:
            exec(code, self._shell.user_ns)  # noqa: S102

    def draw(self, error: BaseException) -> None:
        """Leaves `error` with the lines IPython is to show for it: from the cell's frame inwards.

        Only for an error that will be shown: what draws it keeps the frames, and with them the cell's
        tensors, until Python next looks for circles.
        """
        trace = error.__traceback__
        while trace is not None and trace.tb_frame.f_code.co_filename != self._name:
            trace = trace.tb_next
        formatter = self._shell.InteractiveTB
        lines = list(formatter.structured_traceback(type(error), error, trace, tb_offset=0))
        # IPython's protocol for exceptions that know how to show themselves.
        error._render_traceback_ = lambda *_: lines  # type: ignore[attr-defined]


def as_function(shell: InteractiveShell, line: str, cell: str) -> Cell:
    """The cell below a `%%magic` line as something to call, in the user's namespace.

    IPython's syntax works and a last expression is shown, as in any cell.  Line numbers count the
    magic's own line, so they are those the editor shows.

    Raises `UsageError` where the cell is not Python.
    """
    body = as_python(shell, cell)
    # The number this cell has in the notebook: IPython counts on before or after, by its version.
    number = len(shell.user_ns.get("In", ())) - 1
    name = shell.compile.cache(f"# {line}\n{body}", max(number, 0), raw_code=f"{line}\n{cell}")
    try:
        tree = ast.increment_lineno(ast.parse(body, name), 1)
        last = [tree.body.pop()] if tree.body and isinstance(tree.body[-1], ast.Expr) else []
        statements = compile(tree, name, "exec")
        shown = compile(ast.Interactive(last), name, "single")
    except SyntaxError as e:
        # Said by hand: IPython would show such an error with every frame of ours above it.
        raise UsageError(f"{type(e).__name__} in line {(e.lineno or 0) + 1} of the cell: {e.msg}.") from None

    return Cell(shell, name, statements, shown)


def as_python(shell: InteractiveShell, cell: str) -> str:
    """The cell with IPython's syntax turned into Python, on the lines where it was."""
    body: str = shell.transform_cell(cell)
    lines = cell.splitlines()
    # IPython drops empty lines at the start.
    empty = next((i for i, text in enumerate(lines) if text.strip()), len(lines))
    return "\n" * empty + body
