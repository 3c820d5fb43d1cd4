"""What training is for: a task makes batches and their loss, and evaluates to one figure that decides which is best.

The loop, the best checkpoint, early stopping, logs and resuming know a task by this interface alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from train.distributed import Process


class Batch(Protocol):
    """Examples for the loss."""

    @property
    def weight(self) -> Tensor:
        """Scalar on the CPU: how much the loss of these examples counts, such as their number of tokens."""
        ...

    def to(self, device: torch.device) -> Batch:
        """The same batch on a device; from pinned memory the copy does not wait."""
        ...

    def pinned(self) -> Batch:
        """The same batch in memory that a GPU copies from by itself."""
        ...


@dataclass(frozen=True)
class Evaluation:
    """What an evaluation finds: ``primary`` decides which checkpoint is best, ``figures`` go to ``log.jsonl``."""

    primary: float
    figures: dict[str, float] = field(default_factory=dict)


class Task(Protocol):
    """A model with its data."""

    @property
    def model(self) -> nn.Module:
        """Its parameters that require gradients are trained."""
        ...

    @property
    def higher_is_better(self) -> bool:
        """The direction of ``Evaluation.primary``."""
        ...

    @property
    def n_rows(self) -> int:
        """Examples of the training data."""
        ...

    @property
    def lengths(self) -> Sequence[int]:
        """Of each training example, what a batch is padded to the highest of."""
        ...

    def batch(self, rows: Sequence[int]) -> Any:
        """The training examples of these numbers, as a ``Batch``; the same object that ``loss`` gets, once moved."""
        ...

    def loss(self, batch: Any, weight: Tensor) -> Tensor:
        """Scalar: the sum of the losses of the batch over ``weight``, that of the batches of all processes."""
        ...

    def evaluate(self, process: Process, autocast: torch.autocast) -> Evaluation:
        """On held-out data, the same on all processes; leaves the model's mode and the random state as they are."""
        ...

    def describe_loss(self, average: float) -> str:
        """What a line of the log says of a training loss beyond its number."""
        ...

    def describe(self, found: Evaluation, best: float) -> str:
        """An evaluation as a line of the log has it; ``best`` is the best primary figure of the epoch."""
        ...

    def save(self, path: Path, step: int, *, complete: bool) -> None:
        """Writes a checkpoint, atomically: what trains, or everything."""
        ...
