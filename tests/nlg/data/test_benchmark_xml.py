"""WebNLG and DART in XML give the rows of their JSON twins; broken or hostile XML is refused with its place."""

from __future__ import annotations

import gzip
import json

import format_converting_dart
import format_converting_webnlg
import pytest

from examples.common.errors import UserError
from tests.nlg.data.programs import DATA, assert_one_error_line, run
from tests.nlg.data.xml_twins import benchmark, dart_entries, entry_xml, webnlg_entries
from tests.shared_data import shared_path

CONVERTERS = {"webnlg": format_converting_webnlg, "dart": format_converting_dart}
TWINS = {"webnlg": webnlg_entries, "dart": dart_entries}
REAL = {"webnlg": "data/webnlg/dev.json.gz", "dart": "data/dart/dart-v1.1.1-full-dev.json.gz"}
A_TRIPLE = "<modifiedtripleset><mtriple>a | b | c</mtriple></modifiedtripleset>"
A_TEXT = '<lex comment="good" lid="Id1">x</lex>'


def rows(kind, source, folder) -> bytes:
    output = folder / "out.jsonl"
    CONVERTERS[kind].main([str(source), str(output)])
    return output.read_bytes()


def same_from_both(kind, raw, folder, capsys) -> None:
    (folder / "raw.json").write_text(raw, encoding="utf-8")
    (folder / "raw.xml").write_text(benchmark(TWINS[kind](json.loads(raw))), encoding="utf-8", newline="")
    from_json = rows(kind, folder / "raw.json", folder)
    printed = capsys.readouterr().out
    assert rows(kind, folder / "raw.xml", folder) == from_json
    assert capsys.readouterr().out == printed


@pytest.mark.parametrize("kind", CONVERTERS)
def test_xml_gives_the_rows_and_words_of_json(tmp_path, capsys, kind):
    same_from_both(kind, (DATA / f"{kind}_synth.json").read_text(encoding="utf-8"), tmp_path, capsys)


@pytest.mark.slow
@pytest.mark.parametrize("kind", CONVERTERS)
def test_the_xml_of_a_real_split_gives_the_rows_of_its_json(tmp_path, capsys, kind):
    raw = gzip.decompress(shared_path(REAL[kind]).read_bytes()).decode("utf-8")
    same_from_both(kind, raw, tmp_path, capsys)


def test_a_folder_is_read_file_by_file_in_the_order_of_paths(tmp_path, capsys):
    data = json.loads((DATA / "webnlg_synth.json").read_text(encoding="utf-8"))
    (tmp_path / "raw.json").write_text(json.dumps(data), encoding="utf-8")
    first, second, *rest = webnlg_entries(data)
    for name, entries in {"2triples/A.xml": rest, "1triples/A.xml": [first], "1triples/B.XML.xml": [second]}.items():
        (tmp_path / "train" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "train" / name).write_text(benchmark(entries), encoding="utf-8")
    assert rows("webnlg", tmp_path / "train", tmp_path) == rows("webnlg", tmp_path / "raw.json", tmp_path)


def test_outer_blanks_of_a_text_stay_and_those_of_triple_parts_go(tmp_path):
    entry = entry_xml(1, "City", [(" a", "b ", "c\n")], [("good", " one\ttwo ")])
    (tmp_path / "raw.xml").write_text(benchmark([entry]), encoding="utf-8")
    assert json.loads(rows("webnlg", tmp_path / "raw.xml", tmp_path)) == {
        "context": "a : b : c",
        "completion": " one\ttwo ",
        "cate": True,
    }


@pytest.mark.parametrize(
    ("text", "context"),
    [
        ("a|b|c", "a : b : c"),
        ("a | b | c | d", "a : b : c | d"),
        ("a b|c | d | e", "a b|c : d : e"),
        (" |  | ", " :  : "),
    ],
)
def test_the_first_two_bars_part_a_triple(tmp_path, text, context):
    entry = A_TEXT.join(["<modifiedtripleset><mtriple>" + text + "</mtriple></modifiedtripleset>", ""])
    (tmp_path / "raw.xml").write_text(benchmark([f"<entry>{entry}</entry>"]), encoding="utf-8")
    assert json.loads(rows("dart", tmp_path / "raw.xml", tmp_path))["context"] == context


