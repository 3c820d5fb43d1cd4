"""Language modelling as a task: cross-entropy of the tokens that the mask counts, and its mean on held-out rows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import torch
from gpt2.checkpoint import BaseFile, save_full, save_trained
from gpt2.losses import DENOMINATOR_EPSILON
from gpt2.model import GPT2LMModel
from torch import Tensor

from train.data import Batch, FT_Dataset
from train.distributed import Process, all_reduce_sum
from train.sampler import global_batches, shard
from train.task import Evaluation

SHOW_EVERY = 100  # batches between two printed losses


class LanguageModelling:
    """GPT-2 learns to continue texts; implements ``task.Task``.

    Args:
        method: of ``trainable.METHODS``; what checkpoints hold.
        base: the pretrained file, recorded in them.
        label_smooth: of the training loss, see ``losses.token_losses``.
        valid_batch_size: rows per process.
        seed: of the order of validation, that is of which rows share a batch.
    """

    higher_is_better = False

    def __init__(
        self,
        model: GPT2LMModel,
        train_data: FT_Dataset,
        valid_data: FT_Dataset,
        *,
        method: str,
        base: BaseFile | None = None,
        label_smooth: float = 0.0,
        valid_batch_size: int = 4,
        seed: int = 0,
    ) -> None:
        self.model = model
        self.train_data, self.valid_data = train_data, valid_data
        self.n_rows = train_data.n_rows
        self.method, self.base = method, base
        self.label_smooth = label_smooth
        self.valid_batch_size, self.seed = valid_batch_size, seed

    @property
    def lengths(self) -> list[int]:
        return self.train_data.lengths

    def batch(self, rows: Sequence[int]) -> Batch:
        return self.train_data.batch(rows)

    def loss(self, batch: Batch, weight: Tensor) -> Tensor:
        return self.model.loss(batch.input, batch.target, batch.mask, self.label_smooth, weight, batch.counted)

    def evaluate(self, process: Process, autocast: torch.autocast) -> Evaluation:
        """The primary figure is ``valid_loss``, see ``evaluate``."""
        size = self.valid_batch_size
        return evaluate(self.model, self.valid_data, process, batch_size=size, seed=self.seed, autocast=autocast)

    def describe_loss(self, average: float) -> str:
        return f"ppl {perplexity(average):5.2f}"

    def describe(self, found: Evaluation, best: float) -> str:
        ppl = perplexity(found.primary)
        return f"valid loss {found.primary:5.2f} | valid ppl {ppl:5.2f} | best ppl {perplexity(best):5.2f} "

    def save(self, path: Path, step: int, *, complete: bool) -> None:
        """Without a part to save alone, every checkpoint is complete."""
        save = save_full if complete or self.method == "full" else save_trained
        save(path, self.model, self.base, step, self.method)


def perplexity(loss: float) -> float:
    """exp(loss), infinite where that is no float."""
    try:
        return math.exp(loss)
    except OverflowError:
        return math.inf


@torch.no_grad()
def evaluate(
    model: GPT2LMModel, data: FT_Dataset, process: Process, *, batch_size: int, seed: int, autocast: torch.autocast
) -> Evaluation:
    """Losses over every row once, without smoothing and dropout; prints those of some batches, as released.

    Several processes share each batch of ``world * batch_size`` rows and arrive at the figure of one process with that
    batch size. Unlike in the released code, rows that fill up the last batch do not count.

    Args:
        model: left in the mode that it came in.
        seed: of the order, that is of which rows share a batch.

    Returns:
        Nats per token: ``valid_loss``, the mean over batches of the mean over a batch's tokens, which is the figure of
        the released code, and ``valid_token_loss``, the mean over all tokens, which no batch size changes.
    """
    was_training = model.training
    model.eval()
    batches = global_batches(data.n_rows, process.world * batch_size, seed=seed, epoch=0, fillers=False)
    sums = torch.zeros(len(batches), 2, dtype=torch.float64, device=process.device)  # loss and tokens of each batch
    for i, rows in enumerate(batches):
        own = shard(rows, process.rank, process.world)
        if not own:  # the last batch may have fewer rows than there are processes
            continue
        batch = data.batch(own).to(process.device)
        tokens = batch.mask.sum()
        with autocast:
            mean = model.loss(batch.input, batch.target, batch.mask)
        sums[i, 0] = mean * (tokens + DENOMINATOR_EPSILON)
        sums[i, 1] = tokens
    model.train(was_training)
    all_reduce_sum(sums, process)
    means = sums[:, 0] / (sums[:, 1] + DENOMINATOR_EPSILON)
    total, n_tokens = sums.sum(dim=0).tolist()
    loss, token_loss = means.mean().item(), total / max(n_tokens, 1.0)
    for i, mean in enumerate(means.float().cpu()):
        if i % SHOW_EVERY == 0:
            print(f"eval samples: {i} loss: {mean!r}")
    print(f"average loss {loss}")
    print(f"average loss per token {token_loss}", flush=True)
    return Evaluation(loss, {"valid_loss": loss, "valid_token_loss": token_loss})
