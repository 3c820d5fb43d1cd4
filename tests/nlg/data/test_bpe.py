"""Byte-pair encoding: the released ids, nothing lost on the way back, broken vocabularies refused."""

from __future__ import annotations

import json
import shutil

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from text.bpe import BytePairEncoding, load_bpe

from examples.common.errors import UserError
from tests.nlg.data.programs import TOY_TEXT, make_toy_vocabulary
from tests.shared_data import GOLDEN

CASES = json.loads((GOLDEN / "nlg" / "bpe_cases.json").read_text(encoding="utf-8"))
MIXED_TEXT = st.text() | st.text(alphabet="the cat's 12.\n\t é£<|endof>")


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES["encode"], ids=lambda case: ascii(case["text"])[:20])
def test_text_gets_the_released_ids(gpt2_bpe, case):
    assert gpt2_bpe.encode(case["text"]) == case["ids"]
    assert gpt2_bpe.decode(case["ids"]) == case["decoded"]


@pytest.mark.parametrize("case", CASES["decode"], ids=lambda case: str(case["ids"])[:20])
def test_ids_get_the_released_text(gpt2_bpe, case):
    assert gpt2_bpe.decode(case["ids"]) == case["text"]


def test_gpt2_has_its_published_size_and_end(gpt2_bpe):
    assert (gpt2_bpe.vocab_size, gpt2_bpe.end_of_text) == (CASES["vocab_size"], 50256)


@settings(max_examples=200, deadline=None)
@given(text=MIXED_TEXT)
def test_decoding_gives_the_text_back_with_a_toy_vocabulary(toy_bpe, text):
    ids = toy_bpe.encode(text)
    assert toy_bpe.decode(ids) == text
    assert toy_bpe.end_of_text not in ids


@settings(max_examples=200, deadline=None)
@given(text=MIXED_TEXT)
def test_decoding_gives_the_text_back_with_gpt2s_vocabulary(gpt2_bpe, text):
    assert gpt2_bpe.decode(gpt2_bpe.encode(text)) == text


def test_a_batch_is_encoded_as_its_texts_are(toy_bpe):
    texts = ["", " ", TOY_TEXT, "the the", "\n\n"]
    assert toy_bpe.encode_batch(texts) == [toy_bpe.encode(text) for text in texts]


def test_merges_make_text_shorter_than_its_bytes(toy_bpe):
    assert len(toy_bpe.encode(TOY_TEXT)) < 0.7 * len(TOY_TEXT.encode())


def test_the_first_merge_is_joined_first():
    letters = {token: id for id, token in enumerate(_bytes())}
    vocabulary = {**letters, "bc": 256, "ab": 257}
    assert BytePairEncoding(vocabulary, [("b", "c"), ("a", "b")]).encode("abc") == [letters["a"], 256]
    assert BytePairEncoding(vocabulary, [("a", "b"), ("b", "c")]).encode("abc") == [257, letters["c"]]


@pytest.mark.parametrize("names", [("encoder.json", "vocab.bpe"), ("vocab.json", "merges.txt")])
def test_both_namings_of_a_vocabulary_are_read(toy_vocabulary, toy_bpe, tmp_path, names):
    for source, name in zip(("vocab.json", "merges.txt"), names):
        shutil.copy(toy_vocabulary / source, tmp_path / name)
    assert load_bpe(tmp_path).encode(TOY_TEXT) == toy_bpe.encode(TOY_TEXT)


@pytest.mark.parametrize("id", [-1, 10**9])
def test_an_id_outside_the_vocabulary_is_refused(toy_bpe, id):
    with pytest.raises(
        UserError, match=f"token id {id} is outside the vocabulary of ids 0 to {toy_bpe.vocab_size - 1}"
    ):
        toy_bpe.decode([0, id])


def test_half_a_surrogate_pair_is_refused(toy_bpe):
    with pytest.raises(UserError, match=r"half a surrogate pair is no text: 'b\\ud83d'"):
        toy_bpe.encode_batch(["a", "b\ud83d"])


def test_a_missing_vocabulary_is_named(tmp_path):
    with pytest.raises(UserError, match="nowhere does not exist"):
        load_bpe(tmp_path / "nowhere")
    with pytest.raises(
        UserError, match=r"holds neither encoder\.json with vocab\.bpe nor vocab\.json with merges\.txt"
    ):
        load_bpe(tmp_path)


def _bytes() -> list[str]:
    from tokenizers.pre_tokenizers import ByteLevel

    return sorted(ByteLevel.alphabet())


BROKEN = {
    "no JSON": ("vocab.json", lambda text: text[:-5], r"vocab\.json is not JSON"),
    "no UTF-8": ("vocab.json", lambda text: "\udcff", r"vocab\.json is not JSON"),
    "a list": ("vocab.json", lambda text: "[1]", "expected a JSON object of token: id"),
    "a text id": ("vocab.json", lambda text: '{"a": "1"}', "expected a JSON object of token: id"),
    "an id twice": ("vocab.json", lambda text: text.replace('"a":', '"new": 3, "a":'), "each once"),
    "no entry for a byte": ("vocab.json", lambda text: text.replace('"z":', '"zz":'), "1 of the 256 single bytes"),
    "a blank in an entry": ("vocab.json", lambda text: text.replace("<|endof", "<|end of"), "stand for no byte"),
    "three in a merge": ("merges.txt", lambda text: text + "a b c\n", "merges.txt line .* expected two tokens"),
    "a merge of nothing": ("merges.txt", lambda text: text + "q q\n", "needs the entry 'qq'"),
}


@pytest.mark.parametrize(("file", "change", "message"), BROKEN.values(), ids=BROKEN)
def test_a_broken_vocabulary_is_refused(tmp_path, file, change, message):
    path = make_toy_vocabulary(tmp_path / "toy") / file
    changed = change(path.read_text(encoding="utf-8"))
    path.write_bytes(changed.encode("utf-8", errors="surrogateescape"))
    with pytest.raises(UserError, match=message):
        load_bpe(path.parent)
