"""LoRA layers for PyTorch: frozen layers of ``torch.nn`` plus a trainable low-rank update (Hu et al. 2021)."""

from loralib.adapters import Adapters
from loralib.checkpoint import load_adapter, save_adapter
from loralib.initializers import INITIALIZERS
from loralib.inject import apply_lora, remove_lora
from loralib.layers import Conv1d, Conv2d, Conv3d, ConvLoRA, Embedding, Linear, LoRALayer, MergedLinear
from loralib.utils import (
    TrainableSummary,
    disabled,
    load_released_state_dict,
    lora_plus_groups,
    lora_state_dict,
    mark_only_lora_as_trainable,
    merged_state_dict,
    released_state_dict,
    trainable_summary,
)

__version__ = "0.3.0"

__all__ = [
    "INITIALIZERS",
    "Adapters",
    "Conv1d",
    "Conv2d",
    "Conv3d",
    "ConvLoRA",
    "Embedding",
    "Linear",
    "LoRALayer",
    "MergedLinear",
    "TrainableSummary",
    "__version__",
    "apply_lora",
    "disabled",
    "load_adapter",
    "load_released_state_dict",
    "lora_plus_groups",
    "lora_state_dict",
    "mark_only_lora_as_trainable",
    "merged_state_dict",
    "released_state_dict",
    "remove_lora",
    "save_adapter",
    "trainable_summary",
]
