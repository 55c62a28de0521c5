"""Acting on a module when it has been imported, be that before a run or in the middle of it."""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from types import ModuleType
from typing import Any

from .patches import Patches

Action = Callable[[ModuleType], None]


def when_imported(
    patches: Patches,
    actions: dict[str, Action],
    *,
    during: Callable[[], AbstractContextManager[Any]] = nullcontext,
) -> None:
    """Call `actions[name](module)` for each module now, or as soon as the program imports it.

    `during` is entered around the import itself.  The import hook goes when `patches` are undone.
    """
    pending = {}
    for name, action in actions.items():
        module = sys.modules.get(name)
        if module is not None:
            action(module)
        else:
            pending[name] = action
    if pending:
        finder = _Finder(pending, during)
        sys.meta_path.insert(0, finder)
        patches.on_undo(lambda: sys.meta_path.remove(finder))


class _Finder(importlib.abc.MetaPathFinder):
    """Wraps the loader of the awaited modules; leaves finding them to the path."""

    def __init__(self, actions: dict[str, Action], during: Callable[[], AbstractContextManager[Any]]) -> None:
        self._actions = actions
        self._during = during

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname not in self._actions:
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = _Loader(spec.loader, self._actions[fullname], self._during)
        return spec


class _Loader(importlib.abc.Loader):
    def __init__(self, inner: Any, action: Action, during: Callable[[], AbstractContextManager[Any]]) -> None:
        self._inner = inner
        self._action = action
        self._during = during

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        module: ModuleType | None = self._inner.create_module(spec)
        return module

    def exec_module(self, module: ModuleType) -> None:
        # The module keeps its ordinary loader: nothing of this run stays behind in it.
        module.__loader__ = self._inner
        if module.__spec__ is not None:
            module.__spec__.loader = self._inner
        with self._during():
            self._inner.exec_module(module)
        self._action(module)
