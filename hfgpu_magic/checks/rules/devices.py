"""Is there a GPU, does its driver answer, may this process use it, is it healthy?"""

from __future__ import annotations

from dataclasses import replace

from ...devices.na import NotAvailable
from ...devices.snapshot import DeviceSnapshot
from ...units import format_bytes
from ..facts import Facts
from ..rule import Check, Topic
from ..tables import table

#: The first of these that is set is the one that hides.
_HIDING = ("CUDA_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "NVIDIA_VISIBLE_DEVICES")


def name(device: DeviceSnapshot) -> str:
    return f"GPU {device.index}" if isinstance(device.name, NotAvailable) else device.name


def label(device: DeviceSnapshot) -> str:
    """'Tesla T4 (14.75 GiB, capability 7.5)'."""
    parts = []
    if not isinstance(device.total, NotAvailable):
        parts.append(format_bytes(device.total))
    if not isinstance(device.capability, NotAvailable):
        parts.append(f"capability {device.capability[0]}.{device.capability[1]}")
    return name(device) + (f" ({', '.join(parts)})" if parts else "")


def names(devices: tuple[DeviceSnapshot, ...]) -> str:
    """'2 x Tesla T4, NVIDIA A100': the listing without the numbers."""
    return _counted([name(device) for device in devices])


def _counted(labels: list[str]) -> str:
    counts: dict[str, int] = {}
    for text in labels:
        counts[text] = counts.get(text, 0) + 1
    return ", ".join(f"{n} x {text}" if n > 1 else text for text, n in counts.items())


def listing(devices: tuple[DeviceSnapshot, ...]) -> str:
    """Equal cards once: '8 x NVIDIA H100 80GB HBM3 (…)'."""
    return _counted([label(device) for device in devices])


def _place(facts: Facts) -> str:
    """Where this runs, as the tables name it."""
    if facts.system.hosted:
        return facts.system.hosted.lower()
    if facts.system.wsl:
        return "wsl"
    return "container" if facts.system.container else "any"


def present(facts: Facts) -> list[Check]:
    topic = Topic(
        "gpu.present",
        "GPU",
        "an accelerator this process can use",
        "requirement pages S1 and S2; transformers 5.23 is_torch_cuda_available",
    )
    if facts.usable:
        return [topic.ok(listing(facts.usable), "training and inference of larger models need one")]
    cpu = "torch will see no GPU and run on the CPU"
    hidden = tuple(d for d in facts.devices if d.state == "ok" and d.backend in ("cuda", "rocm"))
    if hidden:
        variable = next((name for name in _HIDING if name in facts.environ), "")
        if not variable:
            return [topic.warn(f"{listing(hidden)}, not offered to this process", cpu, None)]
        fix = f"unset {variable}\n# in a notebook: del os.environ[{variable!r}] before torch is imported"
        return [topic.warn(f"{listing(hidden)}, hidden by {variable}={facts.environ[variable]!r}", cpu, fix)]
    if facts.driver.state not in ("ok", "no_library"):
        return [topic.fail("none that answers (see NVIDIA driver)", cpu, None)]
    absent = table("drivers")["absent"]
    if facts.system.nvidia_pci:
        fix = absent["container" if facts.system.container else "pci"]
        cards = f"{facts.system.nvidia_pci} NVIDIA card(s) on the PCI bus, no driver"
        return [topic.fail(cards, "torch sees no GPU without the driver", fix)]
    place = _place(facts)
    fix = absent.get(place, absent["none"])
    if place == "container":
        fix = f"{absent['none']}\n# if the host has a GPU: {absent['container']}"
    why = (
        "small models train and run on the CPU, and 4-bit and 8-bit ones load on it; a virtual GPU shows "
        "what larger ones would do on a card you do not have; Colab and Kaggle lend a T4"
    )
    return [topic.warn("none: torch runs on the CPU", why, fix)]


def driver_state(facts: Facts) -> list[Check]:
    driver = facts.driver
    if driver.state == "no_library" or facts.target:
        return []
    required = "answers, and its parts are of one version"
    # A lost card has a check of its own, and the driver still answers for the others.
    if driver.state == "ok" or (driver.state == "gpu_lost" and any(d.state == "lost" for d in facts.devices)):
        version = ("tells no version" if isinstance(driver.version, NotAvailable) else driver.version) + (
            "" if isinstance(driver.cuda, NotAvailable) else f", CUDA {driver.cuda[0]}.{driver.cuda[1]}"
        )
        return [
            Topic("driver.state", "NVIDIA driver", required, "NVML through nvidia-ml-py").ok(
                version, "everything on the GPU goes through it"
            )
        ]
    for row in table("drivers")["state"]:
        if row["key"] == driver.state:
            said = f" ({driver.message})" if driver.message else ""
            fix = row["fix"].get(_place(facts), row["fix"]["any"])
            return [
                Topic("driver.state", "NVIDIA driver", required, row["source"]).fail(
                    row["found"] + said, row["why"], fix
                )
            ]
    return []


def visible(facts: Facts) -> list[Check]:
    value = facts.environ.get("CUDA_VISIBLE_DEVICES")
    if value is None or facts.target:
        return []
    source = "CUDA programming guide, environment variables; torch/cuda/__init__.py"
    title = "CUDA_VISIBLE_DEVICES"
    required = "indices, GPU-... or MIG-... ids that exist, each once"
    if facts.visible_problem:
        return [
            Topic("gpu.visible", title, required, source).fail(
                facts.visible_problem,
                "CUDA drops the first entry it cannot use and every one after it",
                "unset CUDA_VISIBLE_DEVICES",
            )
        ]
    shown = ", ".join(f"cuda:{d.cuda_index} = {d.name}" for d in facts.usable if d.backend == "cuda")
    hidden = not shown and bool(facts.devices)
    return [
        Topic("gpu.visible", title, required, source).verdict(
            "warn" if hidden else "pass",
            f"{value!r}: {shown or 'no GPU'}",
            "it decides which GPUs torch sees and how it numbers them",
            "unset CUDA_VISIBLE_DEVICES" if hidden else None,
        )
    ]


def order(facts: Facts) -> list[Check]:
    """With different cards, torch's numbers and nvidia-smi's differ unless the order is asked for."""
    cards = [d for d in facts.devices if d.backend == "cuda" and d.mig_parent is None and d.state == "ok"]
    value = facts.environ.get("CUDA_DEVICE_ORDER")
    if facts.target or (len({d.name for d in cards}) < 2 and value is None):
        return []
    source = "CUDA programming guide, CUDA_DEVICE_ORDER"
    allowed = ("FASTEST_FIRST", "PCI_BUS_ID")
    required = "PCI_BUS_ID where cards differ"
    if value is not None and value not in allowed:
        return [
            Topic("gpu.order", "Device order", " or ".join(allowed), source).warn(
                f"CUDA_DEVICE_ORDER={value!r}",
                "CUDA ignores a value it does not know and orders fastest first",
                "export CUDA_DEVICE_ORDER=PCI_BUS_ID",
            )
        ]
    if value == "PCI_BUS_ID" or len({d.name for d in cards}) < 2:
        return [
            Topic("gpu.order", "Device order", required, source).ok(
                value or "one kind of card", "torch numbers the cards as nvidia-smi does"
            )
        ]
    pairs = ", ".join(
        f"cuda:{d.cuda_index} is nvidia-smi's {d.index} ({d.name})" for d in cards if d.cuda_index is not None
    )
    return [
        Topic("gpu.order", "Device order", required, source).warn(
            f"different cards, fastest first: {pairs}",
            "cuda:0 need not be GPU 0 of nvidia-smi: a script may land on the wrong card",
            "export CUDA_DEVICE_ORDER=PCI_BUS_ID",
        )
    ]


def health(facts: Facts) -> list[Check]:
    checks = []
    for device in facts.devices:
        if device.state != "ok":
            row = next((r for r in table("drivers")["state"] if r["key"] == f"gpu_{device.state}"), None)
            row = row or next((r for r in table("drivers")["state"] if r["key"] == device.state), None)
            checks.append(
                Topic(
                    f"gpu.health.{device.index}",
                    f"GPU {device.index}",
                    "answers",
                    row["source"] if row else "NVML",
                ).fail(
                    (row["found"] if row else device.state)
                    + (f" ({device.message})" if device.message else ""),
                    row["why"] if row else "programs on it fail",
                    row["fix"]["any"] if row else "nvidia-smi",
                )
            )
            continue
        hot = (
            []
            if isinstance(device.throttle_reasons, NotAvailable)
            else [r for r in device.throttle_reasons if "thermal" in r.lower() or "brake" in r.lower()]
        )
        if hot:
            checks.append(
                Topic(
                    f"gpu.health.{device.index}",
                    f"GPU {device.index} clocks",
                    "no thermal slowdown",
                    "NVML clocks event reasons",
                ).warn(
                    (
                        f"held back: {', '.join(hot)}"
                        + (
                            ""
                            if isinstance(device.temperature, NotAvailable)
                            else f" at {device.temperature} °C"
                        )
                    ),
                    "it runs slower than it could",
                    "check the fans and the airflow",
                )
            )
        if not isinstance(device.compute_mode, NotAvailable) and "prohibited" in device.compute_mode:
            checks.append(
                Topic(
                    f"gpu.mode.{device.index}",
                    f"GPU {device.index} compute mode",
                    "default",
                    "NVML compute mode",
                ).fail(
                    device.compute_mode,
                    "no CUDA program may use this GPU",
                    f"sudo nvidia-smi -i {device.index} -c DEFAULT",
                )
            )
    return checks


def mig(facts: Facts) -> list[Check]:
    parents = [d for d in facts.devices if d.mig_enabled is True and d.mig_parent is None]
    if not parents:
        return []
    instances = [d for d in facts.devices if d.mig_parent is not None]
    seen = [d for d in instances if d.cuda_index is not None]
    source = "NVIDIA MIG user guide, CUDA device enumeration"
    if not instances:
        return [
            Topic("gpu.mig", "MIG", "one instance at least", source).fail(
                f"{parents[0].name}: MIG is on, no instance exists",
                "a GPU in MIG mode runs nothing outside an instance",
                f"sudo nvidia-smi -i {parents[0].index} -mig 0\n# or: nvidia-smi mig -lgip",
            )
        ]
    return [
        Topic("gpu.mig", "MIG", "one visible", source).ok(
            f"{len(instances)} instance(s), {len(seen)} visible to this process",
            "a process uses one MIG instance; name it by its MIG-... id",
        )
    ]


def noticed(facts: Facts) -> list[Check]:
    """What the probe noticed and no other rule says."""
    lost = tuple(f"GPU {d.index} " for d in facts.devices if d.state != "ok")
    said_elsewhere = ("CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER", "pynvml")
    left = [
        problem
        for problem in facts.inventory.problems
        if not problem.startswith(lost) and not any(word in problem for word in said_elsewhere)
    ]
    topic = Topic("gpu.noticed", "Noticed while probing", "nothing", "NVML, torch and the operating system")
    return [
        replace(topic, id=f"gpu.noticed.{n}").warn(problem, "the device list may be incomplete", None)
        for n, problem in enumerate(left, 1)
    ]


RULES = (present, driver_state, visible, order, health, mig, noticed)
