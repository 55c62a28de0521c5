"""What every verb returns: a frozen record that knows its own text, html and JSON."""

from __future__ import annotations

import dataclasses
import enum
from typing import Any

from .devices.na import NotAvailable


def plain(value: Any) -> Any:
    """`value` as JSON-able data: dataclasses to dicts, tuples to lists, `NA` to None."""
    if isinstance(value, NotAvailable):
        return None
    if isinstance(value, enum.Enum):
        return value.value
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain(v) for v in value]
    return value


class Result:
    """Base of the frozen dataclasses that verbs return.

    Subclasses implement `to_text` and `to_html` (by calling a function of `views`), and may
    override `to_dict` where the JSON contract differs from the fields.
    """

    def to_dict(self) -> dict[str, Any]:
        """Stable keys; bytes as ints; unknown as None."""
        data = plain(self)
        assert isinstance(data, dict)
        return data

    def to_text(self, *, color: bool = False, width: int = 88) -> str:
        raise NotImplementedError

    def to_html(self) -> str:
        raise NotImplementedError

    def __str__(self) -> str:
        return self.to_text()

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, str]:  # noqa: ARG002
        return {"text/plain": self.to_text(), "text/html": self.to_html()}
