"""Which rows form which batch: one order per seed and epoch, whatever the number of processes."""

from __future__ import annotations

import random
from collections.abc import Sequence

import torch

FILLER_SEED = 911  # of the released code
WINDOW = 100  # batches among which rows of near length are put together


def num_batches(n_rows: int, global_batch_size: int) -> int:
    """Batches of an epoch; the last one is filled up."""
    return -(-n_rows // global_batch_size)


def global_batches(
    n_rows: int, global_batch_size: int, *, seed: int, epoch: int, fillers: bool = True
) -> list[list[int]]:
    """Row numbers of every batch of an epoch, for all processes together.

    The rows are counted up to whole batches and permuted as torch's ``DistributedSampler`` does: ``randperm`` from a
    generator seeded ``seed + epoch``. Positions beyond the file are filler rows. The released code draws them from one
    generator whose state runs on from epoch to epoch; here the draws of the earlier epochs are repeated, so that any
    epoch can be asked for, in any order, and a resumed run sees what an uninterrupted one sees.

    Args:
        n_rows: rows in the file.
        global_batch_size: processes x batch size of one process.
        seed: ``--random_seed`` of training, 0 in decoding.
        epoch: from 1 in training; 0 for evaluation and decoding.
        fillers: put drawn rows into the positions beyond the file. Without, those positions are left out and the
            batches concerned are smaller (never empty): evaluation and decoding see each row exactly once.

    Returns:
        ``num_batches`` lists of ``global_batch_size`` row numbers each (fewer without ``fillers``).
    """
    if n_rows < 1 or global_batch_size < 1:
        raise ValueError(f"n_rows={n_rows} and global_batch_size={global_batch_size} must be at least 1")
    if fillers and epoch < 1:
        raise ValueError(f"epochs with filler rows are counted from 1, got epoch={epoch}")
    length = num_batches(n_rows, global_batch_size) * global_batch_size
    order = torch.randperm(length, generator=torch.Generator().manual_seed(seed + epoch)).tolist()
    drawn = iter(_filler_rows(n_rows, length - n_rows, epoch) if fillers else ())
    batches = [order[start : start + global_batch_size] for start in range(0, length, global_batch_size)]
    if not fillers:
        return [[row for row in batch if row < n_rows] for batch in batches]
    return [[row if row < n_rows else next(drawn) for row in batch] for batch in batches]


def bucketed_batches(
    lengths: Sequence[int], global_batch_size: int, *, seed: int, epoch: int, window: int = WINDOW
) -> list[list[int]]:
    """Batches of rows of near length, so that little is padded; other batches than those of ``global_batches``.

    The rows of each ``window`` batches of ``global_batches`` are sorted by length and cut into batches again, so that a
    batch still is a random choice among rows of its length; then the batches of the epoch are shuffled, so that lengths
    follow each other at random. All draws come from seed and epoch: the result does not depend on the number of
    processes that share a global batch, and a resumed run finds where it stood.

    Args:
        lengths: of each row, what a batch is padded to the highest of.
        global_batch_size, seed, epoch: see ``global_batches``.
        window: batches, at least 1.

    Returns:
        As many batches of the same rows, fillers included, as ``global_batches``.
    """
    if window < 1:
        raise ValueError(f"window={window} must be at least 1")
    batches = global_batches(len(lengths), global_batch_size, seed=seed, epoch=epoch)
    sorted_batches: list[list[int]] = []
    for start in range(0, len(batches), window):
        rows = sorted((row for batch in batches[start : start + window] for row in batch), key=lengths.__getitem__)
        sorted_batches += [rows[i : i + global_batch_size] for i in range(0, len(rows), global_batch_size)]
    random.Random(f"{seed} {epoch}").shuffle(sorted_batches)
    return sorted_batches


def shard(batch: Sequence[int], rank: int, world: int) -> list[int]:
    """The part of a global batch that process ``rank`` of ``world`` takes: every ``world``-th row.

    Equal to the j-th batch that a ``DistributedSampler`` gives that process. Parts are equally long if the batch is
    full; otherwise the last ranks get one row less, possibly none.
    """
    if not 0 <= rank < world:
        raise ValueError(f"rank={rank} is not one of {world} processes")
    return list(batch[rank::world])


def _filler_rows(n_rows: int, count: int, epoch: int) -> list[int]:
    """Fillers of one epoch, in order of use: draws ``(epoch - 1) * count`` and following of the one generator."""
    generator = random.Random(FILLER_SEED)
    drawn = [generator.randint(0, n_rows - 1) for _ in range(epoch * count)]
    return drawn[(epoch - 1) * count :]
