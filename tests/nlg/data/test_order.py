"""The order of rows: the released one, the same for any number of processes, and replayable from any epoch."""

from __future__ import annotations

import json
import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader, Dataset, DistributedSampler
from train.sampler import FILLER_SEED, global_batches, num_batches, shard

from tests.shared_data import GOLDEN

GOLDEN_DATASET = json.loads((GOLDEN / "nlg" / "ft_dataset.json").read_text(encoding="utf-8"))
TRAIN_RUNS = json.loads((GOLDEN / "nlg" / "train_runs.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize(("name", "expected"), GOLDEN_DATASET["sampler_orders"].items())
def test_orders_are_those_of_the_released_sampler(name, expected):
    numbers = {key: int(value) for key, value in (pair.split("=") for pair in name.split())}
    n_rows, world = numbers["len"], numbers["world"]
    batches = global_batches(n_rows, 4 * world, seed=numbers["seed"], epoch=numbers["epoch"], fillers=False)
    if n_rows % (4 * world):  # the sampler counts up to the world and repeats; we count up to batches and drop
        batches = global_batches(n_rows, n_rows, seed=numbers["seed"], epoch=numbers["epoch"], fillers=False)
        expected = expected[: len(range(numbers["rank"], n_rows, world))]
    assert [row for batch in batches for row in shard(batch, numbers["rank"], world)] == expected


@pytest.mark.parametrize("run", TRAIN_RUNS, ids=lambda run: run["name"])
def test_training_sees_the_rows_that_the_released_loop_saw(run):
    for epoch in (1, 2):
        expected = [step["ids"] for step in run["log"] if step["epoch"] == epoch]
        assert global_batches(24, run["batch_size"], seed=run["seed"], epoch=epoch) == expected


class ReleasedFillers(Dataset):
    """Row numbers as the released data set has them: those behind the file are drawn at each access."""

    def __init__(self, n_rows, length):
        self.n_rows, self.length, self.random = n_rows, length, random.Random(FILLER_SEED)

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        return index if index < self.n_rows else self.random.randint(0, self.n_rows - 1)


def test_fillers_of_a_long_file_are_the_released_ones():
    golden = GOLDEN_DATASET["filler"]
    dataset = ReleasedFillers(golden["num_examples"], golden["len"])
    ids = [dataset[index] for index in range(golden["num_examples"], golden["len"])]
    assert ids == golden["ids_when_read_in_order"]


@pytest.mark.parametrize(("n_rows", "size"), [(1, 1), (1, 3), (7, 3), (8, 3), (9, 3), (10, 3)])
def test_fillers_run_on_from_epoch_to_epoch_as_in_one_torch_loader(n_rows, size):
    dataset = ReleasedFillers(n_rows, num_batches(n_rows, size) * size)
    sampler: DistributedSampler = DistributedSampler(dataset, num_replicas=1, rank=0, seed=110)
    loader: DataLoader = DataLoader(dataset, batch_size=size, sampler=sampler, drop_last=True)
    for epoch in (1, 2, 3, 4):
        sampler.set_epoch(epoch)
        expected = [batch.tolist() for batch in loader]
        assert global_batches(n_rows, size, seed=110, epoch=epoch) == expected


SIZES = {
    "n_rows": st.integers(1, 40),
    "world": st.integers(1, 4),
    "size": st.integers(1, 5),
    "epoch": st.integers(1, 5),
}


@settings(max_examples=100, deadline=None)
@given(**SIZES)
def test_every_process_count_makes_the_same_batches(n_rows, world, size, epoch):
    batches = global_batches(n_rows, world * size, seed=3, epoch=epoch)
    assert len(batches) == num_batches(n_rows, world * size)
    order = [row for batch in batches for row in batch]
    for rank in range(world):
        every_worldth = order[rank::world]  # what a sampler hands to this process
        parts = [shard(batch, rank, world) for batch in batches]
        assert parts == [every_worldth[start : start + size] for start in range(0, len(every_worldth), size)]
    assert set(order) == set(range(n_rows))


@settings(max_examples=100, deadline=None)
@given(**SIZES)
def test_evaluation_sees_each_row_once(n_rows, world, size, epoch):
    batches = global_batches(n_rows, world * size, seed=3, epoch=epoch - 1, fillers=False)
    assert len(batches) == num_batches(n_rows, world * size) and all(batches)
    seen = [row for batch in batches for rank in range(world) for row in shard(batch, rank, world)]
    assert sorted(seen) == list(range(n_rows))


def test_asking_leaves_the_global_generators_alone():
    torch.manual_seed(1)
    random.seed(1)
    states = torch.get_rng_state(), random.getstate()
    global_batches(7, 3, seed=1, epoch=3)
    assert torch.equal(torch.get_rng_state(), states[0]) and random.getstate() == states[1]


def test_epochs_and_seeds_differ():
    orders = {str(global_batches(50, 5, seed=seed, epoch=epoch)) for seed, epoch in [(1, 1), (1, 2), (5, 1)]}
    assert len(orders) == 3


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"n_rows": 0, "global_batch_size": 2, "epoch": 1}, "n_rows=0"),
        ({"n_rows": 2, "global_batch_size": 0, "epoch": 1}, "global_batch_size=0"),
        ({"n_rows": 2, "global_batch_size": 2, "epoch": 0}, "counted from 1, got epoch=0"),
    ],
)
def test_impossible_sizes_are_refused(kwargs, message):
    with pytest.raises(ValueError, match=message):
        global_batches(**kwargs, seed=1)


@pytest.mark.parametrize("rank", [-1, 2])
def test_a_rank_outside_the_world_is_refused(rank):
    with pytest.raises(ValueError, match=f"rank={rank} is not one of 2 processes"):
        shard([1, 2, 3], rank, 2)
