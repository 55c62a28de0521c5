"""`NA`: the one value for "the driver does not tell"."""

from __future__ import annotations

from typing import Any, Final, Literal


class NotAvailable:
    """Falsy, prints "N/A", never equal to a number.  There is one instance, `NA`."""

    _instance: NotAvailable | None = None
    __slots__ = ()

    def __new__(cls) -> NotAvailable:  # noqa: PYI034 - one instance, of this class
        if cls._instance is None:
            cls._instance = super().__new__(cls)
        return cls._instance

    def __bool__(self) -> Literal[False]:
        return False

    def __repr__(self) -> str:
        return "N/A"

    def __format__(self, spec: str) -> str:
        # A width still aligns; a number's precision or type means nothing here.
        digits = "".join(c for c in spec.split(".", maxsplit=1)[0] if c.isdigit() or c in "<>^")
        return format("N/A", digits)

    def __float__(self) -> float:
        return float("nan")

    def __reduce__(self) -> str:
        return "NA"

    def __copy__(self) -> NotAvailable:
        return self

    def __deepcopy__(self, memo: Any) -> NotAvailable:
        return self


NA: Final = NotAvailable()
