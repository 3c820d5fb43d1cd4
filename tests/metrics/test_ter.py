"""TER: the doubles of pyter3 on random word lists, and edge sizes."""

from __future__ import annotations

import random

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from metrics.ter import item_ter, ter

from examples.common.errors import UserError

words = st.sampled_from(["the", "pub", "serves", "cheap", "food", "river", "."])
texts = st.lists(words, max_size=12)
filled_texts = st.lists(words, min_size=1, max_size=12)


@st.composite
def moved_texts(draw):
    """A text, and the same with a few runs of words moved and a few words changed."""
    reference = draw(filled_texts)
    hypothesis = list(reference)
    for _ in range(draw(st.integers(0, 4))):
        i = draw(st.integers(0, len(hypothesis) - 1))
        j = draw(st.integers(i, len(hypothesis)))
        run, rest = hypothesis[i:j], hypothesis[:i] + hypothesis[j:]
        to = draw(st.integers(0, len(rest)))
        hypothesis = rest[:to] + run + rest[to:]
    for _ in range(draw(st.integers(0, 2))):
        hypothesis[draw(st.integers(0, len(hypothesis) - 1))] = draw(words)
    return hypothesis, reference


def random_texts(n, seed, n_words=40, length=70):
    """Longer than a machine word has bits, with shifts."""
    generator = random.Random(seed)
    vocabulary = [f"w{number}" for number in range(n_words)]
    for _ in range(n):
        reference = [generator.choice(vocabulary) for _ in range(generator.randint(1, length))]
        cut = generator.randrange(len(reference) + 1)
        hypothesis = reference[cut:] + reference[:cut]
        for _ in range(generator.randint(0, 5)):
            hypothesis[generator.randrange(len(hypothesis))] = generator.choice(vocabulary)
        yield hypothesis, reference


@pytest.mark.slow
@settings(max_examples=300, deadline=None)
@given(st.one_of(moved_texts(), st.tuples(texts, filled_texts)))
def test_short_texts_have_the_double_of_pyter(pair):
    pyter = pytest.importorskip("pyter")
    assert ter(*pair) == pyter.ter(*pair)


@pytest.mark.slow
def test_texts_longer_than_a_machine_word_have_the_double_of_pyter():
    pyter = pytest.importorskip("pyter")
    for hypothesis, reference in random_texts(20, seed=0):
        assert ter(hypothesis, reference) == pyter.ter(hypothesis, reference)


def test_a_shift_counts_as_one_edit():
    assert ter(["b", "c", "d", "a"], ["a", "b", "c", "d"]) == 1 / 4
    assert ter(["c", "d", "a", "b"], ["a", "b", "c", "d"]) == 1 / 4


def test_the_greedy_search_stops_at_a_shift_that_lowers_nothing():
    # swapping neighbours costs one shift instead of two substitutions; a lone wrong word stays a substitution
    assert ter(["b", "a"], ["a", "b"]) == 1 / 2
    assert ter(["x", "a"], ["a"]) == 1.0
    assert ter(["a", "x"], ["a", "b"]) == 1 / 2


@pytest.mark.parametrize(
    ("hypothesis", "reference", "expected"),
    [([], ["a"], 1.0), (["a"], ["a"], 0.0), (["b"], ["a"], 1.0), (["a", "b", "c"], ["a"], 2.0), ([], list("abc"), 1.0)],
)
def test_edge_sizes(hypothesis, reference, expected):
    assert ter(hypothesis, reference) == expected


def test_an_empty_reference_is_refused_for_a_pair_and_is_a_ceiling_for_an_item():
    with pytest.raises(ValueError, match="empty"):
        ter(["a"], [])
    assert item_ter(["x", "y", "z"], [["a"], []]) == 1.0
    assert item_ter(["a"], [["a"], []]) == 0.0
    assert item_ter(["x", "y", "z"], [["a"]]) == 3.0
    assert item_ter([], [[]]) == 1.0


@pytest.mark.slow
@settings(max_examples=200, deadline=None)
@given(texts, st.lists(texts, min_size=1, max_size=5))
@example(["a", "b"], [["b", "a"], ["b", "a"], ["a", "b", "c"]])
def test_an_item_has_the_lowest_ter_over_its_references(hypothesis, references):
    expected = min(ter(hypothesis, reference) if reference else 1.0 for reference in references)
    assert item_ter(hypothesis, references) == expected
    assert item_ter(hypothesis, [*references, references[0]]) == expected
    assert item_ter(hypothesis, references[::-1]) == expected


@settings(max_examples=100, deadline=None)
@given(texts, filled_texts)
def test_ter_does_not_depend_on_names_that_keep_the_order_of_words(hypothesis, reference):
    def renamed(text):
        return [f"{word}{word}" for word in text]  # "." < "cheap" < ...: doubling keeps the order

    assert ter(renamed(hypothesis), renamed(reference)) == ter(hypothesis, reference)


def test_pyter_gives_the_same_doubles():
    pyter = pytest.importorskip("pyter")
    for hypothesis, reference in random_texts(12, seed=3, length=15):
        assert item_ter(hypothesis, [reference]) == pyter.ter(hypothesis, reference)


def test_a_search_that_would_take_long_is_refused(monkeypatch):
    monkeypatch.setattr("metrics.ter.MOST_STEPS", 5_000)  # the four turns of this pair count 11,200
    with pytest.raises(UserError, match=r"takes too long"):
        ter(["a", "b"] * 10, [*["b", "c", "a"] * 7])


def test_a_line_of_2000_words_is_refused_at_once():
    with pytest.raises(UserError, match="TER of a hypothesis of 2000 words against a reference of 2000, with 1334000"):
        ter(["a", "b"] * 1000, [*["b", "c", "a"] * 666, "b", "a"])
    assert ter(["a", "b"] * 1000, ["a", "b"] * 1000) == 0.0
