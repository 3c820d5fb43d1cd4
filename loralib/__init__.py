"""LoRA layers for PyTorch: frozen layers of ``torch.nn`` plus a trainable low-rank update (Hu et al. 2021)."""

from loralib.checkpoint import load_adapter, save_adapter
from loralib.initializers import INITIALIZERS
from loralib.inject import apply_lora, remove_lora
from loralib.layers import Conv1d, Conv2d, Conv3d, ConvLoRA, Embedding, Linear, LoRALayer, MergedLinear
from loralib.summary import TrainableSummary, trainable_summary
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
    "TrainableSummary",
    "apply_lora",
    "load_adapter",
    "lora_state_dict",
    "mark_only_lora_as_trainable",
    "remove_lora",
    "save_adapter",
    "trainable_summary",
]
