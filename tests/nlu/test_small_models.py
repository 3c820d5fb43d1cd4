"""Texts of any file, a small RoBERTa made of them, generated GLUE."""

from __future__ import annotations

import gzip
import random
import re

import make_small_model
import pytest
import small_roberta
import texts
import torch
import toy_glue
from glue.sources import from_folder
from glue.tasks import TASKS
from safetensors.torch import load_file
from transformers import AutoModelForMaskedLM, AutoTokenizer

from examples.common.errors import UserError
from examples.common.files import atomic_folder
from tests.nlu.world import sentences

SIZES = {"vocab_size": 300, "layers": 1, "width": 16, "heads": 2, "max_length": 24, "batch_size": 8}
SMALLEST = [word for name, value in SIZES.items() for word in (f"--{name}", str(value))]


# --- texts -----------------------------------------------------------------------------------------------------------


def test_sentences_are_found_in_every_layout(tmp_path):
    files = {
        "train.tsv": "gj04\t1\t\tHe ran home.\ngj04\t0\t*\tHome the ran.\n",
        "train_a.jsonl": '{"sentence1": "A cat sat.", "sentence2": "It sat.", "label": "entailment"}\n',
        "train.txt": "A plain line.\n\nword\nA plain line.\n",
        "train_m.tsv": "Quality\t#1 ID\t#2 ID\t#1 String\t#2 String\n1\t7\t8\tOne thing.\tTwo things.\n",
        "train_n.tsv": "index\tsentence1_parse\tsentence1\tgold_label\n0\t( A ( parse ) )\tNot a parse.\tneutral\n",
    }
    for name, text in files.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    (tmp_path / "train_z.txt.gz").write_bytes(gzip.compress(b"Packed text.\n"))
    (tmp_path / "dev.txt").write_text("Not for training.\n", encoding="utf-8")
    assert set(texts.read_texts([tmp_path])) == {
        *(("He ran home.",), ("Home the ran.",), ("A cat sat.", "It sat."), ("A plain line.",)),
        *(("One thing.", "Two things."), ("Not a parse.",), ("Packed text.",)),
    }


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("none.txt", None, "none.txt does not exist"),
        ("a.csv", b"x y", "a.csv: expected .tsv, .jsonl, .txt, plain or .gz"),
        ("a.txt", b"ok so\n\xff\xff y", "a.txt line 2: not UTF-8 text"),
        ("a.jsonl", b'{"a": "b c"}\n{', "a.jsonl line 2: not JSON"),
        ("a.txt", b"word\n\n", "a.txt holds no sentences"),
        ("a.txt.gz", b"no archive", "a.txt.gz: cannot be read as text (Not a gzipped file"),
    ],
)
def test_files_that_cannot_be_read_end_in_one_line(tmp_path, name, data, message):
    if data is not None:
        (tmp_path / name).write_bytes(data)
    with pytest.raises(UserError, match=re.escape(message)):
        texts.read_texts([tmp_path / name])


def test_a_folder_without_training_files_is_refused(tmp_path, capsys):
    with pytest.raises(UserError, match=r"no file named train\*"):
        texts.read_texts([tmp_path])


# --- small models ----------------------------------------------------------------------------------------------------


@pytest.fixture
def corpus(tmp_path):
    path = tmp_path / "corpus.txt"
    path.write_text("\n".join(text for text, _ in sentences(300, 5)) + "\n", encoding="utf-8")
    return path


@pytest.mark.slow
def test_pretraining_lowers_the_loss_and_the_folder_is_a_stock_model(corpus, tmp_path, capsys):
    """A seed gives the same weights; 0 steps leave random ones."""
    for name, steps in (("a", 80), ("b", 80), ("random", 0)):
        words = [str(corpus), "--output", str(tmp_path / name), *SMALLEST, "--max_steps", str(steps)]
        make_small_model.main([*words, "--learning_rate", "1e-2"])
    one, two = (load_file(tmp_path / name / "model.safetensors") for name in "ab")
    assert one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)
    assert "step 80 of 80: loss" in capsys.readouterr().out
    losses = {}
    for name in ("a", "random"):
        model = AutoModelForMaskedLM.from_pretrained(tmp_path / name).eval()
        tokenizer = AutoTokenizer.from_pretrained(tmp_path / name)
        ids = tokenizer([text for text, _ in sentences(40, 6)], padding=True, return_tensors="pt")["input_ids"]
        torch.manual_seed(1)
        inputs, labels = small_roberta.mask_tokens(ids, len(tokenizer))
        with torch.no_grad():
            losses[name] = model(inputs, attention_mask=inputs != 1, labels=labels).loss.item()
    assert losses["a"] < losses["random"] - 1


def test_two_sentences_are_joined_as_roberta_joins_them():
    tokenizer = small_roberta.train_tokenizer([("a cat sat", "it sat")], 300, 24)
    first, second = (tokenizer(text, add_special_tokens=False)["input_ids"] for text in ("a cat sat", "it sat"))
    (row,) = small_roberta.tokenize([("a cat sat", "it sat")], tokenizer, 24)
    assert row == [0, *first, 2, 2, *second, 2]
    assert tokenizer.decode(row, skip_special_tokens=True) == "a cat satit sat"
    assert (tokenizer.pad_token_id, tokenizer.mask_token_id) == (1, 4)


