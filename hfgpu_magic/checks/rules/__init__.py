"""The rules, in the order they are evaluated.  Each is a pure function from facts to checks."""

from __future__ import annotations

from ..rule import Rule
from . import (
    api,
    backends,
    compiling,
    devices,
    distributed,
    host,
    memory,
    packages,
    placement,
    precision,
    quantization,
    settings,
    torch_build,
)

RULES: tuple[Rule, ...] = (
    *host.RULES,
    *devices.RULES,
    *torch_build.RULES,
    *packages.RULES,
    *memory.RULES,
    *precision.RULES,
    *compiling.RULES,
    *placement.RULES,
    *distributed.RULES,
    *quantization.RULES,
    *settings.RULES,
    *backends.RULES,
    *api.RULES,
)
