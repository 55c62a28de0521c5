"""Machines described by hand, packages pretended, and a whole process on a machine of our choosing."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from hfgpu_magic.checks.facts import Facts, System, TorchBuild
from hfgpu_magic.checks.rule import Check, Rule
from hfgpu_magic.devices.snapshot import DeviceSnapshot, DriverInfo, Inventory

ROOT = Path(__file__).parents[2]
GiB = 1 << 30

GOOD_VERSIONS = {
    "torch": "2.15.0", "transformers": "5.23.0", "accelerate": "1.15.0", "peft": "0.21.2",
    "bitsandbytes": "0.50.2", "huggingface-hub": "2.4.0", "tokenizers": "0.23.3", "safetensors": "0.8.0",
    "nvidia-ml-py": "13.615.71", "triton": "3.9.0",
}  # fmt: skip
_CARDS = {
    "T4": ("Tesla T4", (7, 5), 15 * GiB),
    "P100": ("Tesla P100-PCIE-16GB", (6, 0), 16 * GiB),
    "GTX 1080": ("NVIDIA GeForce GTX 1080", (6, 1), 8 * GiB),
    "V100": ("Tesla V100-SXM2-16GB", (7, 0), 16 * GiB),
    "A100": ("NVIDIA A100-SXM4-40GB", (8, 0), 40 * GiB),
    "L4": ("NVIDIA L4", (8, 9), 22 * GiB),
    "H100": ("NVIDIA H100 80GB HBM3", (9, 0), 80 * GiB),
    "B200": ("NVIDIA B200", (10, 0), 180 * GiB),
    "RTX 5090": ("NVIDIA GeForce RTX 5090", (12, 0), 32 * GiB),
    "GTX 1650": ("NVIDIA GeForce GTX 1650", (7, 5), 4 * GiB),
}


def without(*names: str) -> dict[str, str]:
    """The good versions, some packages missing."""
    return {name: version for name, version in GOOD_VERSIONS.items() if name not in names}


def card(model: str, index: int = 0, /, **changes: Any) -> DeviceSnapshot:
    """A healthy, idle card that this process sees as cuda:`index`."""
    driver_name, capability, total = _CARDS[model]
    device = DeviceSnapshot(
        uuid=f"GPU-{index:08d}-1111-2222-3333-444444444444", index=index, cuda_index=index,
        name=driver_name, capability=capability, total=total, used=0, free=total, reserved=0, processes=(),
    )  # fmt: skip
    return replace(device, **changes)


def machine(
    *cards: str | DeviceSnapshot, driver: str = "595.45.04", cuda: tuple[int, int] = (13, 2), **facts: Any
) -> Facts:
    """A Linux machine on which everything is fine, with these cards; `facts` replaces any field."""
    devices = tuple(card(c, n) if isinstance(c, str) else c for n, c in enumerate(cards))
    info = DriverInfo("ok", driver, cuda) if cards else DriverInfo("no_library")
    plain = Facts(
        system=System(python=(3, 12, 4), c_compiler="/usr/bin/gcc"),
        versions=dict(GOOD_VERSIONS),
        torch=TorchBuild("2.15.0+cu132", "13.2") if cards else TorchBuild("2.15.0+cpu"),
        inventory=Inventory(info, devices),
    )
    return replace(plain, **facts)


def only(rule: Rule, facts: Facts) -> Check:
    """The one check a rule makes of these facts."""
    checks = rule(facts)
    assert len(checks) == 1, [c.id for c in checks]
    return checks[0]


def by_id(rule: Rule, facts: Facts) -> dict[str, Check]:
    return {check.id: check for check in rule(facts)}


class Answer:
    """What `hfgpu check --json` printed, and how it ended."""

    def __init__(self, child: subprocess.CompletedProcess[str]) -> None:
        self.code, self.stderr = child.returncode, child.stderr
        self.data: dict[str, Any] = json.loads(child.stdout)
        self.checks: dict[str, dict[str, Any]] = {c["id"]: c for c in self.data["checks"]}

    def status(self, ident: str) -> str | None:
        return self.checks[ident]["status"] if ident in self.checks else None


def install(site: Path, name: str, version: str, *requires: str) -> None:
    """Package metadata without a package: all a check may look at."""
    info = site / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir()
    lines = [
        "Metadata-Version: 2.4",
        f"Name: {name}",
        f"Version: {version}",
        *(f"Requires-Dist: {r}" for r in requires),
    ]
    (info / "METADATA").write_text("\n".join(lines) + "\n\nRequires-Dist: not-a-header\n")


def install_torch(site: Path, version: str, *, cuda: str | None = None, hip: str | None = None) -> None:
    install(site, "torch", version.partition("+")[0])
    (site / "torch").mkdir()
    # Importing it must never happen; reading version.py must.
    (site / "torch" / "__init__.py").write_text("raise SystemExit('torch was imported')\n")
    (site / "torch" / "version.py").write_text(
        f"from typing import Optional\n__version__ = {version!r}\ncuda: Optional[str] = {cuda!r}\n"
        f"hip: Optional[str] = {hip!r}\nxpu: Optional[str] = None\n"
    )


def run_check(env: dict[str, str], *args: str, site: Path | None = None, bare: bool = False) -> Answer:
    """`python -m hfgpu_magic check --json ARGS`, `site` first on the path; `bare`: nothing is installed."""
    path = [str(p) for p in (site, ROOT) if p] + [env.get("PYTHONPATH", "")]
    child = subprocess.run(
        [sys.executable, *(["-S"] if bare else []), "-m", "hfgpu_magic", "check", "--json", *args],
        env=env | {"PYTHONPATH": ":".join(p for p in path if p)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=ROOT,
    )
    return Answer(child)
