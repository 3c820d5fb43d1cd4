"""What a search costs, counted: products of the model's weights, and bytes of the cache."""

from __future__ import annotations

import pytest
import torch
from generation.search import BeamSettings, Search
from harness.costs import counted_flops
from torch.utils.flop_counter import FlopCounterMode

from tests.nlg.beam.helpers import random_model

PROMPTS = [[1, 2, 3], [4, 5, 6], [7, 8, 9], [1, 3, 5]]
L, C, V, K = 2, 16, 11, 4  # of ``random_model``, and the beam
ROW = 2 * L * 12 * C * C  # FLOPs of one token in the blocks: 3 + 1 + 4 + 4 matrices of C x C
HEAD = 2 * C * V  # of its logits


def weight_flops(search: Search) -> tuple[int, list[int]]:
    """FLOPs of products with weights, attention left out, and the number of prompts after each choice of tokens."""
    sizes: list[int] = []
    search.trace = lambda step, scores, tokens: sizes.append(len(scores))
    with FlopCounterMode(display=False) as counter:
        assert len(list(search)) == len(search.prompts)
    counts = counter.get_flop_counts()["Global"]
    return sum(n for operator, n in counts.items() if "attention" not in str(operator)), sizes


@pytest.fixture(params=[True, False], ids=["packed", "as stored"])
def packing(request, monkeypatch):
    if not request.param:
        monkeypatch.setattr("generation.projection.can_pack", lambda weight: False)


@pytest.mark.usefixtures("packing")
def test_a_prompt_is_computed_once_and_not_once_a_hypothesis():
    search = BeamSettings(beam=K, eval_len=1, eos_token_ids=())
    flops, _ = weight_flops(Search(random_model(0), PROMPTS, search, batch_size=4))
    assert flops == 4 * (3 * ROW + HEAD)  # logits at the last position only


@pytest.mark.slow
@pytest.mark.usefixtures("packing")
@pytest.mark.parametrize("batch_size", [1, 2, 4])
def test_a_step_costs_one_token_a_hypothesis(batch_size):
    search = BeamSettings(beam=K, eval_len=6, eos_token_ids=())
    flops, _ = weight_flops(Search(random_model(0), PROMPTS, search, batch_size=batch_size))
    assert flops == 4 * (3 * ROW + HEAD + 5 * K * (ROW + HEAD))


@pytest.mark.slow
def test_nothing_is_computed_for_a_prompt_that_is_finished():
    stopped = 0
    for seed in range(8):
        search = BeamSettings(beam=K, eval_len=12, eos_token_ids=(0, 4, 7))
        flops, sizes = weight_flops(Search(random_model(seed), PROMPTS, search, batch_size=4))
        steps = sum(sizes[1:])  # the first choice follows from the prompts
        assert flops == 4 * (3 * ROW + HEAD) + steps * K * (ROW + HEAD)
        stopped += 4 * 11 - steps
    assert stopped > 0


def test_the_counter_knows_both_ways_to_multiply(monkeypatch):
    def count() -> int:
        search = Search(random_model(0), PROMPTS, BeamSettings(beam=K, eval_len=4, eos_token_ids=()), batch_size=4)
        return counted_flops(lambda: list(search))

    packed = count()
    monkeypatch.setattr("generation.projection.can_pack", lambda weight: False)
    assert count() == packed


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_cache_grows_with_the_tree_of_hypotheses_and_not_with_beam_times_steps(dtype):
    for seed in range(5):
        model = random_model(seed).to(dtype)
        search = Search(model, PROMPTS, BeamSettings(beam=K, eval_len=28, eos_token_ids=()), batch_size=4)
        list(search)
        columns = search.cache.columns
        assert search.cache.store.untyped_storage().nbytes() == L * 4 * columns * 2 * C * dtype.itemsize
        assert columns < 3 + 27 * K  # one column for every token of every step would be 3 + 27 * K


def test_fixed_sizes_have_room_for_every_token_of_every_hypothesis():
    search = Search(
        random_model(0), PROMPTS, BeamSettings(beam=K, eval_len=10, eos_token_ids=()), batch_size=2, static=True
    )
    list(search)
    assert search.cache.columns == 40  # 3 + 9 * 4 = 39, rounded up to a multiple of 8
    assert search.cache.store.nbytes == L * 2 * 40 * 2 * C * 4
