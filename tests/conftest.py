"""Fixtures shared by all tests: processes that see a machine of our choosing."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

import pytest


def _load_fake_nvml() -> ModuleType:
    """tests/fake_nvml/build.py as module `fake_nvml`; as `build` it would shadow the packaging tool."""
    spec = spec_from_file_location("fake_nvml", Path(__file__).parent / "fake_nvml" / "build.py")
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules["fake_nvml"] = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


fake_nvml = _load_fake_nvml()

Environment = dict[str, str]

# Whatever the developer's own shell says about devices must not leak into a scenario.
HOST_VARIABLES = (
    "CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER", "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES",
    "ZE_AFFINITY_MASK", "LOCAL_RANK", "RANK", "WORLD_SIZE", "WSL_DISTRO_NAME", "WSL_INTEROP",
    "TPU_NAME", "TPU_ACCELERATOR_TYPE", "TPU_WORKER_ID", "PJRT_DEVICE", "USE_TORCH_XLA",
    "PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_ALLOC_CONF", "CUBLAS_WORKSPACE_CONFIG",
    "HFGPU_FAKE_NVML", "HFGPU_FAKE_NVML_LOG", "HFGPU_FAKE_CUDA_LOG",
)  # fmt: skip


@pytest.fixture(scope="session")
def fake_driver(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with the stand-in `libnvidia-ml.so.1` and `libcuda.so.1`, built once per run."""
    if fake_nvml.compiler() is None:
        pytest.skip("no C compiler: the stand-in driver cannot be built")
    return fake_nvml.build(tmp_path_factory.mktemp("fake_nvml"))


@pytest.fixture
def clean_environment() -> Environment:
    """This process's environment without anything that speaks of devices."""
    return {k: v for k, v in os.environ.items() if k not in HOST_VARIABLES}


@pytest.fixture
def nvml_scenario(fake_driver: Path, clean_environment: Environment) -> Callable[..., Environment]:
    """`nvml_scenario("one_t4", CUDA_VISIBLE_DEVICES="0")` -> full environment for a subprocess."""

    def environment(name: str, **extra: str) -> Environment:
        return clean_environment | fake_nvml.scenario_env(name, fake_driver) | extra

    return environment
