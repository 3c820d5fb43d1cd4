"""Data of the studies, generated and as the courses have it, and the course's files of predictions."""

from __future__ import annotations

import json

import pytest

from examples.common.errors import UserError
from scripts.studies import course_files, data
from scripts.studies.toy import main as make_toy


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    folder = tmp_path_factory.mktemp("toy")
    make_toy(["--scale", "0.25", str(folder)])
    return folder


def rows_of(path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_data_of_every_task_is_split_without_overlap(toy):
    data.main([str(toy / "raw"), str(toy / "data"), *data.TASKS])
    for task in data.TASKS:
        parts = {path.stem: rows_of(path) for path in (toy / "data" / task).glob("*.jsonl")}
        assert {"train", "valid"} <= set(parts) and all(parts.values())
        if "id" in parts["train"][0]:
            if task == "quora-course":  # the dev rows twice, with either prompt
                assert [row["id"] for row in parts["valid"]] == [row["id"] for row in parts.pop("test")]
            ids = [row["id"] for rows in parts.values() for row in rows]
            assert len(ids) == len(set(ids))
    first = rows_of(toy / "data" / "quora" / "train.jsonl")[0]
    assert first["text"].startswith('Is "') and first["text"].endswith('? Answer "yes" or "no":')
    poem = rows_of(toy / "data" / "sonnets" / "test.jsonl")[0]
    assert poem["reference"].startswith(poem["prompt"]) and poem["prompt"].count("\n") == 3


def test_the_course_trains_quora_with_another_prompt_than_it_tests_with(toy):
    data.main([str(toy / "raw"), str(toy / "data"), "quora", "quora-course"])
    one, pair = (
        {part: rows_of(toy / "data" / task / f"{part}.jsonl") for part in parts}
        for task, parts in (("quora", ("train", "valid")), ("quora-course", ("train", "valid", "test")))
    )
    for part in ("train", "valid"):
        text = pair[part][0]["text"]
        assert text.startswith('Question 1: "') and '\nQuestion 2: "' in text and text.count('"') == 2
        assert [row["label"] for row in pair[part]] == [row["label"] for row in one[part]]
    assert pair["test"] == one["valid"]


def test_e2e_rows_have_swifts_form_and_references_in_groups(tmp_path):
    pair = '"name[The Vaults], near[Café Adriatic]","The Vaults, near  Café Adriatic."\n'
    other = "name[Zizzi],Zizzi it is.\n"
    for name in ("trainset", "devset"):
        (tmp_path / f"{name}.csv").write_text("mr,ref\n" + pair, encoding="utf-8")
    test = '\ufeff"mr","ref"\n' + pair + other + '"name[Zizzi]","""Zizzi"""\n' + "name[Aromi],Aromi.\n"
    (tmp_path / "testset_w_refs.csv").write_text(test, encoding="utf-8")
    data.main([str(tmp_path), str(tmp_path / "data"), "e2e", "--rows", "2"])
    folder = tmp_path / "data" / "e2e"
    prompt, response = "name[The Vaults], near[Café Adriatic] <|ref|>", " The Vaults, near Café Adriatic."
    assert rows_of(folder / "train.jsonl") == [{"prompt": prompt, "response": response}]
    assert [row["prompt"] for row in rows_of(folder / "test.jsonl")] == [prompt, "name[Zizzi] <|ref|>"]
    text = (folder / "references.txt").read_text(encoding="utf-8")
    assert text == 'The Vaults, near Café Adriatic.\n\nZizzi it is.\n"Zizzi"\n\n'


@pytest.mark.parametrize(
    ("text", "message"), [("MR\n", "line 1"), ("mr,ref\na,b\nc\n", "line 3"), ('mr,ref\n"a,b\n', "not CSV")]
)
def test_a_wrong_csv_file_of_e2e_names_the_line(tmp_path, text, message):
    (tmp_path / "x.csv").write_text(text)
    with pytest.raises(UserError, match=message):
        data.e2e_pairs(tmp_path / "x.csv")


def test_few_rows_are_evenly_spaced_and_training_keeps_all(toy):
    words = [str(toy / "raw"), str(toy / "few"), "sst", "--rows"]
    data.main([*words, "10"])
    parts = {part: rows_of(toy / "few" / "sst" / f"{part}.jsonl") for part in ("train", "valid", "test")}
    assert [row["id"] for row in parts["test"]] == [f"ssttest-student{i}" for i in range(5)]  # 20 * 0.25 are there
    assert [row["id"] for row in parts["valid"]] == [f"sstdev{i}" for i in range(10)] and len(parts["train"]) == 40
    data.main([*words, "4"])
    assert [row["id"] for row in rows_of(toy / "few" / "sst" / "valid.jsonl")] == [f"sstdev{i}" for i in (0, 2, 5, 7)]
    with pytest.raises(UserError, match="--rows must be at least 1, got 0"):
        data.main([*words, "0"])


def test_questions_are_prepared_as_in_the_course():
    assert data.quora_sentence("What's new, Bob?") == "what 's new , bob ?"


def test_what_stands_before_the_first_sonnet_is_dropped(tmp_path):
    (tmp_path / "s.txt").write_bytes(
        b"Sonnets\r\nby W. S.\r\n\r\n1\r\n\r\nA rose\r\n  blooms\r\n\r\n12\r\n\r\nA star\r\n"
    )
    assert data.sonnets_of(tmp_path / "s.txt") == {"1": "A rose\n  blooms", "12": "A star"}


def test_alpaca_keeps_short_responses_and_tests_on_both_kinds(tmp_path):
    rows = [{"instruction": f"Convert {i}", "input": "x", "output": "y"} for i in range(30)]
    rows += [{"instruction": f"Write {i}", "input": "", "output": "y"} for i in range(30)]
    rows += [{"instruction": "Write more", "input": "", "output": "y" * 512}]
    (tmp_path / "alpaca_data.json").write_text(json.dumps(rows))
    data.main([str(tmp_path), str(tmp_path / "data"), "alpaca"])
    parts = {name: rows_of(tmp_path / "data" / "alpaca" / f"{name}.jsonl") for name in ("train", "valid", "test")}
    assert [row["instruction"].split()[0] for row in parts["test"]] == ["Convert"] * 3 + ["Write"] * 3
    assert {name: len(some) for name, some in parts.items()} == {"train": 48, "valid": 6, "test": 6}
    assert all(row["instruction"] != "Write more" for some in parts.values() for row in some)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("quora-train.csv", "a\tb\n", "no column 'id'"),
        ("none.csv", "", "has none of quora-train.csv"),
    ],
)
def test_wrong_raw_files_are_one_line(tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=message):
        data.main([str(tmp_path), str(tmp_path / "data"), "quora"])
    assert not (tmp_path / "data").exists()


