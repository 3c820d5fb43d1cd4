"""The generated WebNLG and DART sets: the published layout, honest splits, and the same bytes for a seed."""

from __future__ import annotations

import json
import subprocess

import format_converting_dart
import format_converting_webnlg
import pytest

from scripts.quickstart import triples
from scripts.quickstart.grammar import Dice
from tests.shared_data import REPOSITORY
from tests.warm_python import PYTHON

CONVERTERS = {"webnlg": format_converting_webnlg, "dart": format_converting_dart}
COUNTS = (80, 20, 40)


@pytest.fixture(scope="module")
def splits():
    return triples.draw_splits(Dice(11), COUNTS, unseen_in_test=True)


def write(folder, dataset, *flags):
    words = [PYTHON, REPOSITORY / "scripts/quickstart/triples.py", folder, dataset, *flags]
    paths = f"{REPOSITORY / 'scripts'}:{REPOSITORY / 'examples/NLG/src'}"
    return subprocess.run(list(map(str, words)), env={"PYTHONPATH": paths}, capture_output=True, encoding="utf-8")


@pytest.mark.slow
def test_splits_have_the_numbers_asked_for_and_share_no_triples():
    counts = (3000, 20, 2000)  # so many that equal draws occur
    splits = triples.draw_splits(Dice(11), counts, unseen_in_test=True)
    assert tuple(map(len, splits.values())) == counts
    sets = [tuple(entry.triples) for entries in splits.values() for entry in entries]
    assert len(set(sets)) == sum(counts)
    assert {len(entry.triples) for entries in splits.values() for entry in entries} == {1, 2, 3, 4, 5}


def test_unseen_categories_are_half_of_the_test_and_nowhere_else(splits):
    unseen = {split: sum(e.category in triples.UNSEEN for e in entries) for split, entries in splits.items()}
    assert unseen == {"train": 0, "dev": 0, "test": COUNTS[2] // 2}
    assert not {*triples.UNSEEN} & format_converting_webnlg.SEEN_CATEGORIES
    assert {*triples.CATEGORIES.values()} - {*triples.UNSEEN} <= format_converting_webnlg.SEEN_CATEGORIES


def test_dart_has_every_category_in_every_split():
    for entries in triples.draw_splits(Dice(3), (60, 60, 60), unseen_in_test=False).values():
        assert {entry.category for entry in entries} == {*triples.CATEGORIES.values()}


def test_every_domain_of_the_quickstart_has_a_category():
    assert {source.domain.name_slot for source in triples.sources()} == {*triples.CATEGORIES}


def test_every_text_names_its_subject_and_no_two_texts_are_equal(splits):
    for entry in (entry for entries in splits.values() for entry in entries):
        assert len(set(entry.texts)) == len(entry.texts) >= 1
        assert all(triples.plain(entry.triples[0][0]) in text for text in entry.texts)


@pytest.mark.parametrize(
    ("tokens", "text"),
    [
        ("Tilda 's is cheap , near Fox & Barrel .", "Tilda's is cheap, near Fox & Barrel."),
        ("It 's family - friendly and costs £ 20 - 25 .", "It's family-friendly and costs £20-25."),
        ("more than £ 30", "more than £30"),
    ],
)
def test_text_loses_the_blanks_of_its_tokens(tokens, text):
    assert triples.plain(tokens) == text


def test_triples_are_written_in_the_style_of_each_set():
    triple = ("Tilda 's Table", "customer rating", "5 out of 5")
    assert triples.webnlg_triple(triple) == ("Tilda's_Table", "customerRating", "5_out_of_5")
    assert triples.dart_triple(triple) == ("Tilda's Table", "CUSTOMER_RATING", "5 out of 5")
    assert triples.camel("Type") == "type"


@pytest.mark.slow
@pytest.mark.parametrize("dataset", CONVERTERS)
def test_a_seed_gives_the_same_files_and_they_convert(tmp_path, dataset):
    for name, seed in (("a", "5"), ("b", "5"), ("c", "6")):
        result = write(tmp_path / name, dataset, "--seed", seed, "--entries", "30", "5", "8", "--general", "50", "7")
        assert (result.returncode, result.stderr) == (0, "")
    files = {
        name: {
            path.relative_to(tmp_path / name): path.read_bytes()
            for path in (tmp_path / name).rglob("*.*")
            if path.is_file()
        }
        for name in "abc"
    }
    assert files["a"] == files["b"] != files["c"]
    names = {str(path) for path in files["a"]}
    stem = "" if dataset == "webnlg" else "dart-v1.1.1-full-"
    raw = {f"raw/{stem}{split}.json" for split in ("train", "dev", "test")}
    assert names == raw | {"general/train.txt", "general/valid.txt"}
    CONVERTERS[dataset].main([str(tmp_path / "a" / f"raw/{stem}test.json"), str(tmp_path / "rows.jsonl")])
    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text(encoding="utf-8").splitlines()]
    assert len({row["context"] for row in rows}) == 8
    if dataset == "webnlg":
        assert len({row["context"] for row in rows if row["cate"]}) == 4
    general = (tmp_path / "a/general/train.txt").read_text(encoding="utf-8").splitlines()
    assert len(general) == 50
    assert all(line.count("||") == 1 and " : " in line.split("||")[0] for line in general)


def test_some_sentences_of_webnlg_are_not_good_but_one_of_each_entry_is(splits):
    entries = triples.webnlg_json(splits["train"], Dice(1))["entries"]
    comments = [[lex["comment"] for lex in entry[str(i)]["lexicalisations"]] for i, entry in enumerate(entries, 1)]
    assert all(of_entry[0] == "good" for of_entry in comments)
    assert {"good", "toFix"} == {comment for of_entry in comments for comment in of_entry}


@pytest.mark.parametrize("flags", [["--seed", "-1"], ["--entries", "5", "0", "5"]])
def test_impossible_numbers_are_refused(tmp_path, flags):
    result = write(tmp_path, "dart", *flags)
    assert result.returncode == 2 and len(result.stderr.splitlines()) == 1
    assert not list(tmp_path.iterdir())
