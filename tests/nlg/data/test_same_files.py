"""No program of the data steps replaces what it reads, or writes two things to one file."""

from __future__ import annotations

import shutil

import format_converting_dart
import format_converting_e2e
import format_converting_webnlg
import gpt2_decode
import gpt2_encode
import pytest

from examples.common.errors import UserError
from tests.nlg.data.programs import DATA
from tests.nlg.data.test_decode import DECODE
from tests.nlg.data.xml_twins import benchmark, entry_xml

SAME = "would be written, but it is an input too"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A working folder with a raw file of each data set, the formatted text, predictions, and a link to itself."""
    for name in ("e2e_edge.txt", "webnlg_synth.json", "dart_synth.json", "dart_synth_formatted.jsonl"):
        shutil.copy(DATA / name, tmp_path)
    shutil.copy(DECODE / "dart_pred.jsonl", tmp_path)
    (tmp_path / "xml").mkdir()
    (tmp_path / "xml" / "1.xml").write_text(benchmark([entry_xml(1, "Food", [("a", "B", "c")], [("good", "d")])]))
    (tmp_path / "here").symlink_to(".")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def contents(folder):
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def refused(folder, program, *words, message=SAME):
    before = contents(folder)
    with pytest.raises(UserError, match=message):
        program.main([str(word) for word in words])
    assert contents(folder) == before


@pytest.mark.parametrize("way", ["", "here/", "./xml/../"])
def test_a_converter_with_output_equal_to_input_is_refused(folder, way):
    refused(folder, format_converting_e2e, "e2e_edge.txt", f"{way}e2e_edge.txt")
    refused(folder, format_converting_webnlg, "webnlg_synth.json", f"{way}webnlg_synth.json")
    refused(folder, format_converting_dart, "dart_synth.json", f"{way}dart_synth.json")


def test_a_converter_does_not_replace_a_file_of_its_input_folder(folder):
    refused(folder, format_converting_webnlg, "xml", "xml/1.xml")


def test_the_encoder_with_output_equal_to_an_input_is_refused(folder, toy_vocabulary):
    shutil.copytree(toy_vocabulary, folder / "vocab")
    for output in ("dart_synth_formatted.jsonl", "here/dart_synth_formatted.jsonl", "vocab/vocab.json"):
        words = ("--input", "dart_synth_formatted.jsonl", "--vocab", "vocab", "--output", output)
        refused(folder, gpt2_encode, *words)


@pytest.mark.parametrize(
    ("references", "predictions", "more", "message"),
    [
        ("dart_synth_formatted.jsonl", "p", [], SAME),
        ("r", "dart_pred.jsonl", [], SAME),
        ("r", "here/r", [], "r would be written, but it is another output too"),
        (
            "refs",
            "refs/reference7",
            ["--ref_type", "dart"],
            "reference7 would be written, but it is another",
        ),
        ("refs", "here/refs/reference0", ["--ref_type", "webnlg"], "it is another output too"),
        ("refs", "p", ["--ref_type", "dart", "--input_file", "refs/reference9"], SAME),
    ],
)
def test_decoding_over_its_own_files_is_refused(folder, gpt2_vocabulary, references, predictions, more, message):
    (folder / "refs").mkdir()
    shutil.copy(folder / "dart_synth_formatted.jsonl", folder / "refs" / "reference9")
    files = [
        "--sample_file",
        "dart_pred.jsonl",
        "--input_file",
        "dart_synth_formatted.jsonl",
        "--vocab",
        gpt2_vocabulary,
    ]
    outputs = ["--output_ref_file", references, "--output_pred_file", predictions]
    refused(folder, gpt2_decode, *files, *outputs, *more, message=message)
