"""Texts of any file, a small RoBERTa made of them, GLUE folders out of samples, generated GLUE."""

from __future__ import annotations

import gzip
import json
import random

import glue_sample
import make_small_model
import pytest
import texts
import torch
import toy_glue
from glue.sources import from_folder
from glue.tasks import TASKS
from safetensors.torch import load_file
from transformers import AutoModelForMaskedLM, AutoTokenizer

from tests.nlu.world import sentences
from tests.shared_data import shared_path

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
        ("none.txt", None, "none.txt: No such file or directory"),
        ("a.csv", b"x y", "a.csv: expected .tsv, .jsonl, .txt, plain or .gz"),
        ("a.txt", b"ok so\n\xff\xff y", "a.txt line 2: not UTF-8 text"),
        ("a.jsonl", b'{"a": "b c"}\n{', "a.jsonl line 2: not JSON"),
        ("a.txt", b"word\n\n", "a.txt holds no sentences"),
        ("a.txt.gz", b"no archive", "a.txt.gz: Not a gzipped file"),
    ],
)
def test_files_that_cannot_be_read_end_in_one_line(tmp_path, capsys, name, data, message):
    if data is not None:
        (tmp_path / name).write_bytes(data)
    with pytest.raises(SystemExit) as end:
        texts.read_texts([tmp_path / name])
    error = capsys.readouterr().err
    assert end.value.code == 2 and message in error and error.count("\n") == 1


def test_a_folder_without_training_files_is_refused(tmp_path, capsys):
    with pytest.raises(SystemExit):
        texts.read_texts([tmp_path])
    assert "no file named train*" in capsys.readouterr().err


# --- small models ----------------------------------------------------------------------------------------------------


@pytest.fixture
def corpus(tmp_path):
    path = tmp_path / "corpus.txt"
    path.write_text("\n".join(text for text, _ in sentences(300, 5)) + "\n", encoding="utf-8")
    return path


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
        inputs, labels = make_small_model.mask_tokens(ids, len(tokenizer))
        with torch.no_grad():
            losses[name] = model(inputs, attention_mask=inputs != 1, labels=labels).loss.item()
    assert losses["a"] < losses["random"] - 1


def test_two_sentences_are_joined_as_roberta_joins_them():
    tokenizer = make_small_model.train_tokenizer([("a cat sat", "it sat")], 300, 24)
    first, second = (tokenizer(text, add_special_tokens=False)["input_ids"] for text in ("a cat sat", "it sat"))
    (row,) = make_small_model.tokenize([("a cat sat", "it sat")], tokenizer, 24)
    assert row == [0, *first, 2, 2, *second, 2]
    assert tokenizer.decode(row, skip_special_tokens=True) == "a cat satit sat"
    assert (tokenizer.pad_token_id, tokenizer.mask_token_id) == (1, 4)


def test_masking_is_80_10_10_and_spares_special_tokens():
    torch.manual_seed(0)
    ids = torch.randint(5, 1000, (400, 500))
    ids[:, 0] = 0
    inputs, labels = make_small_model.mask_tokens(ids, 1000)
    chosen = labels != make_small_model.IGNORED
    assert torch.equal(labels[chosen], ids[chosen]) and not chosen[:, 0].any()
    assert torch.equal(inputs[~chosen], ids[~chosen])
    n = int(chosen.sum())
    masked, kept = (inputs == 4)[chosen], (inputs == ids)[chosen]
    shares = [part.float().mean() for part in (chosen[:, 1:], masked, kept)]
    for share, expected in zip(shares, (make_small_model.MASKED, 0.8, 0.1 + 0.1 / 995)):
        assert abs(float(share) - expected) < 5 * (expected * (1 - expected) / n) ** 0.5 + 1e-4
    assert int(inputs.min()) >= 0 and int(inputs.max()) < 1000


def test_rounding_of_lengths_changes_neither_ids_nor_counted_places():
    for lengths, most, expected in (([3, 20], 128, 32), ([16], 128, 16), ([20], 24, 24)):
        ids = make_small_model.pad([[7] * length for length in lengths], most)
        assert ids.shape == (len(lengths), expected)
        assert [int(row.ne(make_small_model.PAD).sum()) for row in ids] == lengths
    labels = torch.full((4, 300), make_small_model.IGNORED)
    labels[:, 1:200:3] = 9
    flat, places = labels.flatten(), make_small_model.places(labels)
    assert len(places) % make_small_model.ROUND_CHOSEN == 0
    counted = places[flat[places].ne(make_small_model.IGNORED)]
    assert torch.equal(counted, flat.ne(make_small_model.IGNORED).nonzero().squeeze(1))


