"""Predictions to text: the released files and words, aligned lines, and nothing written unless all is fine."""

from __future__ import annotations

import json
import re

import gpt2_decode
import pytest
from text.detokenize import cut_text, finish, prediction_text

from examples.common.errors import UserError
from tests.nlg.data.programs import DATA, assert_one_error_line, run
from tests.shared_data import GOLDEN, shared_path

DECODE = GOLDEN / "nlg" / "decode"
CASES = {case["name"]: case for case in json.loads((DECODE / "decode_cases.json").read_text(encoding="utf-8"))}


def arguments(vocabulary, predictions, inputs, folder) -> list[str]:
    return [
        *("--vocab", str(vocabulary), "--sample_file", str(predictions), "--input_file", str(inputs)),
        *("--output_ref_file", str(folder / "references"), "--output_pred_file", str(folder / "predictions")),
    ]


def read_folder(folder) -> dict[str, str]:
    return {path.name: path.read_text(encoding="utf-8") for path in folder.iterdir()}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["webnlg_all", "webnlg_seen", "webnlg_unseen", "dart"])
def test_webnlg_and_dart_files_are_the_released_ones(tmp_path, gpt2_vocabulary, name):
    case, kind = CASES[name], name.split("_")[0]
    inputs = DATA / f"{kind}_synth_formatted.jsonl"
    files = arguments(gpt2_vocabulary, DECODE / f"{kind}_pred.jsonl", inputs, tmp_path)
    result = run("gpt2_decode.py", *files, *case["args"])
    assert (result.returncode, result.stdout, result.stderr) == (0, case["stdout"], "")
    assert (tmp_path / "predictions").read_text(encoding="utf-8") == case["pred"]
    assert read_folder(tmp_path / "references") == case["refs"]


@pytest.mark.parametrize("name", ["e2e_default", "e2e_tokenize_lower"])
def test_e2e_files_are_the_released_ones(tmp_path, capsys, gpt2_vocabulary, name):
    recorded = shared_path("golden/nlg")
    cases = json.loads((recorded / "decode" / "decode_cases.json").read_text(encoding="utf-8"))
    (case,) = [case for case in cases if case["name"] == name]
    inputs = recorded / "data" / "e2e_test20_formatted.jsonl"
    predictions = recorded / "decode" / "e2e_pred.jsonl"
    gpt2_decode.main([*arguments(gpt2_vocabulary, predictions, inputs, tmp_path), *case["args"]])
    assert capsys.readouterr().out == case["stdout"]
    assert (tmp_path / "predictions").read_text(encoding="utf-8") == case["pred"]
    assert (tmp_path / "references").read_text(encoding="utf-8") == case["ref"]


