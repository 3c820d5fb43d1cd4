"""All layers under the module name that the released package used: ``loralib.layers``."""

from loralib.base import LoRALayer
from loralib.conv import Conv1d, Conv2d, Conv3d, ConvLoRA
from loralib.embedding import Embedding
from loralib.linear import Linear, MergedLinear

__all__ = ["Conv1d", "Conv2d", "Conv3d", "ConvLoRA", "Embedding", "Linear", "LoRALayer", "MergedLinear"]