def test_predictions_have_the_form_of_the_course(tmp_path):
    (tmp_path / "results.txt").write_text("index\tprediction\n0\tyes\n1\tno\n")
    (tmp_path / "rows.jsonl").write_text('{"id": "a"}\n{"id": "b"}\n')
    paths = [str(tmp_path / name) for name in ("results.txt", "rows.jsonl", "out.csv")]
    course_files.main(["paraphrases", *paths])
    assert (tmp_path / "out.csv").read_text() == "id \t Predicted_Is_Paraphrase \na, 1 \nb, 0 \n"
    (tmp_path / "rows.jsonl").write_text('{"id": "a"}\n')
    with pytest.raises(UserError, match=r"has 2 labels, but .* has 1 rows"):
        course_files.main(["paraphrases", *paths])


def test_sonnets_are_whole_again(tmp_path):
    row = {"number": "132", "prompt": "one\ntwo\nthree\n", "reference": "x", "generated": "four"}
    (tmp_path / "generated.jsonl").write_text(json.dumps(row) + "\n")
    course_files.main(["sonnets", *(str(tmp_path / name) for name in ("generated.jsonl", "whole.jsonl", "out.txt"))])
    assert rows_of(tmp_path / "whole.jsonl")[0]["generated"] == "one\ntwo\nthree\nfour"
    assert (tmp_path / "out.txt").read_text() == "--Generated Sonnets-- \n\n\n132\n\none\ntwo\nthree\nfour\n\n"
