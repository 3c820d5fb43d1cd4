"""Generated GLUE tasks, and the tiny base beside them."""

from __future__ import annotations

import pytest
import torch
import toy_glue
from glue.sources import from_folder
from glue.tasks import TASKS
from transformers import AutoModel, AutoTokenizer

from examples.common.errors import UserError


def read(folder, task):
    splits = ["train", *TASKS[task].validation_splits]
    return from_folder(str(folder), TASKS[task], splits).splits


def test_a_target_that_exists_is_refused(tmp_path):
    with pytest.raises(UserError, match="exists; delete it or name another folder"):
        toy_glue.main([str(tmp_path)])


def test_generated_tasks_are_read_as_the_official_ones_and_the_base_knows_their_words(tmp_path):
    toy_glue.main([str(tmp_path / "toy"), "--train", "30", "--dev", "12"])
    toy_glue.main([str(tmp_path / "again"), "--train", "30", "--dev", "12"])
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "toy" / "base")
    for task in ("mnli", "mrpc", "rte", "stsb", "sst2", "cola"):
        splits = read(tmp_path / "toy", task)
        assert {name: len(rows) for name, rows in splits.items()} == {
            name: 30 if name == "train" else 12 for name in splits
        }
        labels = {row["label"] for row in splits["train"]}
        assert labels == set(TASKS[task].labels) or (task == "stsb" and labels == {"0.0", "2.5", "5.0"})
        assert splits == read(tmp_path / "again", task)
        texts = [row[key] for rows in splits.values() for row in rows for key in TASKS[task].sentences]
        assert all(tokenizer.unk_token_id not in ids for ids in tokenizer(texts)["input_ids"])
    premises = {name: " ".join(row["premise"] for row in rows) for name, rows in read(tmp_path / "toy", "mnli").items()}
    assert any(word in premises["train"] for word in toy_glue.HOUSE)
    assert not any(word in premises["train"] for word in toy_glue.HARBOUR)
    assert not any(word in premises["validation_mismatched"] for word in toy_glue.HOUSE)
    ids = tokenizer("the cat was lovely", "the dog was round", return_tensors="pt")
    assert ids["input_ids"][0, 0] == 0 and (ids["input_ids"][0] == 2).nonzero().flatten().tolist() == [5, 6, 11]
    one, two = (AutoModel.from_pretrained(tmp_path / name / "base").eval()(**ids) for name in ("toy", "again"))
    assert torch.equal(one.last_hidden_state, two.last_hidden_state)
