"""Rows as tensors: the released items to the digit, batches that leave out padding only, ids that the model has."""

from __future__ import annotations

import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from train.data import FT_Dataset, read_rows

from examples.common.errors import UserError
from tests.shared_data import GOLDEN

GOLDEN_DATASET = json.loads((GOLDEN / "nlg" / "ft_dataset.json").read_text(encoding="utf-8"))
NO_ROOM = {"batch_size": 4, "max_seq_length": 10, "max_eval_length": 10}
CASES = [case for case in GOLDEN_DATASET["cases"] if not {"prefix_len", "infix_len"} & {*case["kwargs"]}]


def write_rows(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture
def rows_file(tmp_path):
    return write_rows(tmp_path / "rows.jsonl", GOLDEN_DATASET["rows"])


@pytest.mark.parametrize("case", CASES, ids=lambda case: str(case["kwargs"]))
def test_items_and_fillers_are_the_released_ones(rows_file, case):
    kwargs = case["kwargs"]
    if kwargs == NO_ROOM:  # the released code takes "no room" for "no limit"; here that is asked for by 0
        with pytest.raises(UserError, match="no room for a prompt"):
            FT_Dataset(rows_file, **kwargs)
        kwargs = {**kwargs, "max_eval_length": 0}
    dataset = FT_Dataset(rows_file, **kwargs)
    assert dataset.n_rows == case["num_examples"]
    for expected in case["items"][: dataset.n_rows]:  # those behind are filler rows
        assert item(dataset, expected["id"]) == expected


def item(dataset, row):
    """A row at full length under the keys of the released code; ``batch`` itself stops at the last that counts."""
    batch, query, S = dataset.batch([row]), dataset.query(row), dataset.max_seq_length
    read = [*dataset.rows[row].context, *dataset.rows[row].completion]
    T = batch.input.size(1)
    assert batch.input[0].tolist() == padded(read, S)[:T] and batch.target[0].tolist() == padded(read[1:], S)[:T]
    assert (batch.input.dtype, batch.target.dtype, batch.mask.dtype) == (torch.int64, torch.int64, torch.float32)
    full = {"input": padded(read, S), "target": padded(read[1:], S), "mask": padded(batch.mask[0].tolist(), S)}
    return {"id": row, "query": padded(query, S), "query_len": len(query), **full}


def padded(ids, length):
    return ids[:length] + [0] * (length - len(ids))


IDS = st.lists(st.integers(1, 9), max_size=7)
ROWS = st.lists(st.tuples(IDS, IDS).filter(any), min_size=1, max_size=4)


@pytest.mark.slow
@settings(max_examples=150, deadline=None)
@given(rows=ROWS, S=st.integers(1, 12), jlm=st.booleans())
def test_a_batch_ends_at_the_last_position_that_counts(tmp_path_factory, rows, S, jlm):
    path = tmp_path_factory.mktemp("rows") / "rows.jsonl"
    write_rows(path, [{"context": c, "completion": y} for c, y in rows])
    dataset = FT_Dataset(path, 1, S, joint_lm=jlm, quiet=True)
    batch = dataset.batch(range(len(rows)))
    T = batch.input.shape[1]
    assert batch.ids == list(range(len(rows))) and T <= S
    assert T == 1 or batch.mask[:, T - 1].sum() > 0
    assert torch.equal(batch.counted, batch.mask.flatten().nonzero()[:, 0])
    for row, (context, completion) in enumerate(rows):
        n = min(len(context) + len(completion), S)
        assert batch.mask[row].sum() == (n - 1 if jlm else max(0, n - max(1, len(context)) + (not context)))
        alone = dataset.batch([row])
        assert torch.equal(alone.input[0], batch.input[row, : alone.input.size(1)])


def test_a_prompt_keeps_its_last_ids(rows_file):
    dataset = FT_Dataset(rows_file, 1, 10, max_eval_length=4)
    assert dataset.query(1) == [7, 8, 9, 10, 11, 12]


def test_a_batch_moves_to_a_device_whole(rows_file):
    batch = FT_Dataset(rows_file, 1, 10).batch([0, 1])
    moved = batch.to("meta")
    assert {moved.input.device.type, moved.target.device.type, moved.mask.device.type} == {"meta"}
    assert moved.ids == batch.ids


def test_cut_rows_are_counted_once(rows_file, capsys):
    dataset = FT_Dataset(rows_file, 1, 10)
    dataset.batch([1])
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("warning: ") and line.endswith(
        "2 of 5 rows are longer than 10 ids and lose their end; 1 of them have no completion left to learn from"
    )
    FT_Dataset(rows_file, 1, 10, max_eval_length=4)
    assert "1 of 5 prompts are over 6 ids" in capsys.readouterr().err
    FT_Dataset(rows_file, 1, 18)  # the longest row
    FT_Dataset(rows_file, 1, 10, quiet=True)
    assert capsys.readouterr().err == ""


GOOD = '{"context": [1], "completion": [2]}\n'
BROKEN = {
    "empty file": ("", "rows is empty"),
    "empty row": (GOOD + '{"context": [], "completion": []}\n', "rows line 2: context and completion are both empty"),
    "no completion": (GOOD + '{"context": [1]}\n', "rows line 2: key 'completion' is missing"),
    "no JSON": (GOOD + "[\n", "rows line 2: not JSON"),
    "text": ('{"context": "a", "completion": [2]}\n', "rows line 1: 'context' must be a list of token ids, got 'a'"),
    "a fraction": (
        '{"context": [1], "completion": [2.0]}\n',
        "rows line 1: 'completion' must hold token ids .* got 2.0",
    ),
    "a truth": ('{"context": [true], "completion": [2]}\n', "rows line 1: 'context' must hold token ids .* got True"),
    "below 0": ('{"context": [-1], "completion": [2]}\n', "rows line 1: 'context' must hold token ids .* got -1"),
    "huge": ('{"context": [9999999999], "completion": [2]}\n', "rows line 1: 'context' must hold token ids"),
    "not in the model": (GOOD + '{"context": [1], "completion": [9, 10]}\n', "rows line 2: .* id 10, .* ends at 9"),
}


@pytest.mark.parametrize(("content", "message"), BROKEN.values(), ids=BROKEN)
def test_a_broken_row_is_named(tmp_path, content, message):
    (tmp_path / "rows").write_text(content)
    with pytest.raises(UserError, match=message):
        FT_Dataset(tmp_path / "rows", 1, 8, vocab_size=10)


def test_the_last_id_of_the_vocabulary_is_accepted(tmp_path):
    path = write_rows(tmp_path / "rows", [{"context": [9], "completion": []}])
    assert read_rows(path, vocab_size=10)[0].context[0] == 9


@pytest.mark.parametrize(("S", "L"), [(0, 0), (-1, 0), (10, 10), (10, 11), (10, -1)])
def test_lengths_without_room_for_a_prompt_are_refused(rows_file, S, L):
    with pytest.raises(UserError, match=f"a sequence length of {S} must exceed the {L} ids"):
        FT_Dataset(rows_file, 1, S, max_eval_length=L)


def test_an_empty_batch_size_is_refused(rows_file):
    with pytest.raises(UserError, match="batch size must be at least 1, got 0"):
        FT_Dataset(rows_file, 0, 10)
