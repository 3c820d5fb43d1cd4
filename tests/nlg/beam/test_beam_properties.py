"""What holds for any weights: a slow search agrees, and batching, order, padding and early stops change nothing."""

from __future__ import annotations

import dataclasses
import itertools
import math

import pytest
import torch
from generation.cache import BeamCache
from generation.decoding_model import DecodingModel
from generation.reference import reference_search
from generation.search import BeamSettings, Search
from generation.state import OF_A_PROMPT, BeamState, NoContinuation
from hypothesis import given
from hypothesis import settings as given_settings
from hypothesis import strategies as st

from tests.nlg.beam.helpers import beam_search, random_model

PROMPTS = [[1, 2, 3], [4], [5, 6, 7, 8, 9], [3, 3], [0, 10, 0, 10]]
ANY_PENALTY = [-1.5, -0.3, 0.0, 0.8, 1.0, 2.5]

searches = st.builds(
    BeamSettings,
    beam=st.integers(1, 6),
    eval_len=st.integers(1, 9),
    length_penalty=st.sampled_from(ANY_PENALTY),
    no_repeat_ngram_size=st.integers(0, 4),
    repetition_penalty=st.sampled_from([1.0, 1.3, 0.8]),
    min_length=st.integers(0, 4),
    eos_token_ids=st.sampled_from([(0,), (3, 7), (50256, 2), ()]),
)


def assert_same(found, expected):
    assert [h.tokens for h in found] == [h.tokens for h in expected]
    assert [h.score for h in found] == pytest.approx([h.score for h in expected], rel=1e-5, abs=1e-4)


def search_together(model, search):
    return beam_search(model, PROMPTS, search, batch_size=len(PROMPTS))


def search_with_sizes(model, search):
    """Results for ``PROMPTS``, and how many of them were still in the batch at each step."""
    sizes = []
    trace = lambda step, scores, tokens: sizes.append(len(scores))  # noqa: E731
    return beam_search(model, PROMPTS, search, batch_size=len(PROMPTS), trace=trace), sizes


