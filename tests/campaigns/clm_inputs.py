"""Damaged files for every reader of examples/CLM: each is read, or refused in one line, and none changes."""

from __future__ import annotations

import json
import types
from collections.abc import Callable

import score
import sweep
from clm.grid import flags_of, name_of, read_grid, read_scores, table, write_table
from clm.judging import Answers, question
from clm.opening import _base_of, adapter_paths
from clm.run_folder import read_facts
from clm.sources import Row, read_rows
from clm.text_scores import GENERATED, REFERENCE, read_texts
from clm.texts import dialogue, label_names, labelled, plain_text

from examples.common.resume import check_settings, last_checkpoint
from tests.nlu.fuzz import Case

TURNS = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
ROWS = [
    [{"prompt": "a b", "response": "c"}, {"context": "a", "completion": "b"}],
    [{"instruction": "a", "input": "b", "output": "c"}, {"messages": TURNS}],
    [{"text": "a b", "label": "yes"}, {"sentence": "c", "label": "no"}, {"text": "d", "label": 1}],
]


def rows_file(case: Case) -> str:
    rows, kind = case.draw.choice(ROWS), case.draw.choice(["jsonl", "json", "csv", "tsv", "txt"])
    if kind == "json":
        data = case.json(rows)
    elif kind == "jsonl":
        data = b"\n".join(case.json(row) for row in rows)
    else:
        between = "," if kind == "csv" else "\t"
        lines = [list(rows[0]), *([str(value) for value in row.values()] for row in rows)]
        data = case.damaged("\n".join(map(between.join, lines)).encode())
    return str(case.write(f"x.{kind}", data))


def rows(case: Case) -> None:
    for row in read_rows(rows_file(case), case.draw.choice([None, None, None, ["a", "b"]])):
        if case.draw.random() < 0.5:
            dialogue(row, chat=case.draw.random() < 0.5, needs_response=case.draw.random() < 0.5)
        else:
            plain_text(row)


def labels(case: Case) -> None:
    options = {"template": case.draw.choice(["{text}", "{text} {label}"]), "text_column": None, "label_column": None}
    label_names(labelled(read_rows(rows_file(case)), **options))


def grid(case: Case) -> None:
    if case.draw.random() < 0.5:
        path = case.write("g.tsv", case.damaged(b"lora_r\tseed\tlearning_rate\n4\t1\t1e-3\n8\t\t1e-3\n"))
    else:
        values = {"lora_r": [4, 8], "seed": [1, 2], "cls_bias": True}
        text = "\n".join(f"{name}: {json.dumps(case.changed(value))}" for name, value in values.items())
        path = case.write("g.yaml", case.damaged(text.encode("utf-8", "surrogatepass")))
    settings = read_grid(path)
    for setting in settings:
        flags_of(setting)
    for setting in settings[:3]:
        case.write(f"runs/{name_of(setting)}/metrics.json", case.json({"scores": {"eval_loss": 0.5}}))
    found = [read_scores(case.folder / "runs" / name_of(setting)) for setting in settings]
    write_table(case.folder / "table.tsv", table(settings, found, "eval_loss"))


def run_folder(case: Case) -> None:
    facts = {"base": "b", "task": "cls", "method": "lora", "labels": ["a", "b"], "max_seq_length": 9, "chat": False}
    case.write("clm.json", case.json(facts))
    case.write("adapter_config.json", case.json({"base_model_name_or_path": "b"}))
    case.write("checkpoint-3/trainer_state.json", case.json({"log_history": []}))
    case.write("checkpoint-3/settings.json", case.json({"seed": 0, "learning_rate": 1e-3}))
    read_facts(case.folder)
    adapter_paths([str(case.folder)])
    _base_of(str(case.folder))
    if last_checkpoint(case.folder):
        check_settings(str(case.folder / "checkpoint-3"), {"seed": 0, "learning_rate": 1e-3})


def answers(case: Case) -> None:
    row = {"prompt": "a", "response": "b", "generated": "c"}
    asked = question(Row("x line 1", row), "m")
    lines = [{"index": 0, "repeat": k, "question": asked.digest, "score": 50 + k, "answer": "50"} for k in range(3)]
    path = case.write("answers.jsonl", b"".join(case.json(line) + b"\n" for line in lines))
    kept = Answers(path, [asked])
    list(kept.missing(1, 3))
    kept.summary(1, 3)


def texts(case: Case) -> None:
    path = rows_file(case)
    read_texts(path, GENERATED if case.draw.random() < 0.5 else REFERENCE)
    results = case.write("test_results.txt", case.damaged(b"index\tprediction\n0\tyes\n1\tno\n2\t1\n"))
    score._labels(types.SimpleNamespace(predictions=str(results), references=path, label_column="label"))


def flags_of_sweep(case: Case) -> None:
    path = case.write("sweep.json", case.json(["--do_train", "--train_file", "x"]))
    before = path.read_bytes()
    try:
        sweep.check_same_flags(path, ["--do_train", "--train_file", "x"])
    except BaseException:
        assert path.read_bytes() == before, "an error replaced sweep.json"
        raise


def judged_rows(case: Case) -> None:
    for row in read_rows(rows_file(case)):
        question(row, "m")


READERS: tuple[Callable[[Case], None], ...] = (
    *(rows, rows, labels, grid, run_folder, answers, texts, flags_of_sweep, judged_rows),
)
