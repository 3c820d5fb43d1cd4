"""The vocabulary is GPT-2's in form: its files, its id order, and the encoder of the NLG room agrees with its maker."""

from __future__ import annotations

import json

import pytest
from text.bpe import load_bpe

from examples.common.errors import UserError
from scripts.quickstart import vocabulary

TEXTS = [
    "name : Café Rosa | price : £ 20 - 25",
    " Café Rosa is a pub near the river . It 's cheap .",
    " Rosa 's is a restaurant near the river , it is not cheap .",
] * 3


@pytest.fixture(scope="module")
def trained():
    return vocabulary.train_bpe(TEXTS, vocab_size=300)


def test_ids_are_bytes_then_merges_then_end_of_text(trained):
    encoder, merges = trained
    assert list(encoder.values()) == list(range(300))
    assert len(merges) == 300 - 257
    assert list(encoder)[256:-1] == [left + right for left, right in merges]
    assert encoder["<|endoftext|>"] == 299


def test_training_twice_gives_the_same_vocabulary(trained):
    assert vocabulary.train_bpe(TEXTS, vocab_size=300) == trained


def test_too_few_texts_give_fewer_tokens_and_still_end_of_text_last():
    encoder, merges = vocabulary.train_bpe(["ab ab"], vocab_size=1000)
    assert len(encoder) == 257 + len(merges) < 300
    assert list(encoder)[-1] == "<|endoftext|>"


def test_the_nlg_encoder_reads_the_files_and_round_trips(trained, tmp_path):
    vocabulary.write_vocabulary(tmp_path, *trained)
    assert (tmp_path / "vocab.bpe").read_text(encoding="utf-8").startswith("#version: 0.2\n")
    encoder = load_bpe(tmp_path)
    assert encoder.end_of_text == 299
    for text in [*TEXTS, "Unseen Ünïcode & 1234 !"]:
        assert encoder.decode(encoder.encode(text)) == text


def test_both_parts_of_a_row_are_trained_on_as_the_encoder_sees_them(tmp_path):
    path = tmp_path / "x.txt"
    path.write_text("a : b||Text one .\nplain\n", encoding="utf-8")
    assert list(vocabulary.corpus_texts([path])) == ["a : b", " Text one .", "plain"]


def test_a_vocabulary_smaller_than_the_bytes_is_refused():
    with pytest.raises(UserError, match="--vocab_size 256: expected more than 256"):
        vocabulary.train_bpe(TEXTS, vocab_size=256)


def test_files_keep_characters_beyond_ascii(tmp_path):
    vocabulary.write_vocabulary(tmp_path, {"Ġ": 0}, [("Ġ", "é")])
    assert json.loads((tmp_path / "encoder.json").read_text(encoding="utf-8")) == {"Ġ": 0}
    assert (tmp_path / "vocab.bpe").read_text(encoding="utf-8") == "#version: 0.2\nĠ é\n"
