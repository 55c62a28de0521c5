"""The tables in `data/`: what people edit when the world changes.  Read once, on demand."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

_FOLDER = Path(__file__).parent / "data"


@cache
def table(name: str) -> dict[str, Any]:
    """`data/{name}.toml`."""
    with (_FOLDER / f"{name}.toml").open("rb") as file:
        return tomllib.load(file)


@dataclass(frozen=True, slots=True)
class Wheel:
    """One published CUDA build of torch.  `sass` and `ptx` are capabilities times ten: 75 is 7.5."""

    torch: tuple[int, int]
    cuda: tuple[int, int]
    machine: str
    sass: tuple[int, ...]
    ptx: tuple[int, ...]
    pypi: bool
    source: str

    @property
    def tag(self) -> str:
        return f"cu{self.cuda[0]}{self.cuda[1]}"


def _pair(text: str) -> tuple[int, int]:
    major, minor = text.split(".")
    return int(major), int(minor)


@cache
def wheels() -> tuple[Wheel, ...]:
    rows = []
    with (_FOLDER / "torch_wheels.csv").open(encoding="utf-8") as file:
        for line in file:
            if line.startswith(("#", "torch,")) or not line.strip():
                continue
            torch, cuda, machine, sass, ptx, pypi, source = line.strip().split(",", 6)
            rows.append(
                Wheel(
                    _pair(torch),
                    _pair(cuda),
                    machine,
                    tuple(int(n) for n in sass.split()),
                    tuple(int(n) for n in ptx.split()),
                    pypi == "yes",
                    source,
                )
            )
    return tuple(rows)


@cache
def package_names() -> tuple[str, ...]:
    """Every distribution the check asks the version of, canonical."""
    data = table("requirements")
    rows = [row["name"] for row in data["package"]] + list(data["lookup"]["names"])
    return tuple(dict.fromkeys(rows))


def constants() -> dict[str, str]:
    """The `{NAME}_MIN_VERSION` constants of transformers -> distribution."""
    return {row["constant"]: row["name"] for row in table("requirements")["package"] if "constant" in row} | {
        "KERNELS": "kernels",
    }


def variable_names() -> tuple[str, ...]:
    return tuple(table("variables")["names"])


def hosted() -> list[dict[str, Any]]:
    return list(table("variables")["hosted"])
