"""Runs one acceptance program and writes what the allocator did as JSON.  Knows no virtual GPU.

python scripts/acceptance_probe.py PROGRAM OUT.json          # on a real card
hfgpu run --gpu NAME scripts/acceptance_probe.py PROGRAM OUT.json    # on a virtual one
"""

from __future__ import annotations

import json
import os
import runpy
import sys
from pathlib import Path


def process_memory() -> int:
    """Bytes the driver counts for this process; 0 where it does not tell."""
    try:
        import pynvml

        pynvml.nvmlInit()
        for i in range(pynvml.nvmlDeviceGetCount()):
            for p in pynvml.nvmlDeviceGetComputeRunningProcesses(pynvml.nvmlDeviceGetHandleByIndex(i)):
                if p.pid == os.getpid() and p.usedGpuMemory:
                    return int(p.usedGpuMemory)
    except Exception:  # noqa: BLE001 - no driver, no permission, no such figure: one answer
        return 0
    return 0


def main() -> None:
    import torch

    program, out = sys.argv[1:3]
    torch.zeros(1, device="cuda")  # starts CUDA: what the process holds now beside its segment is the context
    torch.cuda.synchronize()
    context = process_memory() - torch.cuda.memory_reserved()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    torch.cuda.memory._record_memory_history(stacks="python", max_entries=2_000_000)
    failed = ""
    try:
        runpy.run_path(program, run_name="__main__")
    except torch.OutOfMemoryError as error:
        failed = str(error)
    torch.cuda.synchronize()
    trace = torch.cuda.memory._snapshot()["device_traces"][0]
    free, total = torch.cuda.mem_get_info()
    facts = {
        "name": torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "total": total,
        "context": max(context, 0),
        "process": process_memory(),
        "used": total - free,
        "allocated": torch.cuda.max_memory_allocated(),
        "reserved": torch.cuda.max_memory_reserved(),
        "requests": [e["size"] for e in trace if e["action"] == "alloc"],
        "out_of_memory": failed,
    }
    Path(out).write_text(json.dumps(facts), encoding="utf-8")


if __name__ == "__main__":
    main()
