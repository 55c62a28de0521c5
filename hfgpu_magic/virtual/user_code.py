"""Finding the user's own line among the frames of libraries."""

from __future__ import annotations

import functools
import linecache
import os
import sys
import sysconfig
from pathlib import Path
from types import FrameType

Place = tuple[str | None, int | None, str | None]

#: What the file names of this package's own frames start with.
OURS = str(Path(__file__).parent.parent) + os.sep


@functools.cache
def _library_folders() -> tuple[str, ...]:
    ours = str(Path(__file__).resolve().parent.parent)
    names = ("stdlib", "platstdlib", "purelib", "platlib")
    folders = {os.path.realpath(path) for name, path in sysconfig.get_paths().items() if name in names}
    return tuple(folder + os.sep for folder in (*folders, ours))


def is_users(filename: str) -> bool:
    """Whether code of this file is the user's program: no library, nothing generated.

    Code made on the fly (dataclasses, torch.fx) has no source; a notebook's cell has its in linecache.
    """
    if filename.startswith("<") and (filename.startswith("<frozen") or filename not in linecache.cache):
        return False
    return not os.path.realpath(filename).startswith(_library_folders())


def _place(filename: str, line: int) -> Place:
    return filename, line, linecache.getline(filename, line).strip() or None


def line_of_caller() -> Place:
    """File, line and text of the innermost running frame that is the user's; three Nones without one.

    In autograd's device thread there is none: the line that called backward waits in another thread.
    """
    own = sys._getframe(1)
    return _innermost(own) or _of_waiting_backward(own) or (None, None, None)


def _innermost(frame: FrameType | None) -> Place | None:
    while frame is not None:
        if is_users(frame.f_code.co_filename):
            return _place(frame.f_code.co_filename, frame.f_lineno)
        frame = frame.f_back
    return None


def _of_waiting_backward(own: FrameType) -> Place | None:
    for frame in sys._current_frames().values():
        if frame is not own and frame.f_code.co_name == "_engine_run_backward":
            return _innermost(frame)
    return None


def line_of_error(error: BaseException) -> Place:
    """The same for the frames an error passed through."""
    found: Place = (None, None, None)
    trace = error.__traceback__
    while trace is not None:
        if is_users(trace.tb_frame.f_code.co_filename):
            found = _place(trace.tb_frame.f_code.co_filename, trace.tb_lineno)
        trace = trace.tb_next
    return found