@pytest.mark.slow
@given(searches, st.integers(0, 10**6), st.integers(1, 5))
@given_settings(max_examples=60, deadline=None, derandomize=True)
def test_a_search_that_recomputes_everything_finds_the_same(search, seed, batch_size):
    model = random_model(seed)
    found = beam_search(model, PROMPTS, search, batch_size=batch_size)
    for prompt, hypothesis in zip(PROMPTS, found):
        expected = reference_search(model, prompt, search)
        assert hypothesis.tokens == expected.tokens
        assert hypothesis.score == pytest.approx(expected.score, rel=1e-5, abs=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("length_penalty", ANY_PENALTY)
def test_stopping_early_changes_no_result(length_penalty):
    saved = 0
    for seed, beam in itertools.product(range(12), (1, 3, 5)):
        model = random_model(seed)
        search = BeamSettings(beam=beam, eval_len=16, length_penalty=length_penalty, eos_token_ids=(0, 4, 7))
        whole = beam_search(model, PROMPTS, dataclasses.replace(search, early_stop=False), batch_size=5)
        early, sizes = search_with_sizes(model, search)
        assert_same(early, whole)
        saved += 16 * len(PROMPTS) - sum(sizes)
    assert saved > 0  # the test would say nothing if no prompt ever left early


@pytest.mark.slow
def test_prompts_that_are_finished_leave_the_batch_in_any_order():
    seen = set()
    for seed in range(20):
        model = random_model(seed)
        search = BeamSettings(beam=2, eval_len=12, eos_token_ids=(0, 4, 7))
        found, sizes = search_with_sizes(model, search)
        assert sizes == sorted(sizes, reverse=True)
        seen.update(sizes)
        assert_same(found, beam_search(model, PROMPTS, search))
    assert seen == {5, 4, 3, 2, 1}


@pytest.mark.parametrize("device_check", [1, 3, 4, 100])
def test_how_often_finished_prompts_are_looked_for_changes_no_result(monkeypatch, device_check):
    model = random_model(3)
    search = BeamSettings(beam=3, eval_len=12, eos_token_ids=(0, 4))
    expected = search_together(model, search)
    monkeypatch.setattr("generation.search.STEPS_BETWEEN_CHECKS", {"cpu": device_check})
    assert_same(search_together(model, search), expected)


def test_a_beam_of_1_is_greedy():
    for seed in range(5):
        model = random_model(seed)
        search = BeamSettings(beam=1, eval_len=10, no_repeat_ngram_size=0, eos_token_ids=(0,))
        tokens = [1, 2, 3]
        with torch.no_grad():
            while len(tokens) < 13 and tokens[-1] != 0:
                tokens.append(int(model(torch.tensor([tokens]))[0][0, -1].argmax()))
        assert beam_search(model, [[1, 2, 3]], search)[0].tokens == tokens[3:]


@pytest.mark.slow
@given(st.integers(0, 10**6), st.permutations(range(len(PROMPTS))))
@given_settings(max_examples=15, deadline=None, derandomize=True)
def test_order_and_repeats_of_prompts_do_not_matter(seed, order):
    model = random_model(seed)
    search = BeamSettings(beam=3, eval_len=8, eos_token_ids=(0,))
    once = beam_search(model, PROMPTS, search, batch_size=3)
    doubled = [PROMPTS[i] for i in order] * 2
    assert_same(beam_search(model, doubled, search, batch_size=2), [once[i] for i in order] * 2)


@pytest.mark.slow
@pytest.mark.parametrize("static", [True, False])
@pytest.mark.parametrize("batch_size", [1, 2, 3, 5, 100])
def test_the_size_of_the_batch_and_fixed_sizes_change_no_result(batch_size, static):
    for seed in range(4):
        model = random_model(seed)
        search = BeamSettings(beam=3, eval_len=10, min_length=2, repetition_penalty=1.2, eos_token_ids=(0, 4, 7))
        found = dict(Search(model, PROMPTS, search, batch_size=batch_size, static=static))
        assert_same([found[number] for number in range(len(PROMPTS))], beam_search(model, PROMPTS, search))


def test_with_fixed_sizes_nothing_that_a_step_uses_moves_or_changes_its_shape():
    """What a CUDA graph relies on: every step reads and writes the same memory."""
    seen = set()

    def trace(step, scores, tokens):
        if step > 1:  # the first tokens follow from the prompts
            cache, state = search.cache, search.state
            tensors = [cache.store, cache.mask, cache.new, *(getattr(state, name) for name in ("step", *OF_A_PROMPT))]
            seen.add(tuple((tensor.data_ptr(), tuple(tensor.shape)) for tensor in tensors))
            assert cache.end == cache.columns

    settings = BeamSettings(beam=3, eval_len=8, eos_token_ids=(0, 4))
    search = Search(random_model(1), PROMPTS, settings, batch_size=5, static=True, trace=trace)
    assert len(list(search)) == 5 and search.steps > 1
    assert len(seen) == 1


def test_without_packed_weights_the_results_are_the_same(monkeypatch):
    search = BeamSettings(beam=3, eval_len=10, eos_token_ids=(0, 4))
    packed = search_together(random_model(2), search)
    monkeypatch.setattr("generation.projection.can_pack", lambda weight: False)
    assert_same(search_together(random_model(2), search), packed)


@pytest.mark.parametrize("n", [1, 2, 3, 4])
def test_no_n_gram_occurs_twice(n):
    for seed in range(6):
        search = BeamSettings(beam=3, eval_len=10, no_repeat_ngram_size=n, eos_token_ids=())
        for hypothesis in beam_search(random_model(seed), PROMPTS, search, batch_size=5):
            n_grams = [tuple(hypothesis.tokens[i : i + n]) for i in range(len(hypothesis.tokens) - n + 1)]
            assert len(set(n_grams)) == len(n_grams)


@pytest.mark.parametrize("min_length", [0, 1, 4])
def test_no_hypothesis_ends_within_min_length(min_length):
    lengths = []
    for seed in range(10):
        search = BeamSettings(beam=2, eval_len=8, min_length=min_length, eos_token_ids=(0, 1, 2, 3, 50256))
        lengths += [len(h.tokens) for h in beam_search(random_model(seed), PROMPTS, search, batch_size=5)]
    assert min(lengths) == min_length + 1


def test_the_model_is_left_as_it_was():
    model = random_model(0).train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    beam_search(model, PROMPTS, BeamSettings(beam=2, eval_len=4, eos_token_ids=(0,)), batch_size=2)
    assert not any(layer.merged for layer in model.lora_layers())
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    model(torch.tensor([[1, 2]]))[0].sum().backward()  # nothing is stuck in inference mode


def test_the_update_of_lora_takes_part():
    model = random_model(0)
    search = BeamSettings(beam=2, eval_len=6, eos_token_ids=())
    with_update = beam_search(model, PROMPTS, search)
    for layer in model.lora_layers():
        torch.nn.init.zeros_(layer.lora_B)
    assert beam_search(model, PROMPTS, search) != with_update


def test_bfloat16_weights_give_nearly_the_same_score():
    model = random_model(0, std=0.1)
    search = BeamSettings(beam=2, eval_len=4, eos_token_ids=(0,))
    exact = beam_search(model, PROMPTS, search, batch_size=5)
    rounded = beam_search(model.to(torch.bfloat16), PROMPTS, search, batch_size=5)
    assert [h.score for h in rounded] == pytest.approx([h.score for h in exact], rel=0.02)


@pytest.mark.parametrize("unusable", [{"eos_token_ids": ()}, {"eos_token_ids": (0,), "min_length": 12}])
def test_a_search_that_forbids_every_token_says_so(unusable):
    search = BeamSettings(beam=2, eval_len=12, no_repeat_ngram_size=1, **unusable)  # 11 tokens, each once
    with pytest.raises(NoContinuation, match="no continuation"):
        beam_search(random_model(0), [[1]], search)


def test_weights_that_are_not_finite_are_an_error():
    model = random_model(0)
    model.transformer.ln_f.weight.data.fill_(math.nan)
    with pytest.raises(NoContinuation, match="not finite"):
        beam_search(model, [[1]], BeamSettings(beam=2, eval_len=3))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"beam": 0}, "beam must be at least 1"),
        ({"eval_len": 0}, "eval_len must be at least 1"),
        ({"no_repeat_ngram_size": -1}, "no_repeat_ngram_size must be at least 0"),
        ({"min_length": -1}, "min_length must be at least 0"),
        ({"repetition_penalty": 0.0}, "repetition_penalty must be above 0"),
        ({"repetition_penalty": math.nan}, "repetition_penalty must be above 0"),
        ({"length_penalty": math.inf}, "length_penalty"),
        ({"length_penalty": math.nan}, "length_penalty"),
        ({"length_penalty": -40.0}, "too far from 0"),
    ],
)
def test_settings_that_cannot_be_searched_with_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        BeamSettings(**values)


