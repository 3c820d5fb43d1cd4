"""LoRA layers for PyTorch: frozen layers of ``torch.nn`` plus a trainable low-rank update (Hu et al. 2021)."""

from loralib.initializers import INITIALIZERS
from loralib.layers import Conv1d, Conv2d, Conv3d, ConvLoRA, Embedding, Linear, LoRALayer, MergedLinear
from loralib.utils import lora_state_dict, mark_only_lora_as_trainable

__all__ = [
    "INITIALIZERS",
    "Conv1d",
    "Conv2d",
    "Conv3d",
    "ConvLoRA",
    "Embedding",
    "Linear",
    "LoRALayer",
    "MergedLinear",
    "lora_state_dict",
    "mark_only_lora_as_trainable",
]
