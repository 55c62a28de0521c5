"""CUDA's own numbering of the devices, asked in a child process.

NVML cannot say how CUDA orders unlike cards; only CUDA can, and asking it initialises it, after which
this process can no longer fork workers that use the GPU.  So a short-lived child asks.  It lists devices
through the driver API without creating a context, and so takes no device memory.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping

_CHILD = """
import ctypes, json, sys
cuda = ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
def call(name, *args):
    code = getattr(cuda, name)(*args)
    if code:
        sys.exit(f"{name} failed with CUDA error {code}")
code = cuda.cuInit(0)
if code == 100:  # CUDA_ERROR_NO_DEVICE: an answer, not a failure
    print("[]")
    sys.exit(0)
if code:
    sys.exit(f"cuInit failed with CUDA error {code}")
count = ctypes.c_int()
call("cuDeviceGetCount", ctypes.byref(count))
# The _v2 call gives a MIG instance its own UUID; it exists since CUDA 11.4.
uuid_of = "cuDeviceGetUuid_v2" if hasattr(cuda, "cuDeviceGetUuid_v2") else "cuDeviceGetUuid"
uuids = []
for ordinal in range(count.value):
    device, raw = ctypes.c_int(), (ctypes.c_ubyte * 16)()
    call("cuDeviceGet", ctypes.byref(device), ordinal)
    call(uuid_of, raw, device)
    uuids.append(bytes(raw).hex())
print(json.dumps(uuids))
"""


def visible_uuids(environ: Mapping[str, str], *, timeout: float = 30.0) -> tuple[str, ...] | str:
    """The 32 hex digits of each UUID in the order of cuda:0, cuda:1, ... under `environ`.

    A text instead of a tuple says why there is no answer.  `timeout` is seconds: initialising CUDA on a
    machine with eight cards and no persistence mode takes several.
    """
    if not sys.executable:
        return "this Python does not know its own executable"
    # -I and -S: nothing of the user's (a sitecustomize, the working directory) runs in the child.
    command = [sys.executable, "-I", "-S", "-c", _CHILD]
    try:
        child = subprocess.run(
            command, env=dict(environ), capture_output=True, text=True, timeout=timeout, check=False
        )
        if child.returncode:
            said = child.stderr.strip().splitlines()
            return said[-1] if said else f"the child ended with status {child.returncode}"
        return tuple(json.loads(child.stdout))
    except subprocess.TimeoutExpired:
        return f"CUDA did not answer within {timeout:.0f} s"
    except (OSError, ValueError) as error:
        return str(error)
