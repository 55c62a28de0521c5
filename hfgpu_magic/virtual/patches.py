"""A list of attribute replacements that can be undone in one call."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

_ABSENT: Any = object()


class Patches:
    """Every change a virtual run makes to a live module goes through here, so nothing is left behind.

    `undo` restores in reverse order; an attribute that did not exist is deleted again.
    """

    def __init__(self) -> None:
        self._done: list[tuple[Any, str, Any]] = []
        self._cleanups: list[Callable[[], None]] = []

    def set(self, owner: Any, name: str, new: Any) -> Any:
        """Replace `owner.name` by `new`; returns what was there (None if nothing)."""
        namespace = getattr(owner, "__dict__", None)
        # vars(), not getattr(): an inherited attribute must vanish again rather than be copied down.
        old = namespace.get(name, _ABSENT) if namespace is not None else getattr(owner, name, _ABSENT)
        setattr(owner, name, new)
        self._done.append((owner, name, old))
        return None if old is _ABSENT else old

    def on_undo(self, action: Callable[[], None]) -> None:
        """Run `action` when the patches are undone (last registered first)."""
        self._cleanups.append(action)

    def undo(self) -> None:
        """Restore everything.  Each step is tried even if an earlier one failed."""
        errors: list[Exception] = []
        for action in reversed(self._cleanups):
            try:
                action()
            except Exception as error:  # noqa: BLE001 - every step is tried; all errors are raised below
                errors.append(error)
        for owner, name, old in reversed(self._done):
            try:
                if old is _ABSENT:
                    if name in getattr(owner, "__dict__", {name: None}):
                        delattr(owner, name)
                else:
                    setattr(owner, name, old)
            except Exception as error:  # noqa: BLE001 - every step is tried; all errors are raised below
                errors.append(error)
        self._cleanups.clear()
        self._done.clear()
        if errors:
            raise ExceptionGroup("some changes of the virtual GPU could not be undone", errors)

    def __len__(self) -> int:
        return len(self._done)