def test_an_epoch_of_batches_is_every_row_once():
    rows = [[index] * (1 + index % 7) for index in range(50)]
    source = make_small_model.batches(rows, 8, random.Random(0))
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
def test_numbers_that_cannot_work_are_refused_before_anything_is_read(tmp_path, capsys, flags, message):
    with pytest.raises(SystemExit) as end:
        make_small_model.main(["none.txt", "--output", str(tmp_path / "out"), *SMALLEST, *flags])
    assert end.value.code == 2 and message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_an_interrupted_write_leaves_nothing(tmp_path):
    from ends import whole

    with pytest.raises(KeyboardInterrupt), whole(tmp_path / "out") as partial:
        partial.mkdir()
        (partial / "x").write_text("half")
        raise KeyboardInterrupt
    assert not list(tmp_path.iterdir())


# --- GLUE folders ----------------------------------------------------------------------------------------------------


def read(folder, task):
    splits = ["train", *TASKS[task].validation_splits]
    return from_folder(str(folder), TASKS[task], splits).splits


def test_a_sample_of_mnli_becomes_the_official_files_with_one_genre_held_out(tmp_path, capsys):
    path = shared_path("data/glue/MNLI/train_subset9k.jsonl.gz")
    (tmp_path / "in" / "MNLI").mkdir(parents=True)
    (tmp_path / "in" / "MNLI" / path.name).write_bytes(path.read_bytes())
    glue_sample.main([str(tmp_path / "in"), str(tmp_path / "out")])
    splits = read(tmp_path / "out", "mnli")
    rows = [json.loads(line) for line in gzip.decompress(path.read_bytes()).decode().splitlines()]
    expected = sorted((" ".join(r["sentence1"].split()), " ".join(r["sentence2"].split()), r["label"]) for r in rows)
    found = [(r["premise"], r["hypothesis"], r["label"]) for split in splits.values() for r in split]
    assert sorted(found) == expected
    premises = {name: {row["premise"] for row in split} for name, split in splits.items()}
    assert not premises["train"] & (premises["validation_matched"] | premises["validation_mismatched"])
    assert all(glue_sample.is_transcribed(text) for text in premises["validation_mismatched"])
    assert not any(glue_sample.is_transcribed(text) for text in premises["train"] | premises["validation_matched"])
    assert len(splits["validation_mismatched"]) > 1000
    assert f"dev_matched.tsv {len(splits['validation_matched']):,}" in capsys.readouterr().out


def make_source(folder):
    (folder / "QNLI").mkdir(parents=True)
    rows = [{"question": f"who is {i % 10}?", "sentence": f"it is {i}.", "label": "entailment"} for i in range(40)]
    (folder / "QNLI" / "train_part.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    (folder / "CoLA").mkdir()
    (folder / "CoLA" / "train.tsv").write_text("".join(f"g\t1\t\tSentence {i}.\n" for i in range(20)))
    (folder / "CoLA" / "dev_in_domain.tsv").write_text("g\t1\t\tA sentence.\n")
    return folder


def test_official_files_are_copied_and_samples_divided_by_their_first_sentence(tmp_path):
    source = make_source(tmp_path / "in")
    glue_sample.main([str(source), str(tmp_path / "out")])
    splits = read(tmp_path / "out", "qnli")
    questions = {name: {row["question"] for row in split} for name, split in splits.items()}
    assert not questions["train"] & questions["validation"] and len(splits["validation"]) == 4  # one of ten questions
    assert (tmp_path / "out/CoLA/dev.tsv").read_text() == "g\t1\t\tA sentence.\n"
    assert len(read(tmp_path / "out", "cola")["train"]) == 20


def test_holding_out_takes_dev_from_train(tmp_path):
    source = make_source(tmp_path / "in")
    glue_sample.main([str(source), str(tmp_path / "plain")])
    glue_sample.main([str(source), str(tmp_path / "held"), "--hold_out"])
    for task in ("cola", "qnli"):
        whole, held = read(tmp_path / "plain", task), read(tmp_path / "held", task)
        together = [*held["train"], *held["validation"]]
        assert sorted(map(str, together)) == sorted(map(str, whole["train"])) and held["validation"]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        (
            "train.jsonl",
            '{"question": "a b", "label": "x"}',
            "train.jsonl line 1: expected a JSON object",
        ),
        ("other.txt", "", "neither train.tsv nor a train*.jsonl that QNLI can be made of"),
    ],
)
def test_a_source_that_does_not_fit_leaves_nothing(tmp_path, capsys, name, text, message):
    (tmp_path / "in/QNLI").mkdir(parents=True)
    (tmp_path / "in/QNLI" / name).write_text(text)
    with pytest.raises(SystemExit) as end:
        glue_sample.main([str(tmp_path / "in"), str(tmp_path / "out")])
    assert end.value.code == 2 and message in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


def test_a_target_that_exists_is_refused(tmp_path, capsys):
    source = make_source(tmp_path / "in")
    for program in (glue_sample, toy_glue):
        with pytest.raises(SystemExit):
            program.main([*([str(source)] if program is glue_sample else []), str(tmp_path)])
        assert "exists; delete it or name another folder" in capsys.readouterr().err


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
