"""Raw files to examples: the released rows, the released words, and one clear line for every broken file."""

from __future__ import annotations

import gzip
import hashlib
import json

import format_converting_dart
import format_converting_e2e
import format_converting_webnlg
import gpt2_encode
import pytest

from examples.common.errors import UserError
from tests.nlg.data.programs import DATA, assert_one_error_line, run
from tests.shared_data import shared_path

CONVERTERS = {"e2e": format_converting_e2e, "webnlg": format_converting_webnlg, "dart": format_converting_dart}
STDOUT = json.loads((DATA / "stdout.json").read_text(encoding="utf-8"))
CHECKSUMS = json.loads((DATA / "full_file_checksums.json").read_text(encoding="utf-8"))
WHOLE_FILES = {
    "e2e/valid": ("e2e", "data/e2e/lora_format/valid.txt.gz"),
    "e2e/test": ("e2e", "data/e2e/lora_format/test.txt.gz"),
    "webnlg_challenge_2017/valid": ("webnlg", "data/webnlg/dev.json.gz"),
    "dart/valid": ("dart", "data/dart/dart-v1.1.1-full-dev.json.gz"),
}


@pytest.mark.parametrize("name", ["e2e_edge.txt", "webnlg_synth.json", "dart_synth.json"])
def test_a_converter_writes_the_released_rows_and_words(tmp_path, name):
    stem = name.split(".")[0]
    result = run(f"format_converting_{stem.split('_')[0]}.py", DATA / name, tmp_path / "out.jsonl")
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout == STDOUT[f"{stem}_formatted.jsonl"]
    assert (tmp_path / "out.jsonl").read_bytes() == (DATA / f"{stem}_formatted.jsonl").read_bytes()


def test_real_e2e_lines_get_the_released_rows(tmp_path):
    recorded = shared_path("golden/nlg/data")
    format_converting_e2e.main([str(recorded / "e2e_test20.txt"), str(tmp_path / "out.jsonl")])
    assert (tmp_path / "out.jsonl").read_bytes() == (recorded / "e2e_test20_formatted.jsonl").read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("name", WHOLE_FILES)
def test_a_whole_data_set_gets_the_released_bytes(tmp_path, capsys, gpt2_vocabulary, name):
    kind, source = WHOLE_FILES[name]
    expected = CHECKSUMS[name]
    raw, formatted, encoded = (tmp_path / f for f in ("raw", "formatted.jsonl", "encoded.jsonl"))
    raw.write_bytes(gzip.decompress(shared_path(source).read_bytes()))
    CONVERTERS[kind].main([str(raw), str(formatted)])
    assert capsys.readouterr().out == expected["stdout"]
    assert _sha256(formatted) == expected["formatted_sha256"]
    files = ["--input", str(formatted), "--vocab", str(gpt2_vocabulary), "--output", str(encoded)]
    gpt2_encode.main([*files, "--add_bos", "--add_eos"])
    assert _sha256(encoded) == expected["bpe_sha256"]


def test_official_csv_rows_keep_their_text_and_get_the_slot_style(tmp_path):
    source = _write(
        tmp_path / "trainset.CSV",
        '\ufeffmr,ref\n"name[The A, B], eatType[pub], priceRange[more than £30], familyFriendly[yes]","One, ""two""."\n'
        "name[C],Only C\n",
    )
    rows = list(format_converting_e2e.read_csv(source))
    assert rows == [
        {
            "context": "name : The A, B | Type : pub | price : more than £30 | family friendly : yes",
            "completion": 'One, "two".',
        },
        {"context": "name : C", "completion": "Only C"},
    ]
    format_converting_e2e.main([str(source), str(tmp_path / "out.jsonl")])
    assert [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()] == rows


def test_every_official_csv_row_has_the_representation_of_the_text_format(tmp_path):
    source = tmp_path / "devset.csv"
    source.write_bytes(gzip.decompress(shared_path("data/e2e/devset.csv.gz").read_bytes()))
    text = tmp_path / "valid.txt"
    text.write_bytes(gzip.decompress(shared_path("data/e2e/lora_format/valid.txt.gz").read_bytes()))
    from_csv, from_text = format_converting_e2e.read_csv(source), format_converting_e2e.read_text(text)
    for csv_row, text_row in zip(from_csv, from_text, strict=True):
        for part in ("context", "completion"):  # the text format is tokenised: more blanks, the same characters
            assert "".join(csv_row[part].split()) == "".join(text_row[part].split())


def test_webnlg_entries_are_read_in_any_order(tmp_path):
    entries = json.loads((DATA / "webnlg_synth.json").read_text(encoding="utf-8"))["entries"]
    straight = _webnlg_rows(tmp_path, entries)
    turned = _webnlg_rows(tmp_path, entries[::-1])
    assert turned != straight
    assert sorted(turned) == sorted(straight)


def _webnlg_rows(tmp_path, entries) -> list[str]:
    source = _write(tmp_path / "raw.json", json.dumps({"entries": entries}))
    format_converting_webnlg.main([str(source), str(tmp_path / "out.jsonl")])
    return (tmp_path / "out.jsonl").read_text(encoding="utf-8").splitlines()


def _webnlg(**changes: object) -> str:
    triple = {"subject": "a", "property": "b", "object": "c"}
    entry: dict[str, object] = {
        "category": "City",
        "modifiedtripleset": [triple],
        "lexicalisations": [{"comment": "good", "lex": "x"}],
    }
    changed = {key: value for key, value in {**entry, **changes}.items() if value is not None}
    return json.dumps({"entries": [{"1": changed}]})


