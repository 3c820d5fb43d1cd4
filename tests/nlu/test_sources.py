"""Examples from official TSV folders and from files of one's own; what is wrong in a file is said with its line."""

from __future__ import annotations

import gzip
import json

import pytest
from glue.features import label_order, tokenize
from glue.sources import Examples, from_files, from_folder
from glue.tasks import TASKS
from transformers import PreTrainedTokenizerFast

from examples.common.errors import UserError
from tests.nlu.world import make_tokenizer
from tests.shared_data import shared_path

HEADERS = {
    "cola": None,
    "mnli": "index\tpromptID\tpairID\tgenre\tb1\tb2\tp1\tp2\tsentence1\tsentence2\tlabel1\tgold_label",
    "mrpc": "\ufeffQuality\t#1 ID\t#2 ID\t#1 String\t#2 String",
    "qnli": "index\tquestion\tsentence\tlabel",
    "qqp": "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate",
    "rte": "index\tsentence1\tsentence2\tlabel",
    "sst2": "sentence\tlabel",
    "stsb": "index\tgenre\tfilename\tyear\told_index\tsource1\tsource2\tsentence1\tsentence2\tscore",
    "wnli": "index\tsentence1\tsentence2\tlabel",
}
LINES = {
    "cola": ('gj04\t1\t\tA "B" c.', {"sentence": 'A "B" c.', "label": "acceptable"}),
    "mnli": ("0\tp\tq\tg\t\t\t\t\tA.\tB.\tneutral\tneutral", {"premise": "A.", "hypothesis": "B.", "label": "neutral"}),
    "mrpc": ('0\t1\t2\tA.\t"B.', {"sentence1": "A.", "sentence2": '"B.', "label": "not_equivalent"}),
    "qnli": ("0\tA?\tB.\tentailment", {"question": "A?", "sentence": "B.", "label": "entailment"}),
    "qqp": ("0\t1\t2\tA?\tB?\t1", {"question1": "A?", "question2": "B?", "label": "duplicate"}),
    "rte": ("0\tA.\tB.\tnot_entailment", {"sentence1": "A.", "sentence2": "B.", "label": "not_entailment"}),
    "sst2": ("a b \t0", {"sentence": "a b ", "label": "negative"}),
    "stsb": ("0\tg\tf\t2012\t1\tn\tn\tA.\tB.\t2.500", {"sentence1": "A.", "sentence2": "B.", "label": "2.500"}),
    "wnli": ("0\tA.\tB.\t1", {"sentence1": "A.", "sentence2": "B.", "label": "entailment"}),
}


def write_train(folder, task, lines):
    path = folder / TASKS[task].folder
    path.mkdir(parents=True)
    header = [HEADERS[task]] if HEADERS[task] else []
    (path / "train.tsv").write_text("\n".join([*header, *lines]) + "\n", encoding="utf-8")
    return path / "train.tsv"


@pytest.mark.parametrize("task", sorted(TASKS))
def test_each_official_layout_is_read(task, tmp_path):
    line, row = LINES[task]
    write_train(tmp_path, task, [line, line])
    for folder in (tmp_path, tmp_path / TASKS[task].folder):
        assert from_folder(str(folder), TASKS[task], ["train"]).splits == {"train": [row, row]}


TEST_HEADERS = {
    "cola": "index\tsentence",
    "mnli": "index\tpromptID\tpairID\tgenre\tb1\tb2\tp1\tp2\tsentence1\tsentence2",
    "mrpc": "index\t#1 ID\t#2 ID\t#1 String\t#2 String",
    "qnli": "index\tquestion\tsentence",
    "qqp": "id\tquestion1\tquestion2",
    "rte": "index\tsentence1\tsentence2",
    "sst2": "index\tsentence",
    "stsb": "index\tgenre\tfilename\tyear\told_index\tsource1\tsource2\tsentence1\tsentence2",
    "wnli": "index\tsentence1\tsentence2",
}


@pytest.mark.parametrize("task", sorted(TASKS))
def test_each_official_test_file_is_read_without_a_label(task, tmp_path):
    """Test files have columns of their own: QQP's lack the ids of its questions, SST-2's and CoLA's have an index."""
    names = TEST_HEADERS[task].split("\t")
    texts = ["A.", "B."][: len(TASKS[task].sentences)]
    fields = [texts[TASKS[task].tsv_columns.index(name)] if name in TASKS[task].tsv_columns else "7" for name in names]
    (tmp_path / TASKS[task].folder).mkdir()
    suffixes = ("_matched", "_mismatched") if task == "mnli" else ("",)
    for suffix in suffixes:
        path = tmp_path / TASKS[task].folder / f"test{suffix}.tsv"
        path.write_text("\n".join([TEST_HEADERS[task], "\t".join(fields)]) + "\n", encoding="utf-8")
    examples = from_folder(str(tmp_path), TASKS[task], list(TASKS[task].test_splits))
    expected = dict(zip(TASKS[task].sentences, texts))
    assert examples.splits == {f"test{suffix}": [expected] for suffix in suffixes}


