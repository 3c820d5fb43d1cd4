"""Reads a file of GPT-2 weights, in any layout in which they have been published, into one set of names.

The names are those of the first Hugging Face files: ``wte.weight``, ``h.0.attn.c_attn.weight``, ``ln_f.bias``, and
beside each layer's weight its ``lora_A`` and ``lora_B``. Nothing in a file is executed: pickled code is refused.
"""

from __future__ import annotations

import json
import pickle
import re
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from examples.common.errors import UserError
from gpt2.config import TARGETS

LORA_RECORD = "lora_config"  # top-level key (or safetensors metadata) that says how a checkpoint was trained
_WRAPPERS = ("model_state_dict", "state_dict")
_PREFIXES = ("module.", "_orig_mod.", "transformer.")
_SHORT_SUFFIXES = {".g": ".weight", ".w": ".weight", ".b": ".bias"}  # of checkpoints ported from TensorFlow
_HEAD = ("lm_head.weight", "lm_head.decoder.weight")
_MASK_BUFFER = re.compile(r"h\.\d+\.attn\.(bias|masked_bias)")
_LORA = re.compile(r".+\.lora_[AB]")
_SNAPSHOT_ADAPTER = re.compile(r"(h\.\d+\.attn)\.([qv])_proj_adapter([12])\.weight")


@dataclass(frozen=True)
class CheckpointFile:
    """Content of a weight file.

    Attributes:
        base: pretrained tensors by name, without causal masks and without the tied head.
        lora: LoRA tensors by name; on query and value (2r, C) for ``lora_A``, (2C, r) for ``lora_B``.
        record: what a checkpoint of this program says of itself (see ``checkpoint.training_record``), else None.
    """

    path: Path
    base: dict[str, Tensor]
    lora: dict[str, Tensor]
    record: dict[str, Any] | None

    @property
    def rank(self) -> int:
        """r of the LoRA tensors, 0 if there are none."""
        return next((t.size(1) for name, t in self.lora.items() if name.endswith("lora_B")), 0)

    @property
    def is_complete(self) -> bool:
        """Whether the file has the frozen weights, too."""
        return bool(self.base) and (self.record or {}).get("complete", True)

    @property
    def targets(self) -> tuple[str, ...]:
        """What LoRA stands on, of ``config.TARGETS``; empty where the file does not say."""
        recorded = (self.record or {}).get("targets", [])
        if recorded and not isinstance(recorded[0], str):  # until 0.3.0: whether query, key and value are adapted
            recorded = [name for name, is_adapted in zip(TARGETS, recorded) if is_adapted]
        return tuple(recorded)


def read_checkpoint(path: str | Path) -> CheckpointFile:
    """Reads ``.safetensors``, ``.bin`` or ``.pt``; tensors stay on the CPU, mapped from the file where possible.

    Accepts plain names, the prefixes ``transformer.`` and ``module.`` in any combination, dicts wrapped under
    ``model_state_dict`` or ``state_dict``, the suffixes ``.g .b .w``, and the adapters of the 2021-09 snapshot of the
    released code (``q_proj_adapter1`` ...), which are joined into ``lora_A`` and ``lora_B``.

    Raises:
        UserError: the file is missing, truncated, of another kind, holds code, or its head is not the embedding.
    """
    path = Path(path)
    if not path.is_file():
        problem = "is a folder" if path.is_dir() else "is no regular file" if path.exists() else "does not exist"
        raise UserError(f"checkpoint {path} {problem}")
    raw, record = _read_safetensors(path) if path.suffix == ".safetensors" else _read_torch(path)
    _check_record(path, record)
    tensors = {canonical_name(name): tensor for name, tensor in raw.items()}
    _check_head(path, tensors)
    tensors = {name: t for name, t in tensors.items() if name not in _HEAD and not _MASK_BUFFER.fullmatch(name)}
    lora = {name: t for name, t in tensors.items() if _LORA.fullmatch(name)}
    if flat := [name for name, tensor in lora.items() if tensor.dim() != 2]:
        raise UserError(f"checkpoint {path}: {flat[0]} should be a matrix, got shape {tuple(lora[flat[0]].shape)}")
    snapshot = {name: t for name, t in tensors.items() if _SNAPSHOT_ADAPTER.fullmatch(name)}
    base = {name: t for name, t in tensors.items() if name not in lora and name not in snapshot}
    return CheckpointFile(path, base, lora | _join_snapshot_adapters(path, snapshot), record)


