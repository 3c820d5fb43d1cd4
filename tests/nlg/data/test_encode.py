"""Examples to token ids: the released file, byte by byte, and errors that name the line."""

from __future__ import annotations

import json

import gpt2_encode
import pytest

from examples.common.errors import UserError
from tests.nlg.data.programs import DATA, assert_one_error_line, run
from tests.shared_data import shared_path

BOTH = ["--add_bos", "--add_eos"]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["e2e_edge", "webnlg_synth", "dart_synth"])
@pytest.mark.parametrize(("flags", "ending"), [(BOTH, ""), ([], "_nobos_noeos")])
def test_encoding_writes_the_released_file(tmp_path, gpt2_vocabulary, name, flags, ending):
    _encode(DATA / f"{name}_formatted.jsonl", gpt2_vocabulary, tmp_path / "out", *flags)
    assert (tmp_path / "out").read_bytes() == (DATA / f"{name}{ending}.jsonl").read_bytes()


@pytest.mark.slow
def test_the_program_encodes_real_lines_silently(tmp_path, gpt2_vocabulary):
    recorded = shared_path("golden/nlg/data")
    files = ["--input", recorded / "e2e_test20_formatted.jsonl", "--output", tmp_path / "out"]
    result = run("gpt2_encode.py", *files, "--vocab", gpt2_vocabulary, *BOTH)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
    assert (tmp_path / "out").read_bytes() == (recorded / "e2e_test20.jsonl").read_bytes()


def test_each_flag_appends_the_end_id_to_its_own_part(tmp_path, toy_vocabulary, toy_bpe):
    source = _write(tmp_path / "in", '{"context": "the cat", "completion": "sat"}\n')
    end = [toy_bpe.end_of_text]
    context, completion = toy_bpe.encode("the cat"), toy_bpe.encode(" sat")
    for flags, expected in {
        (): (context, completion),
        ("--add_bos",): (context + end, completion),
        ("--add_eos",): (context, completion + end),
    }.items():
        _encode(source, toy_vocabulary, tmp_path / "out", *flags)
        assert tuple(json.loads((tmp_path / "out").read_text()).values()) == expected


@pytest.mark.parametrize(
    "n_rows", [1, gpt2_encode.ROWS_AT_ONCE - 1, gpt2_encode.ROWS_AT_ONCE, gpt2_encode.ROWS_AT_ONCE + 1]
)
def test_blocks_of_rows_lose_none_and_keep_their_order(tmp_path, toy_vocabulary, toy_bpe, n_rows):
    rows = [{"context": f"{n}", "completion": f"{n} cats"} for n in range(n_rows)]
    _encode(_write(tmp_path / "in", "".join(json.dumps(row) + "\n" for row in rows)), toy_vocabulary, tmp_path / "out")
    encoded = [json.loads(line) for line in (tmp_path / "out").read_text().splitlines()]
    assert [toy_bpe.decode(row["context"]) for row in encoded] == [row["context"] for row in rows]
    assert [toy_bpe.decode(row["completion"]) for row in encoded] == [" " + row["completion"] for row in rows]


GOOD = '{"context": "a", "completion": "b"}\n'
BROKEN = {
    "empty file": ("", "in is empty"),
    "no JSON": (GOOD + "{\n", "in line 2: not JSON"),
    "blank line": (GOOD + "\n", "in line 2: not JSON"),
    "a list": (GOOD + "[]\n", "in line 2: expected a JSON object"),
    "no completion": (GOOD + '{"context": "a"}\n', "in line 2: key 'completion' is missing"),
    "encoded before": (
        GOOD + '{"context": "a", "completion": [1]}\n',
        "in line 2: 'completion' must be a text, got [1]",
    ),
    "no UTF-8": (GOOD + GOOD.replace("a", "\udcff"), "in line 2: not UTF-8"),
    "half a pair": (GOOD * 3 + GOOD.replace("a", "\\ud83d"), "in line 4: half a surrogate pair"),
}


@pytest.mark.parametrize(("content", "message"), BROKEN.values(), ids=BROKEN)
def test_a_broken_line_is_named_and_nothing_written(tmp_path, toy_vocabulary, content, message):
    source = _write(tmp_path / "in", content)
    with pytest.raises(UserError) as error:
        _encode(source, toy_vocabulary, tmp_path / "out")
    assert message in str(error.value)
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


def test_a_vocabulary_without_end_of_text_cannot_add_it(tmp_path, toy_vocabulary):
    folder = tmp_path / "vocabulary"
    folder.mkdir()
    vocabulary = json.loads((toy_vocabulary / "vocab.json").read_text(encoding="utf-8"))
    del vocabulary["<|endoftext|>"]
    _write(folder / "vocab.json", json.dumps(vocabulary))
    (folder / "merges.txt").write_bytes((toy_vocabulary / "merges.txt").read_bytes())
    _encode(_write(tmp_path / "in", GOOD), folder, tmp_path / "out")
    with pytest.raises(UserError, match=r"no <\|endoftext\|> entry"):
        _encode(tmp_path / "in", folder, tmp_path / "out2", "--add_eos")
    assert not (tmp_path / "out2").exists()


@pytest.mark.slow
def test_the_program_ends_with_one_line_and_code_2(tmp_path, toy_vocabulary):
    source = _write(tmp_path / "in", GOOD + "{\n")
    files = ["--input", source, "--output", tmp_path / "out"]
    assert_one_error_line(run("gpt2_encode.py", *files, "--vocab", toy_vocabulary), "in line 2: not JSON")
    assert_one_error_line(run("gpt2_encode.py", *files, "--vocab", tmp_path / "none"), "none does not exist")
    nowhere = ["--input", source, "--output", tmp_path / "no" / "out"]
    assert_one_error_line(run("gpt2_encode.py", *nowhere, "--vocab", toy_vocabulary), "does not exist")
    missing = run("gpt2_encode.py")
    assert missing.returncode == 2
    assert missing.stderr.splitlines()[-1].endswith("are required: --input, --vocab, --output")


def _encode(source, vocabulary, output, *flags) -> None:
    gpt2_encode.main(["--input", str(source), "--vocab", str(vocabulary), "--output", str(output), *flags])


def _write(path, content):
    path.write_bytes(content.encode("utf-8", errors="surrogateescape"))
    return path
