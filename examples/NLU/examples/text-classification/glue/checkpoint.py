"""Files with what was trained, and nothing else: LoRA, adapters or biases, plus the head; each says what it is.

A file is the released layout: ``torch.save`` of an ``OrderedDict`` of tensors, names and order of the state dict. What
the released files lack (alpha, base model, label names) rides along as an attribute of that dict, which other readers
never see: they get the same tensors as from a released file.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from examples.common.errors import UserError
from examples.common.files import atomic_write
from examples.common.tensors import read_tensors
from glue.encoders import in_head

ATTRIBUTE = "description"
SAMPLE = 1024  # numbers of each tensor that the fingerprint of a base model reads


@dataclass(frozen=True)
class Description:
    """What a file of trained weights says of itself. ``merged`` weights are never saved, so it need not say so.

    Attributes:
        method: ``lora``, ``adapter``, ``bias`` or several of them, joined by ``+``; ``head``; ``full`` without any.
        r, lora_alpha, targets: of LoRA; 0 and empty without it. The update is scaled by lora_alpha / r. ``targets``:
            names of query and value, or what ``--lora_targets`` named.
        num_heads: of a model whose fused projection has query, key and value head by head (DeBERTa); else 0.
        adapter_type, adapter_size: of adapters; empty and 0 without them.
        base: name or path of the base model; ``base_fingerprint``: of its weights (see ``fingerprint``).
        task: GLUE name, or None for data of one's own; ``labels``: names by id, empty for regression.
    """

    method: str
    base: str
    base_fingerprint: str
    r: int = 0
    lora_alpha: float = 0
    targets: tuple[str, ...] = ()
    num_heads: int = 0
    adapter_type: str = ""
    adapter_size: int = 0
    task: str | None = None
    labels: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """Plain lists, strings and numbers."""
        return {**asdict(self), "targets": list(self.targets), "labels": list(self.labels)}


KINDS: dict[str, Any] = {
    **dict.fromkeys(("method", "base", "base_fingerprint", "adapter_type"), str),
    **dict.fromkeys(("r", "num_heads", "adapter_size"), int),
    **dict.fromkeys(("targets", "labels"), tuple),
    "lora_alpha": int | float,
    "task": str | None,
}


@dataclass(frozen=True)
class TrainedFile:
    """Content of a file: tensors in file order, and its description if it has one."""

    path: Path
    tensors: OrderedDict[str, Tensor]
    description: Description | None


def file_name(tags: Sequence[str]) -> str:
    """``pytorch_model_lora.bin`` as the released scripts expect it; the first of the methods names the file."""
    return f"pytorch_model_{tags[0]}.bin"


def fingerprint(model: PreTrainedModel) -> str:
    """sha256 over names, shapes and first numbers of a base model's tensors; cheap, and new after any training.

    Take it before anything is put into the model.
    """
    digest = hashlib.sha256()
    for name, value in model.base_model.state_dict().items():
        if not in_head(model, f"{model.base_model_prefix}.{name}"):  # the pooler is random where the file has none
            digest.update(sample_bytes(name, value))
    return digest.hexdigest()


def sample_bytes(name: str, tensor: Tensor) -> bytes:
    """Name, shape and the first ``SAMPLE`` numbers of a tensor as bytes, the numbers as float32."""
    numbers = tensor.detach().flatten()[:SAMPLE].to("cpu", torch.float32).contiguous()
    return f"{name} {tuple(tensor.shape)}\n".encode() + bytes(numbers.view(torch.uint8).tolist())


def save_trained(path: Path, tensors: OrderedDict[str, Tensor], description: Description) -> None:
    """Writes a file of trained weights atomically."""
    content = OrderedDict(tensors)
    content.__dict__[ATTRIBUTE] = description.as_dict()
    with atomic_write(path, binary=True) as stream:
        torch.save(content, stream)


def read_trained(path: str | Path, names: Sequence[str] = ("lora", "adapter", "bias", "head")) -> TrainedFile:
    """Reads such a file, or the one in a checkpoint folder; released files and safetensors work too.

    Raises:
        UserError: no such file, or not a dict of tensors.
    """
    path = Path(path)
    if path.is_dir():
        found = [path / file_name([name]) for name in names if (path / file_name([name])).is_file()]
        if not found:
            raise UserError(f"{path} holds no {' or '.join(file_name([name]) for name in names)}")
        path = found[0]
    content = read_tensors(path)
    return TrainedFile(path, OrderedDict(content), _description(getattr(content, ATTRIBUTE, None), path))


def describe(path: str | Path, names: Sequence[str]) -> Description | None:
    """What the file at ``path`` (see ``read_trained``) says of itself; None for other kinds of files."""
    folder = Path(path)
    if folder.is_dir() and not any((folder / file_name([name])).is_file() for name in names):
        return None
    return read_trained(path, names).description


def _description(raw: object, path: Path) -> Description | None:
    if not isinstance(raw, dict):
        return None
    known = {field.name for field in fields(Description)}
    lacking = sorted({"method", "base", "base_fingerprint"} - set(raw))
    if lacking:
        raise UserError(f"{path}: its description lacks {', '.join(lacking)}")
    values: dict[str, Any] = {
        key: tuple(value) if isinstance(value, list) else value for key, value in raw.items() if key in known
    }
    description = Description(**values)
    for name, kind in KINDS.items():
        if not isinstance(getattr(description, name), kind):
            raise UserError(f"{path}: its description says {name} {getattr(description, name)!r:.60}")
    return description