def canonical_name(name: str) -> str:
    """``module.transformer.h.0.ln_1.g`` -> ``h.0.ln_1.weight``."""
    stripped = True
    while stripped:
        stripped = False
        for prefix in _PREFIXES:
            if name.startswith(prefix):
                name, stripped = name[len(prefix) :], True
    for short, long in _SHORT_SUFFIXES.items():
        if name.endswith(short):
            return name[: -len(short)] + long
    return name


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any] | None]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (not a dict)
            metadata = file.metadata() or {}
        record = json.loads(metadata.get(LORA_RECORD, "null"))
    except (SafetensorError, ValueError, RecursionError) as error:
        raise UserError(f"checkpoint {path} is not a complete safetensors file ({error})") from None
    return tensors, record


def _read_torch(path: Path) -> tuple[dict[str, Tensor], dict[str, Any] | None]:
    is_zip = zipfile.is_zipfile(path)
    with path.open("rb") as stream:
        is_cut_off = stream.read(2) in (b"PK", b"") and not is_zip
    if is_cut_off:
        raise UserError(f"checkpoint {path} is truncated; copy or download it again")
    try:
        # files of before torch 1.6 are no zip archives and cannot be mapped
        raw = torch.load(path, map_location="cpu", weights_only=True, mmap=is_zip)
    except pickle.UnpicklingError:
        raise UserError(f"checkpoint {path} is not a file of tensors (pickled objects and code are refused)") from None
    except OSError:
        raise
    except Exception as error:  # unpickling arbitrary bytes raises almost anything
        raise UserError(
            f"checkpoint {path} is truncated or not a PyTorch file ({str(error) or 'ends early'})"
        ) from None
    record = raw.get(LORA_RECORD) if isinstance(raw, dict) else None
    for wrapper in _WRAPPERS:
        if isinstance(raw, dict) and isinstance(raw.get(wrapper), dict):
            raw = raw[wrapper]
    if (
        not isinstance(raw, dict)
        or not raw
        or not all(isinstance(v, Tensor) and type(n) is str for n, v in raw.items())
    ):
        raise UserError(f"checkpoint {path} does not hold a state dict (names to tensors)")
    return raw, record


def _check_record(path: Path, record: Any) -> None:
    """Refuses a record that has not the form in which ``checkpoint.training_record`` writes it."""
    if record is None:
        return
    damaged = not isinstance(record, dict)
    if not damaged:
        targets, base = record.get("targets", []), record.get("base")
        damaged = (
            any(type(record.get(key, 0)) not in (int, float) for key in ("alpha", "dropout"))
            or not isinstance(targets, list)
            or not (all(name in TARGETS for name in targets) or [*map(type, targets)] == [bool] * 3)
            or not (base is None or isinstance(base, dict))
            or (base is not None and any(type(base.get(key)) is not str for key in ("path", "sha256")))
        )
    if damaged:
        raise UserError(f"checkpoint {path}: its {LORA_RECORD!r} is damaged")


def _check_head(path: Path, tensors: dict[str, Tensor]) -> None:
    """A head other than the token embedding would be lost without a word: the model ties the two."""
    embedding = tensors.get("wte.weight")
    for name in _HEAD:
        head = tensors.get(name)
        if embedding is None or head is None or head.data_ptr() == embedding.data_ptr():
            continue
        if head.shape != embedding.shape or not torch.equal(head, embedding):
            raise UserError(f"checkpoint {path}: {name} differs from wte.weight; this model ties its head to wte")


def _join_snapshot_adapters(path: Path, adapters: dict[str, Tensor]) -> dict[str, Tensor]:
    """``{q,v}_proj_adapter1`` (r, C) -> ``lora_A`` (2r, C); ``{q,v}_proj_adapter2`` (C, r) -> ``lora_B`` (2C, r)."""
    joined = {}
    for attention in {name.rsplit(".", 2)[0] for name in adapters}:
        for number, factor in (("1", "lora_A"), ("2", "lora_B")):
            names = [f"{attention}.{letter}_proj_adapter{number}.weight" for letter in "qv"]
            if missing := [name for name in names if name not in adapters]:
                raise UserError(f"checkpoint {path}: {missing[0]} is missing beside its twin")
            joined[f"{attention}.c_attn.{factor}"] = torch.cat([adapters[name] for name in names])
    return joined
