"""Well-known architectures that ship with the package, so that no hub is needed to run or plan for them.

A table and the folders it names; knows nobody.
"""

from __future__ import annotations

import functools
import re
import tomllib
from dataclasses import dataclass
from pathlib import Path

from ..errors import UsageError

FOLDER = Path(__file__).parent
"""One folder a preset, each a model folder without weights: `AutoConfig.from_pretrained` reads it."""

MIRRORS = frozenset({"unsloth", "nousresearch"})
"""Hub organisations that re-host models under the publisher's own names."""


@dataclass(frozen=True)
class Preset:
    """One architecture.  `params` counts every parameter once, as `counted_as` of transformers builds it."""

    name: str
    hub_id: str
    aliases: tuple[str, ...]
    kind: str
    """"decoder", "moe decoder", "encoder", "encoder-decoder", "speech", "vision" or "vision-language"."""
    params: int
    counted_as: str | None
    """Class whose parameters the published number counts; None: the first of the config's `architectures`."""
    source: str

    @property
    def folder(self) -> Path:
        return FOLDER / self.name

    @property
    def config_path(self) -> Path:
        return self.folder / "config.json"


@functools.cache
def presets() -> tuple[Preset, ...]:
    """All presets, in the order of the table."""
    table = tomllib.loads((FOLDER / "presets.toml").read_text(encoding="utf-8"))
    return tuple(
        Preset(
            name=row["name"],
            hub_id=row["hub_id"],
            aliases=tuple(row.get("aliases", ())),
            kind=row["kind"],
            params=row["params"],
            counted_as=row.get("counted_as"),
            source=row["source"],
        )
        for row in table["preset"]
    )


def find_preset(name: str) -> Preset | None:
    """The preset that `name` means, or None: a hub id ("meta-llama/Llama-3.1-8B") or a short name.

    Short names are forgiving ("llama 3.1 8b", "Qwen2.5-7B-Instruct").  A hub id counts only if it is
    the publisher's or a known mirror's: somebody's fine-tune may have other shapes.  Paths mean no preset.
    """
    by_id, by_short = _index()
    key = name.strip().lower()
    if key in by_id:
        return by_id[key]
    owner, slash, rest = key.partition("/")
    if not slash:
        return by_short.get(_squash(key))
    if owner in MIRRORS and "/" not in rest:
        return by_short.get(_squash(rest))
    return None


def preset_config_path(name: str) -> Path:
    """The config.json of the preset that `name` means.  Raises `UsageError` where there is none."""
    found = find_preset(name)
    if found is None:
        raise UsageError(f"No architecture preset called {name!r}. There are: {_names()}.")
    return found.config_path


def _names() -> str:
    return ", ".join(p.name for p in presets())


@functools.cache
def _index() -> tuple[dict[str, Preset], dict[str, Preset]]:
    by_id: dict[str, Preset] = {}
    by_short: dict[str, Preset] = {}
    for preset in presets():
        for name in (preset.name, preset.hub_id, *preset.aliases):
            if "/" in name:
                by_id.setdefault(name.lower(), preset)
            # A preset's own name outranks the last part of another's hub id.
            by_short.setdefault(_squash(name.lower().rpartition("/")[2]), preset)
        by_short[_squash(preset.name)] = preset
    return by_id, by_short


def _squash(name: str) -> str:
    """`"llama 3.1-8b"` -> `"llama3.18b"`: separators go, the version's dot stays."""
    # A leading or doubled dot is a path, not a version.
    if name.startswith(".") or "\\" in name:
        return ""
    return re.sub(r"[\s_-]+", "", name)
