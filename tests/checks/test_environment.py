"""What is read from the machine: torch's build without importing it, its state without starting CUDA."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from machines import ROOT, install, install_torch

from hfgpu_magic.checks import environment, hosts, tables
from hfgpu_magic.checks.environment import torch_state
from hfgpu_magic.checks.versions import Installed


def test_the_build_of_torch_is_read_from_its_version_file(site: Path) -> None:
    install_torch(site, "2.15.0+cu132", cuda="13.2")
    build = environment._torch_build(Installed([str(site)]), None)
    assert build is not None
    assert (build.version, build.cuda, build.hip, build.tag, build.release) == (
        "2.15.0+cu132",
        "13.2",
        None,
        "cu132",
        (2, 15, 0),
    )
    assert build.cuda_version == (13, 2)


def test_a_rocm_build_is_recognised(site: Path) -> None:
    install_torch(site, "2.15.0+rocm7.2", hip="7.2.53211")
    build = environment._torch_build(Installed([str(site)]), None)
    assert build is not None
    assert (build.cuda, build.hip) == (None, "7.2.53211")


def test_the_installed_torch_is_described_as_it_describes_itself() -> None:
    torch = pytest.importorskip("torch")
    build = environment._torch_build(Installed(), None)
    assert build is not None
    assert (build.version, build.cuda, build.hip) == (
        torch.__version__,
        torch.version.cuda,
        torch.version.hip,
    )


def test_floors_come_from_the_installed_transformers(site: Path) -> None:
    install(site, "transformers", "5.15.0", "huggingface-hub<3.0,>=1.20.0", 'torch>=2.5; extra == "torch"')
    utils = site / "transformers" / "utils"
    utils.mkdir(parents=True)
    (utils / "import_utils.py").write_text(
        'BITSANDBYTES_MIN_VERSION = "0.46.1"\n'
        'KERNELS_MIN_VERSION = "0.15.0"\n'
        'KERNELS_MAX_VERSION = "0.16.0"\n'
    )
    assert environment._declared(Installed([str(site)])) == {
        "huggingface-hub": "<3.0,>=1.20.0", "torch": ">=2.5",
        "bitsandbytes": ">=0.46.1", "kernels": ">=0.15.0,<0.16.0",
    }  # fmt: skip


def test_the_tables_floors_are_those_of_the_transformers_they_name() -> None:
    installed = Installed()
    if not str(installed.version("transformers")).startswith("5.23."):
        pytest.skip("the table speaks of transformers 5.23")
    declared = environment._declared(installed)
    rows = {row["name"]: row["spec"] for row in tables.table("requirements")["package"]}
    stated = {name: spec for name, spec in declared.items() if name in rows and name != "transformers"}
    assert len(stated) >= 12

    def clauses(spec: str) -> set[str]:
        return {c.removesuffix(".0").removesuffix(".0") for c in spec.split(",")}

    assert {n: clauses(rows[n]) for n in stated} == {n: clauses(s) for n, s in stated.items()}


def test_libraries_on_the_path_are_found_by_name(tmp_path: Path) -> None:
    (tmp_path / "libcudnn.so.8").touch()
    (tmp_path / "libother.so").touch()
    found = environment._shadowing({"LD_LIBRARY_PATH": f"{tmp_path}:/nowhere:"})
    assert found == (f"{tmp_path}/libcudnn.so",)


def test_the_compiler_is_the_one_triton_would_take(tmp_path: Path) -> None:
    gcc = tmp_path / "gcc"
    gcc.touch(mode=0o755)
    assert hosts.system({"PATH": f"/nowhere:{tmp_path}"}).c_compiler == str(gcc)
    assert hosts.system({"PATH": "/nowhere"}).c_compiler == ""
    assert hosts.system({"PATH": str(tmp_path), "CC": "nvcc"}).c_compiler == ""


@pytest.mark.parametrize(
    ("variable", "name"), [("COLAB_RELEASE_TAG", "Colab"), ("KAGGLE_KERNEL_RUN_TYPE", "Kaggle")]
)
def test_lent_machines_are_known_by_their_variables(variable: str, name: str) -> None:
    assert hosts.system({variable: "x"}).hosted == name
    assert hosts.system({}).hosted == ""


# --- torch's state


def fake_torch(*, matmul: Any, conv: Any, legacy: Any = None) -> Any:
    class Matmul:
        fp32_precision = matmul

        @property
        def allow_tf32(self) -> bool:
            if isinstance(legacy, Exception):
                raise legacy
            return bool(legacy)

    backends = SimpleNamespace(
        fp32_precision="none", cuda=SimpleNamespace(matmul=Matmul()),
        cudnn=SimpleNamespace(conv=SimpleNamespace(fp32_precision=conv), allow_tf32=True),
    )  # fmt: skip
    return SimpleNamespace(backends=backends, cuda=SimpleNamespace(is_initialized=lambda: False))


def test_mixed_tf32_interfaces_are_noticed_and_survived() -> None:
    mix = RuntimeError("PyTorch is checking whether allow_tf32_new is enabled for cuBlas matmul")
    state = torch_state(fake_torch(matmul="tf32", conv="tf32", legacy=mix))
    assert state is not None
    assert (state.matmul_fp32, state.mixed_apis) == ("tf32", True)


def test_an_old_torch_without_the_new_interface_is_read_by_the_old_one() -> None:
    torch = fake_torch(matmul="", conv="", legacy=True)
    state = torch_state(torch)
    assert state is not None
    assert (state.matmul_fp32, state.conv_fp32, state.mixed_apis) == ("tf32", "tf32", False)


CHILD = """
import sys, torch
{before}
from hfgpu_magic.checks.environment import torch_state
state = torch_state(torch)
print(state.matmul_fp32, state.conv_fp32, state.mixed_apis, torch.cuda.is_initialized())
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("before", "told"),
    [
        ("", "none tf32 False False"),
        ("torch.backends.fp32_precision = 'tf32'", "tf32 tf32 True False"),
        ("torch.backends.cuda.matmul.allow_tf32 = True", "tf32 tf32 False False"),
    ],
)
def test_the_real_torch_is_read_without_tripping_over_its_two_interfaces(before: str, told: str) -> None:
    pytest.importorskip("torch")
    child = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", CHILD.format(before=before)],
        capture_output=True, text=True, check=False, cwd=ROOT,
    )  # fmt: skip
    assert child.stdout.strip() == told, child.stderr


def test_a_check_imports_nothing_heavy() -> None:
    heavy = {"torch", "transformers", "numpy", "IPython", "rich", "ipywidgets", "packaging"}
    code = (
        "import sys\nfrom hfgpu_magic.checks import check\nr = check(); r.to_dict(); r.to_text()\n"
        f"print(sorted(set(sys.modules) & {heavy!r}))"
    )
    child = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT
    )
    assert child.stdout.strip() == "[]", child.stderr