def test_masking_is_80_10_10_and_spares_special_tokens():
    torch.manual_seed(0)
    ids = torch.randint(5, 1000, (400, 500))
    ids[:, 0] = 0
    inputs, labels = small_roberta.mask_tokens(ids, 1000)
    chosen = labels != small_roberta.IGNORED
    assert torch.equal(labels[chosen], ids[chosen]) and not chosen[:, 0].any()
    assert torch.equal(inputs[~chosen], ids[~chosen])
    n = int(chosen.sum())
    masked, kept = (inputs == 4)[chosen], (inputs == ids)[chosen]
    shares = [part.float().mean() for part in (chosen[:, 1:], masked, kept)]
    for share, expected in zip(shares, (small_roberta.MASKED, 0.8, 0.1 + 0.1 / 995)):
        assert abs(float(share) - expected) < 5 * (expected * (1 - expected) / n) ** 0.5 + 1e-4
    assert int(inputs.min()) >= 0 and int(inputs.max()) < 1000


def test_rounding_of_lengths_changes_neither_ids_nor_counted_places():
    for lengths, most, expected in (([3, 20], 128, 32), ([16], 128, 16), ([20], 24, 24)):
        ids = small_roberta.pad([[7] * length for length in lengths], most)
        assert ids.shape == (len(lengths), expected)
        assert [int(row.ne(small_roberta.PAD).sum()) for row in ids] == lengths
    labels = torch.full((4, 300), small_roberta.IGNORED)
    labels[:, 1:200:3] = 9
    flat, places = labels.flatten(), small_roberta.chosen_positions(labels)
    assert len(places) % small_roberta.ROUND_CHOSEN == 0
    counted = places[flat[places].ne(small_roberta.IGNORED)]
    assert torch.equal(counted, flat.ne(small_roberta.IGNORED).nonzero().squeeze(1))


def test_an_epoch_of_batches_is_every_row_once():
    rows = [[index] * (1 + index % 7) for index in range(50)]
    source = small_roberta.batches(rows, 8, random.Random(0))
    for _ in range(2):
        epoch = [next(source) for _ in range(7)]
        assert sorted(row[0] for batch in epoch for row in batch) == list(range(50))


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--width", "17"], "--width 17 is no multiple of --heads 2"),
        (["--vocab_size", "200"], "--vocab_size must be at least 261, got 200"),
        (["--max_steps", "-1"], "--max_steps must be at least 0, got -1"),
        (["--learning_rate", "nan"], "--learning_rate must be above 0, got nan"),
        (["--output", "."], "--output . exists; delete it or name another folder"),
    ],
)
def test_numbers_that_cannot_work_are_refused_before_anything_is_read(tmp_path, flags, message):
    with pytest.raises(UserError, match=re.escape(message)):
        make_small_model.main(["none.txt", "--output", str(tmp_path / "out"), *SMALLEST, *flags])
    assert not list(tmp_path.iterdir())


def test_an_interrupted_write_leaves_nothing(tmp_path):
    with pytest.raises(KeyboardInterrupt), atomic_folder(tmp_path / "out") as partial:
        (partial / "x").write_text("half")
        raise KeyboardInterrupt
    assert not list(tmp_path.iterdir())


# --- GLUE folders ----------------------------------------------------------------------------------------------------


def read(folder, task):
    splits = ["train", *TASKS[task].validation_splits]
    return from_folder(str(folder), TASKS[task], splits).splits


def test_a_target_that_exists_is_refused(tmp_path):
    with pytest.raises(UserError, match="exists; delete it or name another folder"):
        toy_glue.main([str(tmp_path)])


def test_generated_tasks_are_read_as_the_official_ones(tmp_path):
    toy_glue.main([str(tmp_path / "toy"), "--train", "30", "--dev", "12"])
    toy_glue.main([str(tmp_path / "again"), "--train", "30", "--dev", "12"])
    for task in ("mnli", "mrpc", "rte", "stsb", "sst2", "cola"):
        splits = read(tmp_path / "toy", task)
        assert {name: len(rows) for name, rows in splits.items()} == {
            name: 30 if name == "train" else 12 for name in splits
        }
        labels = {row["label"] for row in splits["train"]}
        assert labels == set(TASKS[task].labels) or (task == "stsb" and labels == {"0.0", "2.5", "5.0"})
        assert splits == read(tmp_path / "again", task)
    premises = {name: " ".join(row["premise"] for row in rows) for name, rows in read(tmp_path / "toy", "mnli").items()}
    assert any(word in premises["train"] for word in toy_glue.HOUSE.things)
    assert not any(word in premises["train"] for word in toy_glue.HARBOUR.things)
    assert not any(word in premises["validation_mismatched"] for word in toy_glue.HOUSE.things)
