"""BLEU and NIST: recorded numbers, agreement with sacrebleu where the definitions agree, and properties."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from metrics.bleu_nist import DEFINITIONS, corpus_bleu, corpus_nist, ngrams, sentence_bleu
from metrics.e2e import score_e2e
from metrics.e2e_files import read_references, read_system_output
from metrics.tokenizers import tokenize_13a

from tests.metrics.e2e_programs import EDGE, EDGE_HYPOTHESES, EDGE_REFERENCES, SETS, TOLERANCE
from tests.shared_data import shared_path

E2E_SETS = [name for name, recorded in SETS.items() if recorded["kind"] == "e2e"]

word = st.sampled_from(["the", "pub", "serves", "cheap", "food", "river"])
text = st.lists(word, min_size=1, max_size=9)
long_text = st.lists(word, min_size=5, max_size=9)
references_of_an_item = st.lists(text, min_size=1, max_size=3)


def corpora(hypothesis, n_references=None):
    references = st.lists(text, min_size=n_references or 1, max_size=n_references or 3)
    return st.lists(st.tuples(references, hypothesis), min_size=1, max_size=4).map(lambda items: tuple(zip(*items)))


def recorded_texts(name):
    recorded = SETS[name]
    path = recorded["hyp"].removeprefix("shared/") if recorded["hyp"].startswith("shared/") else None
    references = read_references(shared_path(f"golden/metrics/{recorded['refs']}"))
    hypotheses_path = shared_path(path or f"golden/metrics/{recorded['hyp']}")
    return references, read_system_output(hypotheses_path, n_expected=len(references))


@pytest.mark.slow
@pytest.mark.parametrize("name", E2E_SETS)
def test_bleu_and_nist_are_the_recorded_ones_and_the_printed_ones_of_the_perl_script(name):
    recorded = SETS[name]
    references, hypotheses = recorded_texts(name)
    result = score_e2e(references, hypotheses, with_java=False)
    assert (result["n"], result["n_references"], result["n_short"]) == (recorded["n"], recorded["n_refs"], 0)
    for metric in ("BLEU", "NIST"):
        assert result["scores"][metric] == pytest.approx(recorded["scores"][metric], abs=TOLERANCE)
        assert f"{result['by_definition']['perl'][metric]:.4f}" == f"{recorded['perl_4dp'][metric]:.4f}"


def test_edge_items_have_the_recorded_scores():
    result = score_e2e(EDGE_REFERENCES, EDGE_HYPOTHESES, with_java=False, with_segments=True)
    recorded = EDGE["e2e"]
    for metric in ("BLEU", "NIST"):
        assert result["scores"][metric] == pytest.approx(recorded["scores"][metric], abs=TOLERANCE)
    assert result["segments"]["BLEU"] == pytest.approx(recorded["segments"]["BLEU"], abs=TOLERANCE)
    for ours, original in zip(result["segments"]["NIST"], recorded["segments"]["NIST"]):
        if original is None:  # the original divides by zero: an order without a single n-gram
            assert math.isfinite(ours)
        else:
            assert ours == pytest.approx(original, abs=TOLERANCE)


def test_smoothed_sentence_bleu_is_the_recorded_one_except_where_that_is_above_1():
    ours = score_e2e(EDGE_REFERENCES, EDGE_HYPOTHESES, with_java=False, with_segments=True)["segments"]["sentBLEU"]
    recorded = EDGE["e2e"]["segments"]["sentBLEU_smooth1"]
    above_1 = [index for index, value in enumerate(recorded) if value > 1]
    assert [EDGE_HYPOTHESES[index] for index in above_1] == ["No", "word"]  # too short for the original's formula
    for index, (value, original) in enumerate(zip(ours, recorded)):
        assert 0 <= value <= 1
        assert index in above_1 or value == pytest.approx(original, abs=TOLERANCE)


def test_13a_tokens_are_lower_cased_after_tokenising():
    assert tokenize_13a(["Salt &amp; Pepper, 9.30 a.m. (£10-15)"]) == [
        ["salt", "&", "pepper", ",", "9.30", "a", ".", "m", ".", "(", "£10", "-", "15", ")"]
    ]
    assert tokenize_13a(["salt &AMP; pepper"]) == [["salt", "&", "amp", ";", "pepper"]]


def test_a_hypothesis_shorter_than_n_lowers_the_ngram_total():
    references = [[["a", "b", "c", "d", "e"]], [["x", "y"]]]
    # totals 5+1, 4+0, 3-1, 2-2 with matches 6, 4, 3, 2: pymteval's rule, with 1e-9 for the total of 0
    expected = math.exp(1 - 7 / 6) * (6 / 6 * 4 / 4 * 3 / 2 * 2 / 1e-9) ** 0.25
    hypotheses = [["a", "b", "c", "d", "e"], ["x"]]
    assert corpus_bleu(references, hypotheses) == pytest.approx(expected, rel=1e-12)
    # by Perl's rule it adds nothing
    expected = math.exp(1 - 7 / 6) * (6 / 6 * 4 / 4 * 3 / 3 * 2 / 2) ** 0.25
    assert corpus_bleu(references, hypotheses, definition="perl") == pytest.approx(expected, rel=1e-12)


def test_closest_reference_length_prefers_the_shorter_of_two():
    hypothesis = ["a"] * 6
    five, seven = ["a"] * 5, ["a"] * 7
    assert corpus_bleu([[seven, five]], [hypothesis]) == pytest.approx(1.0, abs=1e-15)
    assert corpus_bleu([[seven]], [hypothesis]) == pytest.approx(math.exp(1 - 7 / 6), abs=1e-15)


def test_nist_of_a_hand_made_case():
    # 4 words, all distinct: log2(4/1) = 2 bits per word, 0 bits for what follows from the word before
    assert corpus_nist([[["a", "b", "c", "d", "e"][:4]]], [["a", "b", "x", "y"]]) == pytest.approx(4 / 4)
    # two thirds of the reference length halve the score
    three, two = ["a", "b", "c"], ["a", "b"]
    full = 2 * math.log2(3) / 2
    assert corpus_nist([[three]], [two], definition="perl") == pytest.approx(full / 2, rel=1e-12)


@pytest.mark.parametrize("definition", DEFINITIONS)
def test_empty_hypotheses_score_0(definition):
    assert corpus_bleu([[["a"]], [["b"]]], [[], []], definition=definition) == 0
    assert corpus_nist([[["a"]], [["b"]]], [[], []], definition=definition) == 0
    assert sentence_bleu([["a"]], []) == 0


def test_an_unknown_definition_lists_the_known_ones():
    with pytest.raises(ValueError, match="one of python, perl, got 'ruby'"):
        corpus_nist([[["a"]]], [["a"]], definition="ruby")


@pytest.mark.slow
@given(corpora(text))
def test_bleu_by_perls_rule_equals_sacrebleu_where_every_order_matches(corpus):
    from sacrebleu.metrics import BLEU

    references, hypotheses = corpus
    # an item that is certain to match, so that few cases are thrown away
    references = (*references, [["the", "pub", "by", "the", "river"]])
    hypotheses = (*hypotheses, ["the", "pub", "by", "the", "river"])
    widest = max(map(len, references))
    streams: list[list[str]] = [
        [" ".join(texts[min(i, len(texts) - 1)]) for texts in references]  # a repeated reference changes nothing
        for i in range(widest)
    ]
    theirs = BLEU(lowercase=True, tokenize="13a", smooth_method="none", force=True).corpus_score(
        [" ".join(tokens) for tokens in hypotheses], streams
    )
    assert all(theirs.counts)
    assert corpus_bleu(references, hypotheses, definition="perl") == pytest.approx(theirs.score / 100, abs=1e-12)
    if all(len(tokens) >= 4 for tokens in hypotheses):
        assert corpus_bleu(references, hypotheses) == pytest.approx(theirs.score / 100, abs=1e-12)


@pytest.mark.slow
@given(corpora(long_text), st.randoms())
def test_the_order_of_the_references_does_not_matter(corpus, random):
    references, hypotheses = corpus
    shuffled = [random.sample(texts, len(texts)) for texts in references]
    assert corpus_bleu(shuffled, hypotheses) == corpus_bleu(references, hypotheses)
    for definition in DEFINITIONS:
        before = corpus_nist(references, hypotheses, definition=definition)
        assert corpus_nist(shuffled, hypotheses, definition=definition) == pytest.approx(before, abs=1e-12)


@pytest.mark.slow
@given(st.lists(st.lists(long_text, min_size=1, max_size=3), min_size=1, max_size=4))
def test_a_copy_of_a_reference_has_bleu_1(references):
    assert corpus_bleu(references, [texts[-1] for texts in references]) == pytest.approx(1.0, abs=1e-12)


@pytest.mark.slow
@given(corpora(long_text))
def test_scores_are_in_range(corpus):
    references, hypotheses = corpus
    assert 0 <= corpus_bleu(references, hypotheses) <= 1
    assert corpus_nist(references, hypotheses) >= 0


@pytest.mark.slow
@given(corpora(long_text, n_references=2))
def test_both_nist_definitions_agree_when_every_item_has_as_many_references(corpus):
    references, hypotheses = corpus
    by_perl = corpus_nist(references, hypotheses, definition="perl")
    assert corpus_nist(references, hypotheses) == pytest.approx(by_perl, abs=1e-12)


@settings(max_examples=50)
@given(text)
def test_ngram_counts_add_up(tokens):
    counts = ngrams(tokens, 3)
    for n in (1, 2, 3):
        assert sum(count for ngram, count in counts.items() if len(ngram) == n) == max(0, len(tokens) - n + 1)
