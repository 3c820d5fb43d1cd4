"""PEFT's names and shapes of a layer's factors.

A fused layer has no form of its own there. With g enabled blocks of rank r it becomes one LoRA of rank g*r and the same
scale on the whole projection: A stays, and B_j moves to the rows of its block and to columns j*r to (j+1)*r.
``nn.MultiheadAttention`` has one rank and one scale for ``in_proj`` and ``out_proj``; the smaller rank is filled up
with zeros, and B of ``out_proj`` is halved (see ``_times``).
"""

from __future__ import annotations

import itertools
import math
import re
import reprlib
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from loralib.base import LoRALayer
from loralib.conv import ConvLoRA

PREFIX = "base_model.model."
_FACTOR = re.compile(r"(?P<path>.+)\.(?:lora_[AB]\.weight|lora_embedding_[AB])")
_WRAPPER = re.compile(r"\.(original_module|modules_to_save\.default)\.")


def is_rank(value: Any) -> bool:
    """Whether a value is a whole number from 1."""
    return type(value) is int and 1 <= value < 2**31


def is_number(value: Any) -> bool:
    """Whether a value is a number, neither infinite nor NaN."""
    return type(value) in (int, float) and -1e300 < value < 1e300


@dataclass(frozen=True)
class LayerRecord:
    """Rank of a block, alpha and blocks of a layer; the header of an adapter file has one for each.

    Attributes:
        r, lora_alpha, use_rslora: as in ``LoRALayer``.
        enable_lora, block_sizes: as in ``MergedLinear``; None for one update of the whole layer.
    """

    r: int
    lora_alpha: float
    use_rslora: bool = False
    enable_lora: Sequence[bool] | None = None
    block_sizes: Sequence[int] | None = None

    @classmethod
    def of(cls, layer: Any) -> LayerRecord:
        """That of a LoRA layer."""
        alpha = layer.lora_alpha if type(layer.lora_alpha) is int else float(layer.lora_alpha)
        if isinstance(layer, (nn.Embedding, ConvLoRA)) or len(layer.enable_lora) == 1:
            return cls(layer.r, alpha, layer.use_rslora)
        return cls(layer.r, alpha, layer.use_rslora, layer.enable_lora, layer.block_sizes)

    @classmethod
    def parse(cls, record: Any) -> LayerRecord:
        """From parsed JSON.

        Raises:
            ValueError: another form.
        """
        try:
            parsed = cls(**record)
            blocks, sizes = parsed.enable_lora or [], parsed.block_sizes or []
            fits = is_rank(parsed.r) and is_number(parsed.lora_alpha) and isinstance(parsed.use_rslora, bool)
            fits &= all(isinstance(on, bool) for on in blocks) and any(blocks) == (blocks != [])
            fits &= all(map(is_rank, sizes)) and len(blocks) == len(sizes)
        except TypeError:
            fits = False
        if not fits:
            raise ValueError(f"expected rank, alpha and blocks of a layer, got {reprlib.repr(record)}")
        return parsed

    @property
    def rank(self) -> int:
        """g*r, that of one LoRA on the whole layer."""
        return self.r * (sum(self.enable_lora) if self.enable_lora else 1)

    @property
    def scale(self) -> float:
        """Factor of B A."""
        return self.lora_alpha / (math.sqrt(self.r) if self.use_rslora else self.r)

    def alpha(self, rank: int, use_rslora: bool) -> float:
        """PEFT's alpha for a LoRA of this rank with the same scale."""
        if use_rslora != self.use_rslora:
            return self.scale * (math.sqrt(rank) if use_rslora else rank)
        ratio = rank / self.r  # a whole number, which leaves alpha as it was written
        return self.lora_alpha * (math.sqrt(ratio) if use_rslora else ratio)

    def rows(self, out: int) -> list[slice]:
        """Rows of each enabled block in a layer with ``out`` of them."""
        ends = list(itertools.accumulate(self.block_sizes or [out]))
        starts = [0, *ends[:-1]]
        return [slice(a, b) for a, b, on in zip(starts, ends, self.enable_lora or [True]) if on]


# --- keys ------------------------------------------------------------------------------------------------------------


def in_file(name: str, layers: Mapping[str, LoRALayer]) -> str:
    """Key of a parameter: PEFT puts ``base_layer`` between a module that has LoRA and what is inside it."""
    parts = name.split(".")
    inner = [part + ".base_layer" * (".".join(parts[: i + 1]) in layers) for i, part in enumerate(parts[:-1])]
    return PREFIX + ".".join([*inner, parts[-1]])


def factor_keys(path: str, layers: Mapping[str, LoRALayer]) -> tuple[str, str]:
    """Keys of A and B of one of the layers."""
    key = in_file(path, layers)
    if isinstance(layers[path], nn.Embedding):
        return f"{key}.lora_embedding_A", f"{key}.lora_embedding_B"
    return f"{key}.lora_A.weight", f"{key}.lora_B.weight"


def path_of_factor(key: str) -> str | None:
    """Name of the module to which a key of the file belongs if it is that of a factor, else None."""
    found = _FACTOR.fullmatch(key.removeprefix(PREFIX))
    return re.sub(r"\.base_layer\.out_proj$", ".out_proj", found["path"]) if found else None