def test_both_halves_of_mnli_dev_have_five_votes_before_their_label(tmp_path):
    (tmp_path / "MNLI").mkdir()
    votes = "\t".join(f"label{i}" for i in range(1, 6))
    header = HEADERS["mnli"].replace("label1", votes)
    for half, label in (("matched", "neutral"), ("mismatched", "contradiction")):
        line = "\t".join(["0", "p", "q", "g", "", "", "", "", "A.", "B.", *["entailment"] * 5, label])
        (tmp_path / f"MNLI/dev_{half}.tsv").write_text(f"{header}\n{line}\n", encoding="utf-8")
    splits = from_folder(str(tmp_path), TASKS["mnli"], list(TASKS["mnli"].validation_splits)).splits
    assert [row["label"] for split in TASKS["mnli"].validation_splits for row in splits[split]] == [
        "neutral",
        "contradiction",
    ]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("task", "name", "split", "rows", "last_label"),
    [
        ("cola", "CoLA/train.tsv.gz", "train", 8551, "acceptable"),
        ("cola", "CoLA/test.tsv", "test", 1063, None),
        ("mrpc", "MRPC/train.tsv.gz", "train", 3668, None),
        ("mrpc", "MRPC/dev.tsv.gz", "validation", 408, None),
        ("mrpc", "MRPC/test.tsv.gz", "test", 1725, None),
        ("qnli", "QNLI/dev.tsv.gz", "validation", 5463, None),
        ("qnli", "QNLI/test.tsv.gz", "test", 5463, None),
        ("rte", "RTE/train.tsv.gz", "train", 2490, None),
        ("rte", "RTE/dev.tsv.gz", "validation", 277, None),
        ("rte", "RTE/test.tsv.gz", "test", 3000, None),
        ("sst2", "SST-2/train.tsv.gz", "train", 67349, None),
        ("sst2", "SST-2/dev.tsv.gz", "validation", 872, None),
        ("sst2", "SST-2/test.tsv.gz", "test", 1821, None),
        ("stsb", "STS-B/train.tsv.gz", "train", 5749, None),
        ("stsb", "STS-B/dev.tsv.gz", "validation", 1500, None),
        ("stsb", "STS-B/test.tsv.gz", "test", 1379, None),
        ("wnli", "WNLI/train.tsv.gz", "train", 635, None),
        ("wnli", "WNLI/dev.tsv.gz", "validation", 71, None),
        ("wnli", "WNLI/test.tsv.gz", "test", 146, None),
    ],
)
def test_official_files_have_their_official_row_counts(task, name, split, rows, last_label):
    root = shared_path(f"data/glue/{name}").parents[1]
    examples = from_folder(str(root), TASKS[task], [split])
    table = examples.splits[split]
    assert len(table) == rows
    labels = {row["label"] for row in table if "label" in row}
    if split == "test":
        assert not labels
    elif task != "stsb":
        assert labels == set(TASKS[task].labels)
    if last_label:
        assert table[-1]["label"] == last_label


@pytest.mark.parametrize(
    ("task", "lines", "message"),
    [
        ("rte", ["0\tA.\tB."], r"RTE/train\.tsv line 2: 3 tab-separated fields, expected 4"),
        ("cola", ["gj04\t1\t\tA.", "gj04\t1\tA."], r"CoLA/train\.tsv line 2: 3 tab-separated fields, expected 4"),
        ("sst2", ["good\t2"], r"example 1: unknown label '2', expected one of 0, 1"),
        ("rte", [], "holds no examples"),
    ],
)
def test_a_broken_line_is_named(task, lines, message, tmp_path):
    write_train(tmp_path, task, lines)
    with pytest.raises(UserError, match=message):
        from_folder(str(tmp_path), TASKS[task], ["train"])


def test_qqp_lines_cut_short_are_left_out_and_counted(tmp_path, capsys):
    """The official file has some."""
    write_train(tmp_path, "qqp", [LINES["qqp"][0], "1\t2\t3\tA?", LINES["qqp"][0]])
    assert len(from_folder(str(tmp_path), TASKS["qqp"], ["train"]).splits["train"]) == 2
    assert "1 lines cut short" in capsys.readouterr().err


