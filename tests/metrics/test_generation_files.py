"""Files of WebNLG and DART: what is read, and wrong input that ends in one line and exit code 2."""

from __future__ import annotations

import json
import re

import pytest
from metrics.generation_files import read_groups, read_texts
from text.detokenize import read_references

from examples.common.errors import UserError
from tests.metrics.generation_programs import run_eval, write_texts

REFERENCES = [["a pub", "the pub"], ["an oak", ""], ["a river", "the river"]]
HYPOTHESES = ["a pub", "", "river"]


def write(path, text):
    path.write_text(text, encoding="utf-8", newline="")
    return path


def jsonl(path, rows):
    return write(path, "".join(json.dumps(row) + "\n" for row in rows))


@pytest.mark.parametrize("end", ["\n", ""])
def test_a_final_newline_makes_no_item(tmp_path, end):
    prefix, hypothesis_file = write_texts(tmp_path, REFERENCES, HYPOTHESES, end=end)
    texts = read_texts(prefix, hypothesis_file, n_references=2)
    assert (texts.references, texts.hypotheses, texts.final_newline) == (REFERENCES, HYPOTHESES, end == "\n")
    assert list(texts.files) == ["hypotheses", "reference0", "reference1"]


def test_lines_end_at_line_feeds_only_and_windows_files_are_read(tmp_path):
    write(tmp_path / "reference0", "\ufeffone\u2028line\r\ntwo\r\n")
    texts = read_texts(tmp_path / "reference", write(tmp_path / "hyp", "x\ny\n"), n_references=1)
    assert texts.references == [["one\u2028line"], ["two"]]


def test_a_single_reference_file_may_have_any_name(tmp_path):
    hypothesis_file = write(tmp_path / "hyp", "x\n")
    reference = write(tmp_path / "gold.txt", "y\n")
    assert read_texts(reference, hypothesis_file, n_references=1).references == [["y"]]
    write(tmp_path / "gold.txt0", "z\n")
    assert read_texts(reference, hypothesis_file, n_references=1).references == [["z"]]


def test_reference_files_beyond_the_number_are_told(tmp_path, capsys):
    prefix, hypothesis_file = write_texts(tmp_path, REFERENCES, HYPOTHESES)
    read_texts(prefix, hypothesis_file, n_references=2)
    assert capsys.readouterr().err == ""
    assert read_texts(prefix, hypothesis_file, n_references=1).references == [texts[:1] for texts in REFERENCES]
    assert "reference1 exists, but -nr 1 leaves it out" in capsys.readouterr().err


def test_groups_are_labels_or_come_from_the_formatted_data(tmp_path):
    assert read_groups(write(tmp_path / "labels", "b\n a \nb\n"), n_items=3) == ["b", "a", "b"]
    rows = [("x", True), ("y", False), ("x", True), ("z", True)]
    path = jsonl(tmp_path / "test_formatted.jsonl", [{"context": text, "cate": cate} for text, cate in rows])
    assert read_groups(path, n_items=3) == ["seen", "unseen", "seen"]


def test_groups_from_the_formatted_data_are_the_items_that_the_decoder_filters(tmp_path):
    rows = [("c", False), ("a", True), ("c", False), ("b", False), ("a", True), ("d", True)]
    path = jsonl(tmp_path / "x.jsonl", [{"context": text, "completion": "t", "cate": cate} for text, cate in rows])
    items = list(read_references(path).groups)
    labels = read_groups(path, n_items=len(items))
    for wanted in ("seen", "unseen"):
        filtered = list(read_references(path, wanted).groups)
        assert [item for item, label in zip(items, labels) if label == wanted] == filtered


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("labels", "a\nb\n", r"labels for 2 items, but there are 3 hypotheses"),
        ("labels", "a\n\nb\n", r"line 2 is blank; expected the group of item 2"),
        ("labels", "a\nall\nb\n", r"line 2: 'all' names the whole set"),
        ("labels", "", r"labels is empty"),
        ("x.jsonl", '{"context": "x"}\n', r"line 1: key 'cate' is missing"),
        ("x.jsonl", '{"context": [1], "cate": true}\n', r"line 1: expected a text as 'context'"),
        (
            "x.jsonl",
            '{"context": "x", "cate": true}\n{"context": "x", "cate": false}\n',
            r"line 2: this context was seen before and is unseen now",
        ),
    ],
)
def test_groups_that_do_not_fit_are_refused(tmp_path, name, text, message):
    with pytest.raises(UserError, match=message):
        read_groups(write(tmp_path / name, text), n_items=3)


def spoil(folder, name, text):
    write_texts(folder, REFERENCES, HYPOTHESES)
    if name is not None and text is None:
        (folder / name).unlink()
    elif name is not None:
        (folder / name).write_bytes(text)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "text", "arguments", "message"),
    [
        (
            "reference1",
            None,
            [],
            r"reference1 does not exist: .* to \S*reference1 \(1 of 2 files are there\)",
        ),
        ("reference0", None, [], r"reference0 does not exist: .* correct -R or -nr"),
        ("hypothesis", None, [], r"hypothesis does not exist"),
        ("reference1", b"a\nb\n", [], r"reference1 has 2 lines, but \S*hypothesis has 3"),
        ("hypothesis", b"a\nb\nc\n\n", [], r"reference0 has 3 lines, but \S*hypothesis has 4"),
        ("hypothesis", b"", [], r"hypothesis is empty"),
        ("reference0", b"\n\n\n", [], r"reference0 is empty"),
        ("reference1", b"a\n\xff\nc\n", [], r"reference1 line 2: not UTF-8"),
        (None, None, ["-nr", "0"], r"number of references must be at least 1, got 0"),
        (None, None, ["-m", "bleu,rouge"], r"-m: 'rouge' is unknown; choose from bleu,meteor,ter"),
        (None, None, ["-m", " ,"], r"-m: none is given"),
        (None, None, ["-nc", "0"], r"-nc must be at least 1 and at most 100, got 0"),
        (None, None, ["-nw", "-1"], r"-nw must be at least 0 and at most 100, got -1"),
        (None, None, ["-b", "nan"], r"-b must be above 0 and at most 1e\+06, got nan"),
        (None, None, ["-lng", "de"], r"invalid choice: 'de'"),
        (None, None, ["--json", "no/such/folder/x.json"], r"no/such/folder does not exist"),
        (None, None, ["--groups", "nowhere"], r"nowhere does not exist"),
    ],
)
def test_wrong_input_ends_in_one_line_and_exit_code_2(tmp_path, name, text, arguments, message):
    spoil(tmp_path, name, text)
    ended = run_eval(
        "-R", tmp_path / "reference", "-H", tmp_path / "hypothesis", "-nr", 2, "-m", "ter", *arguments, cwd=tmp_path
    )
    assert ended.returncode == 2
    *_, last = ended.stderr.splitlines()
    assert "error: " in last and "Traceback" not in ended.stderr
    assert re.search(message, last), last


def test_a_blank_hypothesis_file_is_empty_but_blank_lines_are_hypotheses(tmp_path):
    prefix, hypothesis_file = write_texts(tmp_path, REFERENCES, ["", "", "x"])
    assert read_texts(prefix, hypothesis_file, n_references=2).hypotheses == ["", "", "x"]
    write(hypothesis_file, "\n\n\n")
    with pytest.raises(UserError, match="is empty"):
        read_texts(prefix, hypothesis_file, n_references=2)
