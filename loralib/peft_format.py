"""PEFT's adapter format: names and shapes of a layer's factors, and a config that old and new versions can read.

A fused layer has no form of its own there. With g enabled blocks of rank r it becomes one LoRA of rank g*r and alpha
g*alpha on the whole projection: A stays, and B_j moves to the rows of its block and to columns j*r to (j+1)*r.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from loralib.base import LoRALayer
from loralib.conv import ConvLoRA
from loralib.embedding import Embedding
from loralib.linear import MergedLinear

PREFIX = "base_model.model."
_FACTOR = re.compile(r"(?P<path>.+)\.(?:lora_(?P<linear>[AB])\.weight|lora_embedding_(?P<embedding>[AB]))")
_WRAPPER = re.compile(r"\.(original_module|modules_to_save\.default)\.")
# Features of later PEFT versions that change what an adapter computes, beside use_rslora, which is understood.
_UNSUPPORTED = (
    "use_dora",
    "use_qalora",
    "lora_bias",
    "target_parameters",
    "trainable_token_indices",
    "layer_replication",
    "alora_invocation_tokens",
    "use_bdlora",
    "arrow_config",
    "kasa_config",
    "velora_config",
    "monteclora_config",
)
_CHANGES_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")  # ways to initialise that also rewrite frozen weights


# --- tensors ---------------------------------------------------------------------------------------------------------


def factor_keys(path: str, layer: LoRALayer) -> tuple[str, str]:
    """Keys of A and B in the file."""
    if isinstance(layer, Embedding):
        return f"{PREFIX}{path}.lora_embedding_A", f"{PREFIX}{path}.lora_embedding_B"
    return f"{PREFIX}{path}.lora_A.weight", f"{PREFIX}{path}.lora_B.weight"


def path_of_factor(key: str) -> str | None:
    """Name of the module to which a key of the file belongs if it is that of a factor, else None."""
    found = _FACTOR.fullmatch(key.removeprefix(PREFIX))
    return found["path"] if found else None


def without_inner_copies(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A file's tensors less those that PEFT, saving all biases, repeats under names of its own wrappers."""
    return {
        key: value for key, value in tensors.items() if not (_WRAPPER.search(key) and _WRAPPER.sub(".", key) in tensors)
    }


def blocks_of(layer: LoRALayer) -> int:
    """g, the number of enabled blocks of a fused layer; 1 for any other."""
    return sum(layer.enable_lora) if isinstance(layer, MergedLinear) else 1


def to_peft(layer: LoRALayer) -> tuple[Tensor, Tensor]:
    """A (g*r, in) and B (out, g*r) of one LoRA on the whole layer; copies on the CPU.

    Raises:
        ValueError: a convolution, whose B A is a reshaped kernel that PEFT has no factors for; or no values (meta).
    """
    if isinstance(layer, ConvLoRA):
        raise ValueError(
            "is a convolution, for whose reshaped B A PEFT's format has no form; save lora_state_dict(model) instead, "
            "or the whole model after remove_lora"
        )
    if layer.lora_A.is_meta or layer.lora_B.is_meta:
        raise ValueError("has its factors on the meta device, where they have no values")
    lora_A = layer.lora_A.detach().cpu().clone()
    lora_B = layer.lora_B.detach().cpu().clone()
    return lora_A, _placed(layer, lora_B) if isinstance(layer, MergedLinear) else lora_B


def from_peft(layer: LoRALayer, lora_A: Tensor, lora_B: Tensor) -> tuple[Tensor, Tensor]:
    """Factors in the shapes of ``layer`` from those of the file.

    Raises:
        ValueError: other shapes; or, for a fused layer, a B that is not zero outside its blocks.
    """
    if isinstance(layer, ConvLoRA):
        raise ValueError("is a convolution, whose factors have another meaning in PEFT's format")
    g = blocks_of(layer)
    out = layer.out_features if isinstance(layer, MergedLinear) else layer.lora_B.shape[0]
    expected = ((g * layer.r, layer.lora_A.shape[1]), (out, g * layer.r))
    for name, tensor, shape in zip(("A", "B"), (lora_A, lora_B), expected):
        if tuple(tensor.shape) != shape:
            raise ValueError(f"lora_{name} has shape {tuple(tensor.shape)} in the file, expected {shape}")
    if not isinstance(layer, MergedLinear):
        return lora_A, lora_B
    block, r = layer.out_features // len(layer.enable_lora), layer.r
    rows = [i for i, on in enumerate(layer.enable_lora) if on]
    parts = [lora_B[i * block : (i + 1) * block, j * r : (j + 1) * r] for j, i in enumerate(rows)]
    cut = torch.cat(parts)  # (g*out/n, r)
    if not torch.equal(_placed(layer, cut), lora_B):
        raise ValueError(
            f"lora_B is not zero outside the blocks of enable_lora={list(layer.enable_lora)}: the adapter was trained "
            "on the whole fused projection; load it into the model without LoRA, which then gets Linear layers"
        )
    return lora_A, cut


def _placed(layer: MergedLinear, lora_B: Tensor) -> Tensor:
    """(g*out/n, r) to (out, g*r), zero outside the blocks."""
    block, r = layer.out_features // len(layer.enable_lora), layer.r
    placed = lora_B.new_zeros(layer.out_features, blocks_of(layer) * r)
    rows = [i for i, on in enumerate(layer.enable_lora) if on]
    for j, (i, B_j) in enumerate(zip(rows, lora_B.split(block))):
        placed[i * block : (i + 1) * block, j * r : (j + 1) * r] = B_j
    return placed


