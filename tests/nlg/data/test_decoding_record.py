"""Predictions become text only beside the inputs that they were decoded for, and end where their search ended."""

from __future__ import annotations

import json

import gpt2_decode
import pytest

from examples.common.errors import UserError
from examples.common.files import sha256_of

TEXTS = ["the cat", "the dog", "the cat"]


@pytest.fixture
def decode(tmp_path, monkeypatch, toy_vocabulary, toy_bpe):
    """Writes predictions of ``TEXTS`` with their record, and decodes them beside other texts; the predicted texts."""
    monkeypatch.chdir(tmp_path)
    end = toy_bpe.encode("!")[0]

    def run(texts, *flags, bos=True, **changed):
        rows = [{"context": toy_bpe.encode(text) + [toy_bpe.end_of_text] * bos} for text in TEXTS]
        (tmp_path / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        predict = toy_bpe.encode("a b!c")
        (tmp_path / "sample").write_text("".join(f'{{"id": {i}, "predict": {predict}}}\n' for i in range(len(TEXTS))))
        data = {"path": "data.jsonl", "sha256": sha256_of("data.jsonl")}
        record = {"files": {"data": data}, "rows": len(TEXTS), "settings": {"eos_token_ids": [50256, end]}, **changed}
        (tmp_path / "sample.run.json").write_text(json.dumps(record))
        (tmp_path / "in").write_text("".join(json.dumps({"context": t, "completion": "x"}) + "\n" for t in texts))
        words = ["--vocab", str(toy_vocabulary), "--sample_file", "sample", "--input_file", "in"]
        gpt2_decode.main([*words, "--output_ref_file", "r", "--output_pred_file", "p", *flags])
        return (tmp_path / "p").read_text()

    return run


@pytest.mark.parametrize("bos", [True, False])
def test_predictions_end_at_the_end_ids_of_their_search(decode, toy_bpe, bos):
    assert decode(TEXTS, bos=bos) == "a b\n" * 2
    assert decode(TEXTS, "--eos_token_id", str(toy_bpe.encode("!")[0])) == "a b\n" * 2


def test_inputs_of_another_split_are_refused(decode, tmp_path):
    with pytest.raises(UserError, match=r"in has 2 rows, but the predictions are for the 3 of data\.jsonl"):
        decode(TEXTS[:2])
    with pytest.raises(UserError, match=r"in line 2 is not the input that data\.jsonl has there"):
        decode(["the cat", "the mat", "the cat"])
    assert not (tmp_path / "p").exists() and not (tmp_path / "r").exists()


def test_an_end_id_that_the_search_did_not_have_is_refused(decode):
    with pytest.raises(UserError, match=r"--eos_token_id 5: gpt2_beam.py had only \["):
        decode(TEXTS, "--eos_token_id", "5")


def test_where_the_decoded_file_is_gone_the_number_of_rows_is_compared(decode):
    gone = {"data": {"path": "gone.jsonl", "sha256": "0" * 64}}
    assert decode(["other", "texts", "here"], files=gone) == "a b\n" * 3
    with pytest.raises(UserError, match="in has 1 rows"):
        decode(["other"], files=gone)


@pytest.mark.parametrize("changed", [{"files": {}}, {"settings": None}, {"files": []}])
def test_a_file_that_is_no_record_is_named(decode, changed):
    with pytest.raises(UserError, match=r"sample\.run\.json is no record of gpt2_beam\.py"):
        decode(TEXTS, **changed)
