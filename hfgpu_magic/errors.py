"""Every exception this package raises on its own account, as one tree.

A user's mistake becomes a `HfgpuError` whose message is one or two sentences: what is
wrong, then what to do.  The edges (magics, command line) print that message and no traceback.
"""

from __future__ import annotations


class HfgpuError(Exception):
    """Root of the tree.  Catch this to catch everything the package raises on purpose."""


class UsageError(HfgpuError):
    """The call itself was wrong: an unknown option, a missing argument, a malformed value."""


class UnknownGPUError(UsageError):
    """A GPU name that matches nothing in the catalog.  `nearest` holds the closest names."""

    def __init__(self, name: str, nearest: tuple[str, ...]) -> None:
        self.name = name
        self.nearest = nearest
        hint = f" Nearest: {', '.join(nearest)}." if nearest else ""
        super().__init__(f"No GPU called {name!r} in the catalog.{hint} `hfgpu gpus` lists all of them.")


class MissingPackageError(HfgpuError):
    """A verb needs a package that is not installed.  The message names the install command."""


class VirtualGPUError(HfgpuError):
    """A virtual GPU could not be started, or a program asked it for something it cannot have."""