# --- config ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class AdapterConfig:
    """What ``adapter_config.json`` says, as far as it decides what an adapter computes."""

    r: int
    lora_alpha: float
    lora_dropout: float
    bias: str
    modules_to_save: tuple[str, ...]
    rank_pattern: Mapping[str, int]
    alpha_pattern: Mapping[str, float]
    use_rslora: bool

    @classmethod
    def parse(cls, config: Mapping[str, Any]) -> AdapterConfig:
        """From the parsed JSON; PEFT's defaults where keys are absent.

        Raises:
            ValueError: no LoRA adapter, or features that these layers do not have.
        """
        if config.get("peft_type") != "LORA":
            raise ValueError(f"peft_type is {config.get('peft_type')!r}, expected 'LORA'")
        features = [name for name in _UNSUPPORTED if config.get(name)]
        init = config.get("init_lora_weights", True)
        if isinstance(init, str) and init.startswith(_CHANGES_BASE):
            features.append(f"init_lora_weights={init}")
        if features:
            raise ValueError(f"uses {', '.join(features)}, which these layers do not have")
        for key in (*(config.get("rank_pattern") or ()), *(config.get("alpha_pattern") or ())):
            try:
                re.compile(key)
            except re.error as error:
                raise ValueError(f"pattern {key!r} is no regular expression: {error}") from None
        return cls(
            r=int(config.get("r", 8)),
            lora_alpha=config.get("lora_alpha", 8),
            lora_dropout=float(config.get("lora_dropout") or 0.0),
            bias=config.get("bias", "none"),
            modules_to_save=tuple(config.get("modules_to_save") or ()),
            rank_pattern=config.get("rank_pattern") or {},
            alpha_pattern=config.get("alpha_pattern") or {},
            use_rslora=bool(config.get("use_rslora")),
        )

    def rank_of(self, path: str) -> int:
        """Rank of one module."""
        return int(_looked_up(self.rank_pattern, path, self.r))

    def alpha_of(self, path: str) -> float:
        """Alpha of one module, such that its scale is alpha / rank."""
        alpha = _looked_up(self.alpha_pattern, path, self.lora_alpha)
        return alpha * math.sqrt(self.rank_of(path)) if self.use_rslora else alpha


def config_of(
    model: nn.Module, layers: Mapping[str, LoRALayer], *, bias: str, modules_to_save: Sequence[str]
) -> dict[str, Any]:
    """The config for the adapted layers of a model, in the keys that every PEFT version knows."""
    ranks = {path: layer.r * blocks_of(layer) for path, layer in layers.items()}
    alphas = {path: _whole(layer.lora_alpha * blocks_of(layer)) for path, layer in layers.items()}
    dropouts = [layer.lora_dropout.p for layer in layers.values() if isinstance(layer.lora_dropout, nn.Dropout)]
    r, rank_pattern = _default_and_pattern(ranks)
    alpha, alpha_pattern = _default_and_pattern(alphas)
    name = getattr(model, "name_or_path", None)
    return {
        "auto_mapping": None,
        "base_model_name_or_path": name if isinstance(name, str) and name else None,
        "bias": bias,
        "fan_in_fan_out": any(getattr(layer, "fan_in_fan_out", False) for layer in layers.values()),
        "inference_mode": True,
        "init_lora_weights": True,
        "layers_pattern": None,
        "layers_to_transform": None,
        "lora_alpha": alpha,
        "lora_dropout": max(dropouts, default=0.0),
        "modules_to_save": list(modules_to_save) or None,
        "peft_type": "LORA",
        "r": r,
        "rank_pattern": rank_pattern,
        "alpha_pattern": alpha_pattern,
        "revision": None,
        "target_modules": _target_modules(model, list(layers)),
        "task_type": None,
    }


def _looked_up(patterns: Mapping[str, Any], path: str, default: Any) -> Any:
    key = next((key for key in patterns if re.match(rf"(.*\.)?({key})$", path)), path)
    return patterns.get(key, default)


def _default_and_pattern(values: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
    """The most frequent value, and the modules with another one, in keys that select just these."""
    default = Counter(values.values()).most_common(1)[0][0]
    longest_first = sorted(values, key=len, reverse=True)
    pattern = {path: values[path] for path in longest_first if values[path] != default}
    if any(_looked_up(pattern, path, default) != value for path, value in values.items()):
        # Keys are regular expressions for the end of a name, so one module's name may also select another module.
        pattern = {f"^{re.escape(path)}": values[path] for path in longest_first if values[path] != default}
    return default, pattern


def _target_modules(model: nn.Module, paths: list[str]) -> list[str] | str:
    """Last components of the names if these select just the adapted modules, else whole names, else an expression."""
    inside = tuple(f"{path}." for path in paths)
    names = [name for name, _ in model.named_modules() if not name.startswith(inside)]
    for targets in (sorted({path.rpartition(".")[2] for path in paths}), paths):
        ends = tuple(f".{target}" for target in targets)
        if [name for name in names if name in targets or name.endswith(ends)] == paths:
            return targets
    return "|".join(map(re.escape, paths))


def _whole(number: float) -> float:
    return int(cast(Any, number)) if number == int(number) else number