def test_a_missing_column_or_split_is_named(tmp_path):
    path = write_train(tmp_path, "rte", [LINES["rte"][0]])
    with pytest.raises(UserError, match="no file of RTE for the validation split"):
        from_folder(str(tmp_path), TASKS["rte"], ["train", "validation"])
    path.write_text("index\tsentence1\tlabel\n0\tA\tentailment\n", encoding="utf-8")
    with pytest.raises(UserError, match="line 1: column 'sentence2' of rte is missing, found index, sentence1, label"):
        from_folder(str(tmp_path), TASKS["rte"], ["train"])


def test_text_that_is_not_utf8_is_named(tmp_path):
    path = write_train(tmp_path, "sst2", [LINES["sst2"][0]])
    path.write_bytes(path.read_bytes() + b"caf\xe9\t1\n")
    with pytest.raises(UserError, match="line 3: not UTF-8 text"):
        from_folder(str(tmp_path), TASKS["sst2"], ["train"])


def write(path, text):
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_json_lines_keep_line_separators_inside_sentences(tmp_path):
    rows = [{"sentence1": "a\u2028b", "sentence2": "c", "label": "entailment"}] * 2
    path = write(tmp_path / "x.json", "\n".join(json.dumps(row, ensure_ascii=False) for row in rows) + "\n")
    assert from_files({"train": path}, TASKS["rte"]).splits["train"] == rows


def test_the_qqp_and_qnli_subsets_are_read_too():
    for task, labels in (("qqp", {"duplicate", "not_duplicate"}), ("qnli", {"entailment", "not_entailment"})):
        path = shared_path(f"data/glue/{TASKS[task].folder}/train_subset9k.jsonl.gz")
        examples = from_files({"train": str(path)}, TASKS[task])
        ids = dict(enumerate(TASKS[task].labels))
        assert len(examples.splits["train"]) == 8999
        assert {ids.get(row["label"], row["label"]) for row in examples.splits["train"]} == labels


def test_the_mnli_subset_is_read_under_its_own_column_names():
    path = shared_path("data/glue/MNLI/train_subset9k.jsonl.gz")
    examples = from_files({"train": str(path)}, TASKS["mnli"])
    assert len(examples.splits["train"]) == 8999
    assert examples.sentences == ("sentence1", "sentence2") and examples.labels == TASKS["mnli"].labels


def test_zipped_json_without_a_task_has_sorted_labels(tmp_path):
    rows = [{"text": "a", "label": "no"}, {"text": "b", "label": "yes"}, {"text": "c", "label": "maybe"}]
    path = tmp_path / "x.jsonl.gz"
    path.write_bytes(gzip.compress("\n".join(map(json.dumps, rows)).encode()))
    examples = from_files({"train": str(path)}, None)
    assert examples.labels == ("maybe", "no", "yes") and examples.sentences == ("text",)


@pytest.mark.parametrize(("values", "regression"), [(("1", "2"), False), (("1.0", "2"), True), (("x", "2"), False)])
def test_csv_labels_that_are_decimal_numbers_mean_regression(values, regression, tmp_path):
    path = write(tmp_path / "x.csv", "".join(["text,label\n", *[f"a,{value}\n" for value in values]]))
    assert from_files({"train": path}, None).is_regression == regression


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("x.csv", "sentence,label\na,1\nb\n", r"x\.csv line 3: not 2 fields"),
        ("x.csv", "sentence,label\n", "holds no examples"),
        ("x.json", '{"sentence": "a", "label": 1}\n{"sentence"\n', r"x\.json line 2: not JSON"),
        ("x.json", "[1, 2]", "expected one JSON object a line"),
        ("x.json", '{"sentence": "a", "label": 1}\n{"sentence": "b"}\n', "example 2: column 'label' is missing"),
        ("x.json", '{"text": "a", "label": 1}\n', "column 'sentence' of sst2 is missing, found text, label"),
        ("x.txt", "a", r"expected a \.csv"),
        ("x.csv", f"sentence,label\na,1\n{'b' * 131073},0\n", r"x\.csv line 3: field larger than field limit"),
        ("x.json", "[" * 100_000, r"x\.json line 1: not JSON that can be read"),
        ("x.json", '{"sentence": "a"}\n' + "[" * 100_000, r"x\.json line 2: not JSON that can be read"),
    ],
)
def test_what_is_wrong_in_a_file_is_said(name, text, message, tmp_path):
    with pytest.raises(UserError, match=message):
        from_files({"train": write(tmp_path / name, text)}, TASKS["sst2"])


