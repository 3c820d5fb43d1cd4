"""All layers, and what else could be imported from here, under the module name of the released package."""

import math
from typing import List, Optional  # noqa: UP035

import torch
import torch.nn as nn
import torch.nn.functional as F

from loralib.base import LoRALayer
from loralib.conv import Conv1d, Conv2d, Conv3d, ConvLoRA
from loralib.embedding import Embedding
from loralib.linear import Linear, MergedLinear

__all__ = ["Conv1d", "Conv2d", "Conv3d", "ConvLoRA", "Embedding", "Linear", "LoRALayer", "MergedLinear"]
__all__ += ["F", "List", "Optional", "math", "nn", "torch"]