def test_unique_ids_group_as_released_but_each_text_stays_on_its_line(tmp_path, capsys, gpt2_vocabulary):
    case = CASES["ref_unique_file"]
    unique = _write(tmp_path / "unique", "0\n0\n1\n1\n2\n")
    inputs = DATA / "dart_synth_formatted.jsonl"
    files = arguments(gpt2_vocabulary, DECODE / "dart_pred.jsonl", inputs, tmp_path)
    gpt2_decode.main([*files, *case["args"], "--ref_unique_file", str(unique)])
    assert capsys.readouterr().out == case["stdout"]
    # the released files have line breaks inside two texts, which then count as further lines
    straight = {name: text.replace("College\n joined", "College  joined") for name, text in case["refs"].items()}
    assert straight != case["refs"]
    assert read_folder(tmp_path / "references") == straight
    predictions = (tmp_path / "predictions").read_text(encoding="utf-8")
    assert predictions == case["pred"].replace("College\n joined", "College  joined")
    assert {text.count("\n") for text in [*straight.values(), predictions]} == {3}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "lines", "words"),
    [
        ("dart_filter_seen_keyerror", 5, "line 1: key 'cate' is missing"),
        ("missing_prediction_keyerror", 2, "no prediction for 2 of 3 inputs, first line 3: '[TABLECONTEXT]"),
    ],
)
def test_what_was_a_key_error_is_one_line_and_writes_nothing(tmp_path, gpt2_vocabulary, name, lines, words):
    case = CASES[name]
    some = (DECODE / "dart_pred.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)[:lines]
    files = arguments(
        gpt2_vocabulary, _write(tmp_path / "some", "".join(some)), DATA / "dart_synth_formatted.jsonl", tmp_path
    )
    result = run("gpt2_decode.py", *files, *case["args"])
    assert result.stdout == case["stdout"]
    assert_one_error_line(result, words)
    assert [path.name for path in tmp_path.iterdir()] == ["some"]


@pytest.fixture
def toy(tmp_path, toy_vocabulary, toy_bpe):
    """Runs the decoder on given rows and predictions (texts or ids); returns the two written texts."""

    def decode(rows, predictions, *flags):
        _write(tmp_path / "in", "".join(json.dumps({"context": c, "completion": y}) + "\n" for c, y in rows))
        ids = [toy_bpe.encode(text) if isinstance(text, str) else text for text in predictions]
        lines = [json.dumps({"id": id, "predict": predict}) + "\n" for id, predict in enumerate(ids)]
        _write(tmp_path / "sample", "".join(lines))
        gpt2_decode.main([*arguments(toy_vocabulary, tmp_path / "sample", tmp_path / "in", tmp_path), *flags])
        references = tmp_path / "references"
        return (
            (tmp_path / "predictions").read_text(encoding="utf-8"),
            read_folder(references) if references.is_dir() else references.read_text(encoding="utf-8"),
        )

    return decode


def test_the_last_prediction_of_equal_inputs_wins(toy):
    predictions, references = toy([("a", "1"), ("b", "2"), ("a", "3")], ["first", "other", "last"])
    assert predictions == "last\nother\n"
    assert references == "1\n3\n\n2\n\n"


def test_every_line_break_of_a_text_becomes_a_blank(toy):
    breaks = ["\n", "\r\n", "\r", "\v", "\f", "\x1c", "\x85", "\u2028", "\u2029"]
    texts = [f"x{line_break}y" for line_break in breaks]
    predictions, references = toy([(str(n), text) for n, text in enumerate(texts)], texts)
    assert predictions == "x y\n" * len(breaks)
    assert references == "x y\n\n" * len(breaks)


def test_a_prediction_ends_at_the_end_of_text_id(toy, toy_bpe):
    end, padding = toy_bpe.end_of_text, [0, 0]
    predictions, _ = toy([("a", "1"), ("b", "2")], [[*toy_bpe.encode("the cat"), end, *padding], [end, *padding]])
    assert predictions == "the cat\n\n"


def test_a_prediction_ends_at_any_end_id_that_is_named(toy, toy_bpe):
    b, first, second = (toy_bpe.encode(character)[0] for character in "b!?")
    predictions = [[b, first, second, 0], [b, second, first, 0]]
    rows = [("a", "1"), ("b", "2")]
    assert toy(rows, predictions)[0] == "b!?!\nb?!!\n"
    assert toy(rows, predictions, "--eos_token_id", str(first), "--eos_token_id", str(second))[0] == "b\nb\n"


def test_reference_files_of_an_earlier_run_do_not_stay(toy, tmp_path):
    rows, flags = [("a", "1"), ("a", "2")], ("--ref_type", "dart", "--ref_num")
    assert set(toy(rows, ["x", "y"], *flags, "4")[1]) == {f"reference{n}" for n in range(4)}
    _write(tmp_path / "references" / "reference-notes.txt", "mine")
    left = toy(rows, ["x", "y"], *flags, "2")[1]
    assert left == {"reference0": "1\n", "reference1": "2\n", "reference-notes.txt": "mine"}


@pytest.mark.parametrize(("ref_num", "expected"), [(1, ["1"]), (2, ["1", "2"]), (3, ["1", "2", "1"])])
def test_missing_references_repeat_the_first_and_further_ones_are_left_out(toy, ref_num, expected):
    references = toy([("a", "1"), ("a", "2")], ["x", "y"], "--ref_type", "webnlg", "--ref_num", str(ref_num))[1]
    assert [references[f"reference{n}"] for n in range(ref_num)] == [f"{text}\n" for text in expected]


def test_texts_are_cut_at_the_first_end():
    assert cut_text("  a\nb \n\nc") == "a\nb"
    assert cut_text("a <|endoftext|> b") == "a"
    assert cut_text("\n\na") == ""


def test_an_end_id_cuts_what_would_not_be_text(toy_bpe):
    assert prediction_text([], toy_bpe, {1}) == ""
    assert prediction_text([*toy_bpe.encode("the cat"), 5], toy_bpe, {5}) == "the cat"


@pytest.mark.parametrize(
    ("text", "tokenised"),
    [
        ("don't", "don ' t"),
        ("12.5", "12 . 5"),
        ("a_b", "a_b"),
        ("Café, £5!!", "Café , £ 5 ! !"),
        ("", ""),
        (" a  b ", "a b"),
    ],
)
def test_tokenising_sets_every_non_word_character_apart(text, tokenised):
    assert finish(text, tokenize=True, lower=False) == tokenised
    assert finish(text, tokenize=True, lower=True) == tokenised.lower()
    assert finish(text, tokenize=False, lower=False) == text


ROW = '{"context": "a", "completion": "b"}\n'
PREDICTION = '{"id": 0, "predict": [0, 1]}\n'
BROKEN = {
    "no rows": ("", PREDICTION, "in is empty"),
    "no context": ('{"completion": "b"}\n', PREDICTION, "in line 1: key 'context' is missing"),
    "ids for text": (ROW + '{"context": [1], "completion": [2]}\n', PREDICTION, "in line 2: expected texts"),
    "empty reference": ('{"context": "a", "completion": " "}\n', PREDICTION, "a reference of 'a' is empty"),
    "no predictions": (ROW, "", "sample is empty"),
    "no predict": (ROW, '{"id": 0}\n', "sample line 1: key 'predict' is missing"),
    "a text id": (ROW, '{"id": "0", "predict": []}\n', "sample line 1: 'id' must be a row number from 0, got '0'"),
    "below 0": (ROW, '{"id": -1, "predict": []}\n', "sample line 1: 'id' must be a row number from 0, got -1"),
    "id of no row": (ROW, PREDICTION + '{"id": 1, "predict": []}\n', "sample line 2: id 1, but .* only 1 rows"),
    "text for ids": (ROW, '{"id": 0, "predict": "the"}\n', "sample line 1: 'predict' must be a list of token ids"),
    "a fraction": (ROW, '{"id": 0, "predict": [1.0]}\n', "sample line 1: 'predict' must be a list of token ids"),
    "a foreign id": (ROW, PREDICTION + '{"id": 0, "predict": [50257]}\n', "sample line 2: token id 50257 is outside"),
    "a foreign id after the end": (
        ROW,
        '{"id": 0, "predict": [END, 50257]}\n',
        "sample line 1: token id 50257 is outside",
    ),
}


@pytest.mark.parametrize(("rows", "predictions", "message"), BROKEN.values(), ids=BROKEN)
def test_a_broken_file_is_named_and_nothing_written(tmp_path, toy_vocabulary, toy_bpe, rows, predictions, message):
    inputs = _write(tmp_path / "in", rows)
    sample = _write(tmp_path / "sample", predictions.replace("END", str(toy_bpe.end_of_text)))
    with pytest.raises(UserError, match=message):
        gpt2_decode.main(arguments(toy_vocabulary, sample, inputs, tmp_path))
    assert {path.name for path in tmp_path.iterdir()} == {"in", "sample"}


@pytest.mark.parametrize(
    ("unique", "message"),
    [
        ("x\n", "unique line 1: expected an integer, got 'x'"),
        ("1\n2\n", "1 rows, but .* has 2"),
        ("", "1 rows, but .* has 0"),
    ],
)
def test_broken_unique_ids_are_named(tmp_path, toy_vocabulary, unique, message):
    files = arguments(toy_vocabulary, _write(tmp_path / "s", PREDICTION), _write(tmp_path / "in", ROW), tmp_path)
    with pytest.raises(UserError, match=message):
        gpt2_decode.main([*files, "--ref_unique_file", str(_write(tmp_path / "unique", unique))])


def test_a_filter_that_leaves_nothing_is_named(tmp_path, toy_vocabulary):
    row = '{"context": "a", "completion": "b", "cate": true}\n'
    files = arguments(toy_vocabulary, _write(tmp_path / "s", PREDICTION), _write(tmp_path / "in", row), tmp_path)
    with pytest.raises(UserError, match="--filter unseen leaves no row"):
        gpt2_decode.main([*files, "--filter", "unseen"])


def test_old_results_survive_an_unwritable_second_file(tmp_path, toy_vocabulary):
    files = arguments(toy_vocabulary, _write(tmp_path / "s", PREDICTION), _write(tmp_path / "in", ROW), tmp_path)
    _write(tmp_path / "references", "old\n")
    (tmp_path / "predictions").mkdir()
    with pytest.raises(UserError, match=re.escape("predictions is a folder")):
        gpt2_decode.main(files)
    assert (tmp_path / "references").read_text() == "old\n"


@pytest.mark.slow
def test_the_program_refuses_impossible_flags(tmp_path):
    files = arguments(tmp_path, tmp_path / "s", tmp_path / "in", tmp_path)
    assert_one_error_line(run("gpt2_decode.py", *files, "--ref_num", 0), "--ref_num must be at least 1, got 0")
    result = run("gpt2_decode.py", *files, "--ref_type", "e3e")
    assert result.returncode == 2
    assert all(choice in result.stderr.splitlines()[-1] for choice in ("e3e", "e2e", "webnlg", "dart"))


def _write(path, content):
    path.write_text(content, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    "row", ['{"context": "a", "completion": "\\ud800"}\n', '{"context": "\\udfff", "completion": "b"}\n']
)
def test_half_a_surrogate_pair_is_named(tmp_path, toy_vocabulary, row):
    files = arguments(toy_vocabulary, _write(tmp_path / "s", PREDICTION), _write(tmp_path / "in", row), tmp_path)
    with pytest.raises(UserError, match="in line 1: half a surrogate pair is no text"):
        gpt2_decode.main(files)
