"""Loss on held-out rows: the released figure, a mean over batches, and the mean over tokens beside it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from gpt2.losses import DENOMINATOR_EPSILON
from gpt2.model import GPT2LMModel

from train.data import FT_Dataset
from train.distributed import Process, all_reduce_sum
from train.sampler import global_batches, shard

SHOW_EVERY = 100  # batches between two printed losses


@dataclass(frozen=True)
class Validation:
    """Losses in nats per token.

    Attributes:
        loss: mean over batches of the mean over a batch's tokens; the figure of the released code.
        token_loss: mean over all tokens; does not depend on the batch size.
    """

    loss: float
    token_loss: float

    @property
    def ppl(self) -> float:
        return perplexity(self.loss)


def perplexity(loss: float) -> float:
    """exp(loss), infinite where that is no float."""
    try:
        return math.exp(loss)
    except OverflowError:
        return math.inf


@torch.no_grad()
def evaluate(
    model: GPT2LMModel, data: FT_Dataset, process: Process, *, batch_size: int, seed: int, autocast: torch.autocast
) -> Validation:
    """Losses over every row once, without smoothing and dropout; prints those of some batches, as released.

    Several processes share each batch of ``world * batch_size`` rows and arrive at the figure of one process with that
    batch size. Unlike in the released code, rows that fill up the last batch do not count.

    Args:
        model: left in the mode that it came in.
        seed: of the order, that is of which rows share a batch.
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
            loss = model.loss(batch.input, batch.target, batch.mask)
        sums[i, 0] = loss * (tokens + DENOMINATOR_EPSILON)
        sums[i, 1] = tokens
    model.train(was_training)
    all_reduce_sum(sums, process)
    means = sums[:, 0] / (sums[:, 1] + DENOMINATOR_EPSILON)
    total, tokens = sums.sum(dim=0).tolist()
    validation = Validation(means.mean().item(), total / max(tokens, 1.0))
    for i, mean in enumerate(means.float().cpu()):
        if i % SHOW_EVERY == 0:
            print(f"eval samples: {i} loss: {mean!r}")
    print(f"average loss {validation.loss}")
    print(f"average loss per token {validation.token_loss}", flush=True)
    return validation