def one(entry: str) -> str:
    return benchmark([f'<entry category="City" eid="Id9">{entry}</entry>'])


LAUGHS = '<!DOCTYPE benchmark [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;&a;">]><benchmark>&b;</benchmark>'
OUTSIDE = '<!DOCTYPE benchmark [<!ENTITY a SYSTEM "file:///etc/hostname">]><benchmark>&a;</benchmark>'
BROKEN = {
    "no XML": ("<benchmark>\n<entries></benchmark>", "raw.xml line 2: not XML (mismatched tag)"),
    "empty file": ("", "raw.xml line 1: not XML (no element found)"),
    "no UTF-8": ('<?xml version="1.0"?>\n<benchmark>\udcff</benchmark>', "raw.xml line 2: not XML"),
    "unknown encoding": ('<?xml version="1.0" encoding="x-none"?><benchmark/>', "raw.xml"),
    "growing entities": (LAUGHS, "raw.xml line 1: a DTD (<!DOCTYPE ...>) is not accepted"),
    "an external entity": (OUTSIDE, "raw.xml line 1: a DTD (<!DOCTYPE ...>) is not accepted"),
    "another document": ("<html/>", "expected <benchmark> with <entries>, as WebNLG and DART have, got <html>"),
    "no entries": ("<benchmark><entries/></benchmark>", "raw.xml holds no example"),
    "no triples": (one(A_TEXT), "raw.xml entry 1 (eid 'Id9'): <modifiedtripleset> is missing"),
    "half a triple": (one(A_TRIPLE.replace(" | c", "") + A_TEXT), "entry 1 (eid 'Id9'): expected <mtriple>subject | "),
    "an element in a text": (one(A_TRIPLE + A_TEXT.replace(">x<", "><b/><")), "entry 1 (eid 'Id9'): <lex> holds <b>"),
}


@pytest.mark.parametrize("kind", CONVERTERS)
@pytest.mark.parametrize(("content", "message"), BROKEN.values(), ids=BROKEN)
def test_broken_xml_is_refused_with_its_place_and_writes_nothing(tmp_path, kind, content, message):
    (tmp_path / "raw.xml").write_bytes(content.encode("utf-8", errors="surrogateescape"))
    with pytest.raises(UserError) as error:
        CONVERTERS[kind].main([str(tmp_path / "raw.xml"), str(tmp_path / "out.jsonl")])
    assert message in str(error.value)
    assert not (tmp_path / "out.jsonl").exists()


def test_the_second_entry_is_named_by_its_number(tmp_path):
    good = entry_xml(1, "City", [("a", "b", "c")], [("good", "x")])
    (tmp_path / "raw.xml").write_text(benchmark([good, good.replace(' category="City"', "")]), encoding="utf-8")
    result = run("format_converting_webnlg.py", tmp_path / "raw.xml", tmp_path / "out")
    assert_one_error_line(result, "raw.xml entry 2 (eid 'Id1'): attribute 'category' is missing")


def test_a_text_without_a_comment_is_refused_where_comments_decide(tmp_path):
    bare = one(A_TRIPLE + A_TEXT.replace(' comment="good"', ""))
    (tmp_path / "raw.xml").write_text(bare, encoding="utf-8")
    with pytest.raises(UserError, match=r"entry 1 \(eid 'Id9'\): key 'comment' is missing"):
        rows("webnlg", tmp_path / "raw.xml", tmp_path)
    assert json.loads(rows("dart", tmp_path / "raw.xml", tmp_path)) == {"context": "a : b : c", "completion": "x"}


@pytest.mark.parametrize("kind", CONVERTERS)
def test_a_folder_without_xml_is_refused(tmp_path, kind):
    result = run(f"format_converting_{kind}.py", tmp_path, tmp_path / "out")
    assert_one_error_line(result, "is a folder without .xml files")
