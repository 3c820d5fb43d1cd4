"""Reading references and hypotheses, and the one-line messages for every kind of wrong input."""

from __future__ import annotations

import gzip

import pytest
from metrics.e2e import score_e2e
from metrics.e2e_files import read_references, read_system_output

from examples.common.errors import UserError
from tests.metrics.e2e_programs import measure_scores
from tests.shared_data import shared_path

REFERENCES = "The Oak is a pub.\nA pub: The Oak.\n\nIt is cheap.\n"


@pytest.fixture
def write(tmp_path):
    def write_file(name, content):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8"))
        return path

    return write_file


@pytest.mark.parametrize(
    "content",
    [
        "a b\nc\n\nd\n",
        "a b\nc\n\nd",
        "\n\na b\nc\n \n\n\nd\n\n\n",
        "a b\r\nc\r\n\r\nd\r\n",
        "\ufeffa b\nc\n\nd\n\n",
    ],
)
def test_blank_lines_separate_the_items(write, content):
    assert read_references(write("r.txt", content)) == [["a b", "c"], ["d"]]


def test_neighbouring_rows_of_a_csv_with_an_equal_source_are_one_item(write):
    rows = 'MR,Ref\n"n[A], x[1]","a, ""b"""\n"n[A], x[1]",c\nn[B],d\n'
    assert read_references(write("r.csv", rows)) == [['a, "b"', "c"], ["d"]]
    assert read_references(write("r.tsv", "src\treference\nA\ta\nA\tc\nB\td\n")) == [["a", "c"], ["d"]]


def test_a_source_that_comes_back_starts_a_new_item_with_a_warning(write, capsys):
    assert read_references(write("r.csv", "mr,ref\nA,a\nB,b\nA,c\n")) == [["a"], ["b"], ["c"]]
    assert "1 sources come back after other rows" in capsys.readouterr().err


def test_the_csv_of_the_challenge_gives_the_same_references_as_the_text_file(write):
    with gzip.open(shared_path("data/e2e/testset_w_refs.csv.gz")) as stream:
        csv_path = write("testset.csv", stream.read())
    text_path = shared_path("golden/metrics/e2e/test_refs.txt")
    assert read_references(csv_path) == read_references(text_path)


def test_a_blank_line_is_an_empty_hypothesis(write):
    assert read_system_output(write("h.txt", "a\n\nb\n"), n_expected=3) == ["a", "", "b"]
    assert read_system_output(write("h.txt", "a\n\n"), n_expected=2) == ["a", ""]


def test_surplus_blank_lines_at_the_end_are_no_hypotheses(write):
    assert read_system_output(write("h.txt", "a\nb\n\n\n"), n_expected=2) == ["a", "b"]


def test_an_empty_hypothesis_scores_0_in_its_segment():
    texts = ["a b c d e", "f g h i j"]
    result = score_e2e(
        [[text] for text in texts], [texts[0], ""], definition="perl", with_java=False, with_segments=True
    )
    assert [row[1] for row in result["segments"].values()] == [0.0, 0.0, 0.0]
    assert 0 < result["scores"]["BLEU"] < 1


def test_the_source_check_accepts_the_right_order_and_names_the_first_wrong_item(write):
    output = write("h.tsv", "mr\toutput\nA\ta\nB\tb\n")
    for name, content in (("s.txt", "A\nB\n"), ("s.csv", "MR\nA\nB\n")):
        assert read_system_output(output, n_expected=2, source_path=write(name, content)) == ["a", "b"]
    with pytest.raises(UserError, match=r"h\.tsv item 2: its source is 'B', but .*s\.txt has 'C' there"):
        read_system_output(output, n_expected=2, source_path=write("s.txt", "A\nC\n"))
    with pytest.raises(UserError, match=r"has 1 sources, but .* has 2 hypotheses"):
        read_system_output(output, n_expected=2, source_path=write("s.txt", "A\n"))
    with pytest.raises(UserError, match=r"-s checks the source column of a \.csv or \.tsv output"):
        read_system_output(write("h.txt", "a\nb\n"), n_expected=2, source_path=write("s.txt", "A\nB\n"))


WRONG_INPUT = {
    "missing references": (None, "a\nb\n", "r.txt does not exist"),
    "missing hypotheses": (REFERENCES, None, "h.txt does not exist"),
    "empty references": ("", "a\nb\n", "r.txt is empty; expected references"),
    "blank references": ("\n \n", "a\nb\n", "r.txt is empty; expected references"),
    "empty hypotheses": (REFERENCES, "", "h.txt is empty; expected 2 hypotheses"),
    "too few hypotheses": (REFERENCES, "a\n", "h.txt has 1 hypotheses, but the references are for 2 items"),
    "too many hypotheses": (REFERENCES, "a\nb\nc\n", "h.txt has 3 hypotheses, but the references are for 2 items"),
    "hypotheses with blank lines between": (REFERENCES, "a\n\nb\n", "it has blank lines, without which"),
    "references not UTF-8": (b"caf\xe9\n\nb\n", "a\nb\n", "r.txt line 1: not UTF-8 text"),
    "hypotheses not UTF-8": (REFERENCES, b"caf\xe9\nb\n", "h.txt line 1: not UTF-8 text"),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", WRONG_INPUT)
def test_wrong_input_ends_with_one_line_and_exit_code_2(case, write, tmp_path):
    references, hypotheses, message = WRONG_INPUT[case]
    for name, content in (("r.txt", references), ("h.txt", hypotheses)):
        if content is not None:
            write(name, content)
    ended = measure_scores("--json", tmp_path / "out.json", tmp_path / "r.txt", tmp_path / "h.txt")
    assert (ended.returncode, ended.stdout) == (2, "")
    assert message in ended.stderr
    assert len(ended.stderr.splitlines()) == 1
    assert not (tmp_path / "out.json").exists()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("r.csv", "mr,ref\n", "is empty; expected a header line and rows"),
        ("r.csv", "mr,sentence\nA,a\n", "line 1: expected one of the columns ref, reference.*found"),
        ("r.csv", "ref\na\n", "need a source column"),
        ("r.csv", "mr,ref\nA,a\nB\n", "line 3: expected 2 columns as in the header, found 1"),
        ("r.csv", 'mr,ref\nA,"a\n', "line 2: not a well-formed table"),
    ],
)
def test_a_wrong_table_names_the_line(write, name, content, message):
    with pytest.raises(UserError, match=message):
        read_references(write(name, content))


def test_a_folder_for_a_file_is_named(tmp_path):
    ended = measure_scores(tmp_path, tmp_path)
    assert ended.returncode == 2
    assert "is a folder" in ended.stderr


@pytest.mark.parametrize("seconds", ["0", "-1", "nan", "soon"])
def test_a_time_out_that_is_no_time_is_refused(seconds):
    ended = measure_scores(f"--java-timeout={seconds}", "r.txt", "h.txt")
    assert ended.returncode == 2
    assert "--java-timeout" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_wrong_arguments_of_the_function_are_named():
    with pytest.raises(ValueError, match="1 hypotheses for 2 items"):
        score_e2e([["a"], ["b"]], ["a"])
    with pytest.raises(ValueError, match="item 2 needs a list of at least one reference"):
        score_e2e([["a"], []], ["a", "b"])
    with pytest.raises(ValueError, match="item 1 needs a list of at least one reference, got 'abc'"):
        score_e2e(["abc"], ["a"])
    with pytest.raises(ValueError, match="no items"):
        score_e2e([], [])