def owner_of(path: str, paths: Container[str]) -> str:
    """Module to which the config refers: for ``out_proj`` of an ``nn.MultiheadAttention`` with LoRA the latter."""
    owner = path.removesuffix(".out_proj")
    return owner if owner in paths else path


def ranks_in_file(model: nn.Module, layers: Mapping[str, LoRALayer]) -> dict[str, int]:
    """Rank of each module that PEFT adapts.

    Raises:
        ValueError: an ``nn.MultiheadAttention`` with two scales, or with LoRA on ``out_proj`` alone.
    """
    ranks: dict[str, int] = {}
    for path, layer in layers.items():
        owner, record, parent = owner_of(path, layers), LayerRecord.of(layer), path.rpartition(".")[0]
        if owner == path and isinstance(model.get_submodule(parent), nn.MultiheadAttention):
            raise ValueError(f"{path} has LoRA without the attention around it, for which PEFT's format has no form")
        if not math.isclose(record.scale, scale := LayerRecord.of(layers[owner]).scale, rel_tol=1e-6):
            raise ValueError(f"{path} has scale {record.scale:g} and {owner} {scale:g}; PEFT has one scale for both")
        ranks[owner] = max(record.rank, ranks.get(owner, 0))
    return ranks


def without_inner_copies(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A file's tensors less those that PEFT, saving all biases, repeats under names of its own wrappers."""
    return {
        key: value for key, value in tensors.items() if not (_WRAPPER.search(key) and _WRAPPER.sub(".", key) in tensors)
    }


# --- values ----------------------------------------------------------------------------------------------------------


def to_peft(path: str, layers: Mapping[str, LoRALayer], ranks: Mapping[str, int]) -> tuple[Tensor, Tensor]:
    """A (rank, in) and B (out, rank) of one LoRA on the whole of one of the layers; copies on the CPU.

    Args:
        path, layers: which one of the LoRA layers of a model.
        ranks: what ``ranks_in_file`` gives for them.

    Raises:
        ValueError: a convolution, whose B A is a reshaped kernel that PEFT has no factors for; or no values (meta).
    """
    layer, rank = layers[path], ranks[owner_of(path, layers)]
    if isinstance(layer, ConvLoRA):
        raise ValueError(
            f"{path} is a convolution, for whose reshaped B A PEFT's format has no form; save lora_state_dict(model) "
            "instead, or the whole model after remove_lora"
        )
    if layer.lora_A.is_meta or layer.lora_B.is_meta:
        raise ValueError(f"{path} has its factors on the meta device, where they have no values")
    record, lora_A, lora_B = LayerRecord.of(layer), layer.lora_A.detach().cpu(), layer.lora_B.detach().cpu()
    filled = lora_A.new_zeros(rank, lora_A.shape[1])
    filled[: record.rank] = lora_A
    return filled, _placed(record, lora_B, rank) / _times(path, layers)


def from_peft(path: str, layers: Mapping[str, LoRALayer], lora_A: Tensor, lora_B: Tensor) -> tuple[Tensor, Tensor]:
    """Factors in the shapes of one of the layers from those of the file.

    Raises:
        ValueError: other shapes; or a B that is not zero where the layer has nothing.
    """
    layer = layers[path]
    if isinstance(layer, ConvLoRA):
        raise ValueError("is a convolution, whose factors have another meaning in PEFT's format")
    record, rank = LayerRecord.of(layer), lora_A.shape[0]
    out, r = sum(record.block_sizes or [layer.lora_B.shape[0]]), record.r
    for name, tensor, shape in (("A", lora_A, (rank, layer.lora_A.shape[1])), ("B", lora_B, (out, rank))):
        if tuple(tensor.shape) != shape:
            raise ValueError(f"lora_{name} has shape {tuple(tensor.shape)} in the file, expected {shape}")
    if rank < record.rank or lora_B[:, record.rank :].any():
        raise ValueError(f"rank is {rank} in the file, but {record.rank} in the model")
    cut = torch.cat([lora_B[rows, j * r : (j + 1) * r] for j, rows in enumerate(record.rows(out))])
    if not torch.equal(_placed(record, cut, rank), lora_B):
        raise ValueError(
            f"lora_B is not zero outside the blocks of enable_lora={list(record.enable_lora or [])}: the adapter was "
            "trained on the whole fused projection; load it into the model without LoRA, which then gets Linear layers"
        )
    return lora_A[: record.rank], cut * _times(path, layers)


def _times(path: str, layers: Mapping[str, LoRALayer]) -> int:
    """How often PEFT adds an update.

    It adds that of an attention's ``out_proj`` twice (seen in 0.21.2, in training as well): merging the attention, as
    each forward pass does, adds it to the weight and then merges the inner layer, which adds it again.
    """
    return 2 if owner_of(path, layers) != path else 1


def _placed(record: LayerRecord, lora_B: Tensor, rank: int) -> Tensor:
    """(rows of the enabled blocks, r) to (all rows, rank), zero outside the blocks."""
    out, r = sum(record.block_sizes or [lora_B.shape[0]]), record.r
    placed, blocks = lora_B.new_zeros(out, rank), record.rows(out)
    for j, (rows, B_j) in enumerate(zip(blocks, lora_B.split([rows.stop - rows.start for rows in blocks]))):
        placed[rows, j * r : (j + 1) * r] = B_j
    return placed
