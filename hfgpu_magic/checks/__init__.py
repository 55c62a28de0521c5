"""Facts, rules, report: can this machine do the job?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..errors import UsageError

if TYPE_CHECKING:
    from .report import CheckReport

__all__ = ["CheckReport", "check"]


def check(*, gpu: str | None = None, profile: str | None = None, deep: bool = False) -> CheckReport:
    """Judges this environment, or with `gpu` ("T4", "h100x8") this environment with that catalog card.

    `profile` is "inference", "training", "quantization" or "distributed"; None looks at everything.
    Never initialises CUDA; imports torch only when `deep` is True (or when it is imported already).
    Raises `UnknownGPUError` for a card nobody knows and `UsageError` for an unknown profile.
    """
    from .environment import collect
    from .facts import PROFILES
    from .report import report

    wanted = profile or "general"
    known = next((p for p in PROFILES if p == wanted), None)
    if known is None:
        names = ", ".join(p for p in PROFILES if p != "general")
        raise UsageError(f"No profile called {profile!r}; there are {names}.")
    return report(collect(gpu=gpu, profile=known, deep=deep))


def __getattr__(name: str) -> Any:
    # The record is a public name; loading it on demand keeps `import hfgpu_magic.checks` light.
    if name == "CheckReport":
        from .report import CheckReport

        return CheckReport
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