def _dart(tripleset: object = (("a", "b", "c"),), annotations: object = ({"text": "x"},)) -> str:
    return json.dumps([{"tripleset": tripleset, "annotations": annotations}])


BROKEN = {
    ("e2e", "no separator"): ("a||b\nno separator\n", "raw line 2: expected 'meaning representation||sentence'"),
    ("e2e", "blank line"): ("a||b\n\nc||d\n", "raw line 2: expected"),
    ("e2e", "empty file"): ("", "raw holds no example"),
    ("e2e", "no UTF-8"): ("a||b\nc||\udcff\n", "raw line 2: not UTF-8"),
    ("e2e.csv", "empty file"): ("", "raw.csv line 1: expected the columns mr and ref, got ''"),
    ("e2e.csv", "no references"): ("MR\nname[A]\n", "line 1: expected the columns mr and ref"),
    ("e2e.csv", "header alone"): ("mr,ref\n", "raw.csv holds no example"),
    ("e2e.csv", "no sentence"): ("mr,ref\nname[A]\n", "line 2: expected a meaning representation and a sentence"),
    ("e2e.csv", "no slot"): ('mr,ref\nname[A],x\n"name[A], pub",y\n', "line 3: expected slots"),
    ("e2e.csv", "open quote"): ('mr,ref\n"name[A],x\n', "line 2: not CSV"),
    ("e2e.csv", "no UTF-8"): ("mr,ref\nname[A],\udcff\n", "raw.csv line 2: not UTF-8"),
    ("webnlg", "no JSON"): ('{"entries":\n [}', "raw line 2: not JSON"),
    ("webnlg", "no UTF-8"): ('{"entries":\n "\udcff"}', "raw line 2: not UTF-8"),
    ("webnlg", "empty file"): ("", "raw line 1: not JSON"),
    ("webnlg", "a list"): ("[]", "raw: expected an object, got []"),
    ("webnlg", "no entries"): ("{}", "raw: key 'entries' is missing"),
    ("webnlg", "none"): ('{"entries": []}', "raw holds no example"),
    ("webnlg", "no number"): ('{"entries": [{"7": {}, "8": {}}]}', "entry 1: expected one object under its number"),
    ("webnlg", "another number"): ('{"entries": [{"7": {}}]}', "entry 1 (numbered '7'): key 'category' is missing"),
    ("webnlg", "no category"): (_webnlg(category=None), "entry 1: key 'category' is missing"),
    ("webnlg", "no triples"): (_webnlg(modifiedtripleset=None), "entry 1: key 'modifiedtripleset' is missing"),
    ("webnlg", "half a triple"): (_webnlg(modifiedtripleset=[{"subject": "a"}]), "entry 1: key 'property' is missing"),
    ("webnlg", "no comment"): (_webnlg(lexicalisations=[{"lex": "x"}]), "entry 1: key 'comment' is missing"),
    ("webnlg", "a number"): (_webnlg(lexicalisations=[{"comment": "good", "lex": 1}]), "'lex': expected a text, got 1"),
    ("dart", "an object"): ("{}", "raw: expected a list"),
    ("dart", "no JSON"): ("[\n\n!", "raw line 3: not JSON"),
    ("dart", "empty list"): ("[]", "raw holds no example"),
    ("dart", "no triples"): ('[{"annotations": []}]', "entry 1: key 'tripleset' is missing"),
    ("dart", "half a triple"): (_dart(tripleset=[["a", "b"]]), "entry 1: expected a triple of three texts"),
    ("dart", "no text"): (_dart(annotations=[{}]), "entry 1: key 'text' is missing"),
    ("dart", "a text"): (_dart(annotations="x"), "'annotations': expected a list, got 'x'"),
}


@pytest.mark.parametrize(("key", "content", "message"), [(k, *v) for k, v in BROKEN.items()], ids=map(" ".join, BROKEN))
def test_a_broken_file_is_refused_with_its_place_and_writes_nothing(tmp_path, key, content, message):
    kind, _, suffix = key[0].partition(".")
    source = _write(tmp_path / ("raw.csv" if suffix else "raw"), content)
    with pytest.raises(UserError) as error:
        CONVERTERS[kind].main([str(source), str(tmp_path / "out.jsonl")])
    assert message in str(error.value)
    assert [path.name for path in tmp_path.iterdir()] == [source.name]


@pytest.mark.slow
@pytest.mark.parametrize("kind", CONVERTERS)
def test_a_converter_ends_with_one_line_and_code_2(tmp_path, kind):
    broken = _write(tmp_path / "raw", "no separator and no JSON\n")
    assert_one_error_line(run(f"format_converting_{kind}.py", broken, tmp_path / "out"), "raw line 1: ")
    assert_one_error_line(run(f"format_converting_{kind}.py", tmp_path / "none", tmp_path / "out"), "does not exist")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("kind", CONVERTERS)
def test_a_converter_names_missing_arguments(kind):
    result = run(f"format_converting_{kind}.py")
    assert result.returncode == 2
    assert result.stderr.splitlines()[-1].endswith("the following arguments are required: input, output")


def test_an_old_output_survives_a_broken_input(tmp_path):
    output = _write(tmp_path / "out", "from an earlier run\n")
    with pytest.raises(UserError):
        format_converting_e2e.main([str(_write(tmp_path / "raw", "a||b\nbroken\n")), str(output)])
    assert output.read_text() == "from an earlier run\n"


def _write(path, content):
    path.write_bytes(content.encode("utf-8", errors="surrogateescape"))
    return path


def _sha256(path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
