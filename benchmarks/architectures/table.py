"""The table of architectures (`tiny.toml`) and how a row of it becomes a model and a batch."""

from __future__ import annotations

import functools
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from .batches import MAKERS


@dataclass(frozen=True)
class Architecture:
    """One row: a tiny model of one architecture of transformers."""

    name: str
    model: str
    batch: str
    config: dict[str, Any] = field(default_factory=dict)
    experts: str | None = None
    arguments: dict[str, Any] = field(default_factory=dict)
    """Given to the model besides its batch."""

    def model_class(self) -> Any:
        import transformers

        return getattr(transformers, self.model)

    def build(self, attention: str, *, dropout: bool = False) -> torch.nn.Module:
        """The model on the host, in training mode, its weights from a fixed seed."""
        torch.manual_seed(0)
        cls = self.model_class()
        config = cls.config_class(**_copied(self.config))
        for part in _parts(config):
            part._attn_implementation = attention
            if self.experts is not None:
                part._experts_implementation = self.experts
            if not dropout:
                _switch_dropout_off(part)
        model: torch.nn.Module = cls(config).train()
        return model

    def inputs(self) -> dict[str, Any]:
        torch.manual_seed(1)
        return MAKERS[self.batch]() | self.arguments


def _copied(config: dict[str, Any]) -> dict[str, Any]:
    return {k: _copied(v) if isinstance(v, dict) else v for k, v in config.items()}


def _parts(config: Any) -> list[Any]:
    """A configuration and those inside it."""
    from transformers import PreTrainedConfig

    return [config, *(p for v in vars(config).values() if isinstance(v, PreTrainedConfig) for p in _parts(v))]


def _switch_dropout_off(config: Any) -> None:
    for name, value in vars(config).items():
        drops = "dropout" in name or name.endswith(("pdrop", "drop_rate", "drop_prob", "layerdrop"))
        if drops and isinstance(value, float):
            setattr(config, name, 0.0)


@functools.cache
def architectures() -> tuple[Architecture, ...]:
    """All rows, in the order of the table."""
    rows = tomllib.loads((Path(__file__).parent / "tiny.toml").read_text(encoding="utf-8"))
    sizes = rows.pop("sizes")
    return tuple(
        Architecture(
            name=name,
            model=row["model"],
            batch=row["batch"],
            config=sizes.get(row.get("like"), {}) | row.get("config", {}),
            experts=row.get("experts"),
            arguments=row.get("arguments", {}),
        )
        for name, row in rows.items()
    )
