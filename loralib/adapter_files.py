"""The two files of an adapter folder: read with errors that name the file, written completely or not at all."""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from loralib.peft_format import AdapterConfig

WEIGHTS, OLD_WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_model.bin", "adapter_config.json"
HEADER = ("enable_lora", "base")


def read_config(folder: Path) -> AdapterConfig:
    """The config of an adapter folder.

    Raises:
        FileNotFoundError: it is absent.
        ValueError: it is no JSON object, or describes no adapter for these layers; the message names the file.
    """
    path = folder / CONFIG
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing; an adapter folder has {CONFIG} beside {WEIGHTS}")
    try:
        parsed = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(parsed, dict):
            raise ValueError(f"expected a JSON object, got {type(parsed).__name__}")
        return AdapterConfig.parse(parsed)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path}: {error}") from None


def read_tensors(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors by key, and what ``write_adapter`` put into the header; empty for files of another program.

    Raises:
        FileNotFoundError: neither kind of file is there.
        ValueError: a file of another format; the message names it.
        ImportError: the package safetensors is missing.
    """
    if (path := folder / WEIGHTS).is_file():
        safetensors = _safetensors()
        data = path.read_bytes()
        try:
            tensors = safetensors.torch.load(data)
        except safetensors.SafetensorError as error:
            raise ValueError(f"{path} is no safetensors file: {error}") from None
        size = int.from_bytes(data[:8], "little")
        metadata = json.loads(data[8 : 8 + size]).get("__metadata__", {})
        return tensors, {key: json.loads(metadata[key]) for key in HEADER if key in metadata}
    if (path := folder / OLD_WEIGHTS).is_file():
        try:
            return torch.load(path, map_location="cpu", weights_only=True), {}
        except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
            raise ValueError(f"{path} is no file of tensors: {error}") from error
    raise FileNotFoundError(f"{folder} has neither {WEIGHTS} nor {OLD_WEIGHTS}")


def write_adapter(
    folder: Path, tensors: dict[str, Tensor], config: Mapping[str, Any], header: Mapping[str, Any]
) -> None:
    """Writes both files of an adapter folder, completely or not at all.

    ``header`` goes into that of the tensor file, which PEFT ignores. ``enable_lora`` of it, by path of the layer, tells
    a fused layer from one LoRA of the same rank on the whole projection; ``base`` is the ``base_fingerprint``.

    Raises:
        ImportError: the package safetensors is missing.
    """
    metadata = {"format": "pt", **{key: json.dumps(header[key]) for key in HEADER}}
    contents = {
        WEIGHTS: _safetensors().torch.save(tensors, metadata=metadata),
        CONFIG: (json.dumps(config, indent=2, sort_keys=True) + "\n").encode(),
    }
    _write_all(folder, contents)


def _write_all(folder: Path, contents: Mapping[str, bytes]) -> None:
    """Writes every file beside its place and then renames all, so that an error leaves what was there."""
    folder.mkdir(parents=True, exist_ok=True)
    partial = {name: folder / f".{name}.{os.getpid()}.partial" for name in contents}
    try:
        for name, content in contents.items():
            with partial[name].open("wb") as stream:
                stream.write(content)
                stream.flush()
                os.fsync(stream.fileno())
        for name in contents:
            partial[name].replace(folder / name)
    finally:
        for path in partial.values():
            path.unlink(missing_ok=True)


def _safetensors() -> Any:
    try:
        import safetensors.torch
    except ImportError as error:
        raise ImportError("adapter files need the package safetensors: pip install safetensors") from error
    return safetensors
