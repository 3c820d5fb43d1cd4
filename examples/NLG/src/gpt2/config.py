"""Sizes of the model and of its LoRA update: the three model cards of the paper, or a JSON file for any other."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from examples.common.errors import UserError

# Far above every GPT-2 (XL: 48 layers of width 1,600): a mistyped size is refused rather than built for hours.
LIMITS = {"n_layer": 1_000, "n_embd": 65_536, "n_positions": 32_768, "vocab_size": 10_000_000}


@dataclass(frozen=True)
class GPT2Config:
    """Architecture of a GPT-2, under the field names of GPT-2's own ``config.json``."""

    vocab_size: int = 50257
    n_positions: int = 1024
    n_embd: int = 768
    n_layer: int = 12
    n_head: int = 12
    layer_norm_epsilon: float = 1e-5

    def __post_init__(self) -> None:
        for name in ("vocab_size", "n_positions", "n_embd", "n_layer", "n_head"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ValueError(f"{name} must be a positive integer, got {value!r}")
        for name, most in LIMITS.items():
            if getattr(self, name) > most:
                raise ValueError(f"{name} must be at most {most:,}, got {getattr(self, name):,}")
        if self.n_embd % self.n_head:
            raise ValueError(f"n_embd={self.n_embd} is not divisible by n_head={self.n_head}")


# What LoRA can stand on in a block: the three blocks of c_attn, each with its own factors, or c_attn as one matrix; and
# the other linear layers.
TARGETS = ("query", "key", "value", "c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")
_TARGETS_OF = {
    **{name: (name,) for name in TARGETS},
    "c_proj": ("attn.c_proj", "mlp.c_proj"),
    "c_fc": ("mlp.c_fc",),
    "all-linear": tuple(name for name in TARGETS if name != "c_attn"),
}


@dataclass(frozen=True)
class LoRAConfig:
    """LoRA on linear layers of every block; ``r = 0`` means none.

    Source: Hu et al. 2021 (arXiv:2106.09685), Section 4.2 and Table 11: query and value, r 4, alpha 32, dropout 0.1 on
    E2E. ``init`` names one of ``loralib.INITIALIZERS``, ``targets`` some of ``TARGETS``.
    """

    r: int = 0
    alpha: float = 128
    dropout: float = 0.0
    init: str = "released"
    targets: tuple[str, ...] = ("query", "value")

    @property
    def c_attn(self) -> tuple[bool, ...]:
        """Which blocks of ``c_attn`` have an update: query, key and value, or all three as one."""
        if "c_attn" in self.targets:
            return (True,)
        return tuple(name in self.targets for name in TARGETS[:3])

    @property
    def other_layers(self) -> list[str]:
        """Names of the other layers with an update, as they are in a block."""
        return [name for name in TARGETS[4:] if name in self.targets]

    def as_dict(self) -> dict[str, Any]:
        return {**asdict(self), "targets": list(self.targets)}


def parse_targets(text: str) -> tuple[str, ...]:
    """``--lora_targets``: names separated by commas to some of ``TARGETS``, in their order.

    Raises:
        UserError: an unknown name, or ``c_attn`` beside a part of it.
    """
    names = [name.strip() for name in text.split(",")]
    if unknown := [name for name in names if name not in _TARGETS_OF]:
        raise UserError(f"--lora_targets {text}: {unknown[0]!r} is none of {', '.join(_TARGETS_OF)}")
    found = {target for name in names for target in _TARGETS_OF[name]}
    if "c_attn" in found and found & set(TARGETS[:3]):
        raise UserError(f"--lora_targets {text}: c_attn is one update of query, key and value; leave them or it out")
    return tuple(name for name in TARGETS if name in found)


MODEL_CARDS = {
    "gpt2.sm": GPT2Config(),
    "gpt2.md": GPT2Config(n_embd=1024, n_layer=24, n_head=16),
    "gpt2.lg": GPT2Config(n_embd=1280, n_layer=36, n_head=20),
}


def load_model_card(card: str) -> GPT2Config:
    """Turns ``--model_card`` into a config.

    Args:
        card: a name of ``MODEL_CARDS``, or the path of a JSON file with GPT-2's field names. Fields of that
            file that this model does not have (dropouts, task settings) are left aside.

    Raises:
        UserError: unknown name, broken file, or a size that is missing or impossible.
    """
    if card in MODEL_CARDS:
        return MODEL_CARDS[card]
    path = Path(card)
    if not path.is_file():
        raise UserError(f"--model_card {card}: expected one of {', '.join(MODEL_CARDS)} or the path of a JSON file")
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise UserError(f"--model_card {card}: not JSON ({error})") from None
    if not isinstance(raw, dict):
        raise UserError(f"--model_card {card}: expected a JSON object, got {type(raw).__name__}")
    if "n_positions" not in raw and "n_ctx" in raw:
        raw["n_positions"] = raw["n_ctx"]
    known = {f.name for f in fields(GPT2Config)}
    required = known - {"layer_norm_epsilon"}
    if missing := sorted(required - raw.keys()):
        raise UserError(f"--model_card {card}: the fields {', '.join(missing)} are missing")
    try:
        return GPT2Config(**{key: raw[key] for key in known & raw.keys()})
    except ValueError as error:
        raise UserError(f"--model_card {card}: {error}") from None
