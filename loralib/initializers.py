"""Named ways to draw ``lora_A`` and ``lora_B``; ``"released"`` is what the released package does.

The paper (Hu et al. 2021, Section 4.1) says: random Gaussian for A, zero for B, so that the update starts at zero. It
gives no standard deviation, and the released code draws A uniformly instead. The names here keep these apart:

=====================  ==================================  ============  ======================
name                   lora_A                              lora_B        update at the start
=====================  ==================================  ============  ======================
``released``           U(-1/sqrt(in), 1/sqrt(in))          0             0
``paper``              N(0, 0.02²)                         0             0
``paper_era``          N(0, 0.02²)                         N(0, 0.02²)   not 0
``gaussian_a_over_r``  N(0, 1/r²)                          0             0
``gaussian_ab_over_r`` N(0, 1/r²)                          N(0, 1/r²)    not 0
=====================  ==================================  ============  ======================

An ``Embedding`` has its own ``released``: A is 0 and B is N(0, 1), so that A stays 0 for tokens that never occur.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType

from torch import Tensor, nn

# The paper names no deviation; 0.02 is that of the code with which its GPT-2 numbers were made, and GPT-2's own.
PAPER_STD = 0.02

Initializer = Callable[[Tensor, Tensor, int], None]
"""Fills ``(lora_A, lora_B)`` in place, given the rank r of one block."""


def released(lora_A: Tensor, lora_B: Tensor, r: int) -> None:
    """A as ``nn.Linear`` draws its weight, U(±1/sqrt(in)) with in = A's columns; B zero. Draws A only."""
    nn.init.kaiming_uniform_(lora_A, a=math.sqrt(5))
    nn.init.zeros_(lora_B)


def released_embedding(lora_A: Tensor, lora_B: Tensor, r: int) -> None:
    """A zero and B standard normal: the released choice for ``Embedding`` alone. Draws B only."""
    nn.init.zeros_(lora_A)
    nn.init.normal_(lora_B)


def paper(lora_A: Tensor, lora_B: Tensor, r: int) -> None:
    """A Gaussian and B zero, as Section 4.1 says; standard deviation 0.02 (see ``PAPER_STD``)."""
    nn.init.normal_(lora_A, std=PAPER_STD)
    nn.init.zeros_(lora_B)


def paper_era(lora_A: Tensor, lora_B: Tensor, r: int) -> None:
    """Both factors N(0, 0.02²): what the GPT-2 code of the paper's time really starts from. The update is not zero."""
    nn.init.normal_(lora_A, std=PAPER_STD)
    nn.init.normal_(lora_B, std=PAPER_STD)


def gaussian_a_over_r(lora_A: Tensor, lora_B: Tensor, r: int) -> None:
    """A ~ N(0, 1) / r, that is standard deviation 1/r; B zero."""
    nn.init.normal_(lora_A, std=1 / r)
    nn.init.zeros_(lora_B)


def gaussian_ab_over_r(lora_A: Tensor, lora_B: Tensor, r: int) -> None:
    """A and B both ~ N(0, 1) / r. The update is not zero."""
    nn.init.normal_(lora_A, std=1 / r)
    nn.init.normal_(lora_B, std=1 / r)


INITIALIZERS: Mapping[str, Initializer] = MappingProxyType(
    {
        "released": released,
        "paper": paper,
        "paper_era": paper_era,
        "gaussian_a_over_r": gaussian_a_over_r,
        "gaussian_ab_over_r": gaussian_ab_over_r,
    }
)
EMBEDDING_INITIALIZERS: Mapping[str, Initializer] = MappingProxyType({**INITIALIZERS, "released": released_embedding})