@pytest.mark.parametrize(
    ("prompt", "values", "message"),
    [
        ([1], {"beam": 12}, "wider than the vocabulary of 11"),
        ([1] * 24, {"eval_len": 9}, "exceed the 32 positions"),
        ([], {}, "empty"),
    ],
)
def test_a_search_that_does_not_fit_the_model_is_refused(prompt, values, message):
    search = BeamSettings(**{"beam": 1, "eval_len": 8, **values})
    with pytest.raises(ValueError, match=message):
        beam_search(random_model(0), [prompt], search)


def test_the_largest_sizes_that_fit_are_searched():
    search = BeamSettings(beam=11, eval_len=8, eos_token_ids=(0,))
    assert beam_search(random_model(0), [[1] * 24], search)[0].tokens


def test_no_more_rows_pass_the_model_than_the_result_needs(monkeypatch):
    """Prompts pass once and not once a hypothesis, with logits at their last position; then one token a hypothesis."""
    model = random_model(0)
    passes, heads = [], []

    def recording(name, shapes):
        method = getattr(DecodingModel, name)

        def recorded(self, *args):
            out = method(self, *args)
            shapes.append(tuple(out.shape[:-1]))
            return out

        monkeypatch.setattr(DecodingModel, name, recorded)

    recording("hidden", passes)
    recording("logits", heads)
    beam_search(model, PROMPTS, BeamSettings(beam=4, eval_len=6, eos_token_ids=()), batch_size=5)
    assert passes == [(5, 5), *[(5, 4)] * 5]
    assert heads == [(5,), *[(5, 4)] * 5]


def test_following_the_parents_moves_no_keys_or_values_and_frees_what_nobody_sees():
    model = DecodingModel(random_model(0))
    lengths = torch.tensor([3, 1])
    cache = BeamCache(model.config, lengths, width=3, beam=2, steps=3, dtype=torch.float32)
    with torch.no_grad():
        model.hidden(torch.tensor([[1, 2, 3], [4, 0, 0]]), torch.arange(3), cache.prompt_attention())
        cache.begin_step()
        # the second prompt's padding is free from the start
        assert cache.new.tolist() == [[3, 4], [1, 2]]
        model.hidden(torch.tensor([[5, 6], [7, 8]]), lengths[:, None], cache.step_attention())
    stored = cache.store.clone()
    cache.follow(torch.tensor([[1, 1], [1, 0]]))
    assert torch.equal(cache.store, stored)
    visible = cache.mask[:, :, :5] == 0
    assert visible.int().tolist() == [[[1, 1, 1, 0, 1], [1, 1, 1, 0, 1]], [[1, 0, 1, 0, 0], [1, 1, 0, 0, 0]]]
    cache.begin_step()
    assert cache.new.tolist() == [[3, 5], [3, 4]]


def test_of_two_equally_good_hypotheses_the_one_that_ended_first_stays():
    never = -math.inf
    search = BeamSettings(beam=2, eval_len=2, length_penalty=0.0, eos_token_ids=(0,))
    state = BeamState(search, torch.tensor([1]), torch.tensor([[0.0, 0.0, never]]))  # the end, or token 1: both 1/2
    state.next_step(torch.tensor([[[0.0, never, never]] * 2]))  # then certainly the end: 1/2 again
    assert state.results([0])[0].tokens == [0]
    assert state.best_value.tolist() == pytest.approx([math.log(0.5)])