@pytest.mark.parametrize("label", [["a"], {"a": 1}])
def test_a_label_that_is_no_text_or_number_is_named(label, tmp_path):
    rows = [{"text": "a", "label": "good"}, {"text": "b", "label": label}]
    path = write(tmp_path / "x.json", "\n".join(map(json.dumps, rows)))
    with pytest.raises(UserError, match=r"x\.json example 2: label .* is neither text nor a number"):
        from_files({"train": path}, None)


@pytest.mark.parametrize("damage", ["cut", "garbled"])
@pytest.mark.parametrize("name", ["CoLA/train.tsv.gz", "x.csv.gz", "x.json.gz"])
def test_a_damaged_gz_file_is_named(name, damage, tmp_path):
    whole = gzip.compress("".join(f"gj04\t1\t\tsentence {i}\n" for i in range(2000)).encode())
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(whole[: len(whole) // 2] if damage == "cut" else whole[:40] + bytes(200) + whole[240:])
    with pytest.raises(UserError, match=rf"{path.name}: cannot be read as text"):
        if name.startswith("CoLA"):
            from_folder(str(tmp_path), TASKS["cola"], ["train"])
        else:
            from_files({"train": str(path)}, None)


def test_an_unknown_label_is_named_with_those_that_exist():
    rows = [{"sentence1": "a", "sentence2": "b", "label": label} for label in ("entailment", "perhaps")]
    examples = Examples({"train": rows}, ("sentence1", "sentence2"), TASKS["rte"].labels)
    with pytest.raises(UserError, match="train example 2: unknown label 'perhaps', expected one of entailment, not_"):
        tokenize(examples, "train", make_tokenizer(["a b"]), max_length=8, labels=examples.labels)


@pytest.mark.parametrize("value", ["high", "nan"])
def test_a_score_that_is_no_number_is_named(value):
    examples = Examples(
        {"train": [{"sentence1": "a", "sentence2": "b", "label": value}]}, ("sentence1", "sentence2"), ()
    )
    with pytest.raises(UserError, match=r"example 1: label .* is not a number"):
        tokenize(examples, "train", make_tokenizer(["a b"]), max_length=8, labels=())


def test_a_model_trained_with_these_labels_keeps_its_order():
    examples = Examples({}, (), TASKS["mnli"].labels)
    assert label_order(examples, {"CONTRADICTION": 0, "NEUTRAL": 1, "ENTAILMENT": 2}) == (
        "contradiction",
        "neutral",
        "entailment",
    )
    assert label_order(examples, {"yes": 0, "no": 1, "both": 2}) == TASKS["mnli"].labels
    assert label_order(examples, None) == TASKS["mnli"].labels


def test_pairs_are_truncated_to_the_limit_and_labels_become_ids():
    examples = Examples(
        {"train": [{"premise": "a " * 50, "hypothesis": "b " * 50, "label": 2}]},
        ("premise", "hypothesis"),
        TASKS["mnli"].labels,
    )
    labels = ("contradiction", "neutral", "entailment")  # a model's own order
    item = tokenize(examples, "train", make_tokenizer(["a b"]), max_length=12, labels=labels)[0]
    assert len(item["input_ids"]) == 12
    assert item["label"] == 0  # GLUE's id 2 is contradiction, this model's 0


def test_token_ids_are_made_once_and_read_from_disk(tmp_path, monkeypatch):
    """A second process or run finds them; other texts, labels, lengths or tokenizers have files of their own."""
    rows = [{"sentence1": "a b", "sentence2": "b", "label": label} for label in ("entailment", "not_entailment")]
    calls = []
    real = PreTrainedTokenizerFast.__call__
    monkeypatch.setattr(PreTrainedTokenizerFast, "__call__", lambda *a, **k: calls.append(1) or real(*a, **k))

    def made(rows=rows, texts="a b", max_length=8, labels=TASKS["rte"].labels):
        examples = Examples({"train": rows}, ("sentence1", "sentence2"), TASKS["rte"].labels)
        tokenizer = make_tokenizer([texts])
        found = tokenize(examples, "train", tokenizer, max_length=max_length, labels=labels, cache_dir=str(tmp_path))
        assert all(str(tmp_path) in file["filename"] for file in found.cache_files) and found.cache_files
        return list(found)

    first = made()
    assert [set(item) for item in first] == 2 * [{"input_ids", "attention_mask", "label"}]
    assert made() == first and len(calls) == 1
    others = ({"rows": rows[:1]}, {"texts": "b c"}, {"max_length": 5}, {"labels": TASKS["rte"].labels[::-1]})
    for number, change in enumerate(others, start=2):
        made(**change)
        assert len(calls) == number, change
    assert made() == first
