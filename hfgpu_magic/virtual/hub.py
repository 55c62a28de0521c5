"""`from_pretrained` without a weight: shapes come from the config, or from the checkpoint's headers.

On a card without data the values of the weights do not matter, so none are read or downloaded.
transformers' own loading code still runs, quantizer and device map included: it is handed a state
dict of hollow host tensors in place of a checkpoint.
"""

from __future__ import annotations

import json
import struct
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import torch

from . import hollow
from .imports import when_imported

if TYPE_CHECKING:
    from .device import VirtualDevice
    from .patches import Patches

_SAFETENSORS_DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
    "I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8,
    "BOOL": torch.bool, "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2,
}  # fmt: skip


def install(patches: Patches, device: VirtualDevice) -> None:
    """Patch transformers' loaders, now or when they are imported."""

    def hub_module(module: ModuleType) -> None:
        original = module.cached_files

        def cached_files(path_or_repo_id: Any, *args: Any, **kwargs: Any) -> Any:
            return original(_folder(path_or_repo_id), *args, **kwargs)

        # Every file that transformers looks for, it looks for here.
        patches.set(module, "cached_files", cached_files)

    def model_module(module: ModuleType) -> None:
        base = module.PreTrainedModel
        original = base.from_pretrained.__func__

        def from_pretrained(
            cls: Any,
            /,
            pretrained_model_name_or_path: Any = None,
            *args: Any,
            config: Any = None,
            **kwargs: Any,
        ) -> Any:
            folder = _folder(pretrained_model_name_or_path)
            if not _replaceable(folder, kwargs):
                return original(cls, folder, *args, config=config, **kwargs)
            if config is None or isinstance(config, (str, Path)):
                config = cls.config_class.from_pretrained(config or folder)
            device.note(
                f"from_pretrained({str(pretrained_model_name_or_path)!r}): no weights were read; "
                "shapes and types are the model's own."
            )
            for name in _HUB_ONLY:
                kwargs.pop(name, None)
            weights = _weights_of(cls, config, Path(folder))
            with device.attribution.building():
                model = original(cls, None, *args, config=config, state_dict=weights, **kwargs)
            found = model[0] if isinstance(model, tuple) else model
            found.config.name_or_path = found.name_or_path = str(pretrained_model_name_or_path)
            return model

        patches.set(base, "from_pretrained", classmethod(from_pretrained))

    when_imported(
        patches,
        {
            "transformers.utils.hub": hub_module,
            "transformers.modeling_utils": model_module,
        },
    )


_HUB_ONLY = ("cache_dir", "force_download", "local_files_only", "token", "revision", "subfolder", "variant",
             "use_safetensors", "proxies")  # fmt: skip


def _folder(name: Any) -> Any:
    """The folder of an architecture preset, for a name that is one and no folder of the user's."""
    if not isinstance(name, str) or Path(name).exists():
        return name
    from ..presets import find_preset

    preset = find_preset(name)
    return name if preset is None else str(preset.folder)


def _replaceable(folder: Any, kwargs: dict[str, Any]) -> bool:
    return (
        folder is not None
        and kwargs.get("state_dict") is None
        and kwargs.get("gguf_file") is None
        and (Path(str(folder)) / "config.json").is_file()
        and not (Path(str(folder)) / "adapter_config.json").is_file()
    )


def _weights_of(cls: Any, config: Any, folder: Path) -> dict[str, torch.Tensor]:
    """Hollow tensors with the names, shapes and types of the checkpoint."""
    files = sorted(folder.glob("*.safetensors"))
    if files:
        return {name: t for file in files for name, t in _headers(file).items()}
    # Built on the meta device, in the type the config states; tied weights are stored once.
    with torch.device("meta"):
        skeleton = cls(config)
    dtype = getattr(config, "dtype", None) or torch.float32
    if isinstance(dtype, str):
        dtype = getattr(torch, dtype.removeprefix("torch."))
    tied = set(getattr(skeleton, "all_tied_weights_keys", None) or ())
    return {
        name: hollow.empty(t.shape, dtype if t.dtype.is_floating_point else t.dtype)
        for name, t in skeleton.state_dict().items()
        if name not in tied
    }


def _headers(file: Path) -> dict[str, torch.Tensor]:
    """A safetensors file starts with the length of a JSON header that lists its tensors."""
    with file.open("rb") as stream:
        (length,) = struct.unpack("<Q", stream.read(8))
        header = json.loads(stream.read(length))
    return {
        name: hollow.empty(entry["shape"], _SAFETENSORS_DTYPES[entry["dtype"]])
        for name, entry in header.items()
        if name != "__metadata__"
    }
