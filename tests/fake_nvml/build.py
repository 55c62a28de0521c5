"""Build the stand-in driver libraries and point a process at them.

Usable outside pytest, for benchmarks and screenshots:

    libraries = build(Path("build/fake_nvml"))
    subprocess.run([...], env=os.environ | scenario_env("one_t4", libraries))

or, in a shell: `eval "$(python tests/fake_nvml/build.py one_t4)"`.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
SOURCES = {"libnvidia-ml.so.1": HERE / "nvml.c", "libcuda.so.1": HERE / "cuda.c"}
SCENARIOS = tuple(sorted(p.stem for p in (HERE / "scenarios").glob("*.txt")))

# What a scenario needs besides the driver: facts that the system, not NVML, tells a process.
EXTRA_ENVIRONMENT = {"wsl2": {"WSL_DISTRO_NAME": "Ubuntu", "WSL_INTEROP": "/run/WSL/1_interop"}}


def compiler() -> str | None:
    """The C compiler's path, None when this machine has none."""
    return shutil.which("gcc") or shutil.which("cc")


def build(outdir: Path | str = HERE.parent.parent / "build" / "fake_nvml") -> Path:
    """Compile what is missing or older than its source; returns the folder that holds the libraries."""
    out = Path(outdir)
    out.mkdir(parents=True, exist_ok=True)
    for name, source in SOURCES.items():
        target = out / name
        if target.exists() and target.stat().st_mtime > source.stat().st_mtime:
            continue
        gcc = compiler()
        if gcc is None:
            raise RuntimeError("No C compiler: install gcc to build the stand-in driver.")
        # Built aside and renamed, so that two runs at once never load half a library.
        scratch = out / f"{name}.{os.getpid()}"
        command = [gcc, "-O1", "-Wall", "-Wextra", "-shared", "-fPIC", "-o", str(scratch), str(source)]
        subprocess.run(command, check=True)
        scratch.replace(target)
    return out


def scenario_path(name: str) -> Path:
    path = HERE / "scenarios" / f"{name}.txt"
    if not path.exists():
        raise KeyError(f"No scenario {name!r}; there are {', '.join(SCENARIOS)}.")
    return path


def scenario_env(name: str, libraries: Path | str | None = None) -> dict[str, str]:
    """Environment variables that make a process see the scenario's driver, to merge over `os.environ`."""
    folder = Path(libraries) if libraries is not None else build()
    search = [str(folder.resolve()), os.environ.get("LD_LIBRARY_PATH", "")]
    return {
        "LD_LIBRARY_PATH": os.pathsep.join(p for p in search if p),
        "HFGPU_FAKE_NVML": str(scenario_path(name)),
        **EXTRA_ENVIRONMENT.get(name, {}),
    }


if __name__ == "__main__":
    if len(sys.argv) != 2 or sys.argv[1] not in SCENARIOS:
        sys.exit(f"usage: build.py SCENARIO, one of {', '.join(SCENARIOS)}")
    for key, value in scenario_env(sys.argv[1]).items():
        print(f"export {key}={shlex.quote(value)}")
