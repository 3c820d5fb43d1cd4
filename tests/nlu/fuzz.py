"""Feeds damaged files to every reader of the GLUE example: each is read, or refused in one line, and none hangs.

    PYTHONPATH=.:examples/NLU/utils:examples/NLU/examples/text-classification python -m tests.nlu.fuzz --count 3000

Inputs follow from the seed. Prints what went wrong with the number of the input, and ends with 1 if anything did.
"""

from __future__ import annotations

import argparse
import gzip
import io
import json
import random
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import glue_table
import recipes
import torch
from glue.arguments import parse
from glue.checkpoint import ATTRIBUTE, describe, read_trained
from glue.flags import ModelArguments
from glue.flags_2021 import modernise
from glue.model import model_labels
from glue.sources import from_files, from_folder
from glue.tasks import TASKS
from glue.weights import resolve_lora

from examples.common.downloads import SUMS_NAME, _read_sums
from examples.common.errors import UserError
from examples.common.resume import check_settings, last_checkpoint

HANG_SECONDS = 20
NASTY = (
    *(b"\x00", b"\xff\xfe", b"\xef\xbb\xbf", b"\r", b"\r\n", b"\n\n", b"\t", b'"', b"'", b"\\", b"\\ud800", b"NaN"),
    *(b"1e999", b"-1", b"null", b"[]", b"{}", b'{"a":', b"," * 50, b"[" * 5000, b"9" * 5000, b"x" * 140000),
    *("é".encode(), "\u2028".encode(), b"\xed\xa0\x80", b"%s", b"../", b" " * 1000),
)


@dataclass
class Case:
    """One input: what is called with it, and where its files are."""

    draw: random.Random
    folder: Path

    def value(self, depth: int = 0) -> Any:
        """Any JSON."""
        kind = self.draw.randrange(9 if depth < 3 else 6)
        if kind < 6:
            return self.draw.choice([None, True, -1, 0, 3, 1e999, 0.5, "", "a b", "1", "entailment", 10**30, "\ud800"])
        if kind == 6:
            return [self.value(depth + 1) for _ in range(self.draw.randrange(4))]
        names = ["label", "sentence", "sentence1", "data", "scores", "best", "seed", "files", "path", "sha256", "0"]
        return {self.draw.choice(names): self.value(depth + 1) for _ in range(self.draw.randrange(5))}

    def changed(self, value: Any, share: float = 0.15) -> Any:
        """JSON like ``value`` with some parts of it replaced or gone."""
        if self.draw.random() < share:
            return self.value()
        if isinstance(value, dict):
            return {k: self.changed(v, share) for k, v in value.items() if self.draw.random() > share / 2}
        if isinstance(value, list):
            return [self.changed(v, share) for v in value if self.draw.random() > share / 2]
        return value

    def damaged(self, data: bytes) -> bytes:
        """The bytes cut, garbled, repeated or with something nasty inside; one in four as they are."""
        for _ in range(self.draw.choice([0, 1, 1, 3])):
            at = self.draw.randrange(len(data) + 1)
            kind = self.draw.randrange(5)
            if kind == 0:
                data = data[:at]
            elif kind == 1:
                data = data[:at] + bytes([self.draw.randrange(256)]) + data[at + 1 :]
            elif kind == 2:
                data = data[:at] + data[: self.draw.randrange(200)] + data[at:]
            else:
                data = data[:at] + self.draw.choice(NASTY) + data[at:]
        return data

    def json(self, value: Any) -> bytes:
        return self.damaged(json.dumps(self.changed(value)).encode())

    def write(self, name: str, data: bytes) -> Path:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        return path

    def write_packed(self, name: str, data: bytes) -> Path:
        """The file, or a packed one: whole, damaged, or a bomb."""
        kind = self.draw.randrange(200)
        if kind < 120:
            return self.write(name, data)
        if kind == 120:
            return self.write(f"{name}.gz", BOMB)
        packed = gzip.compress(data, 1)
        return self.write(f"{name}.gz", packed if kind < 160 else self.damaged(packed))


BOMB = gzip.compress(bytes(80 << 20), 1)


def table(case: Case) -> bytes:
    comma = case.draw.choice([",", "\t"])
    rows = [["sentence1", "sentence2", "label"], *(["a b", 'say "c"', case.draw.choice("01")] for _ in range(4))]
    return case.damaged("\n".join(comma.join(row) for row in rows).encode())


def own_file(case: Case) -> None:
    rows = [{"sentence1": "a b", "sentence2": "c", "label": case.draw.choice([0, 1, 0.5, "x"])} for _ in range(3)]
    kind = case.draw.choice(["csv", "tsv", "json", "jsonl"])
    data = table(case)
    if kind == "json":
        data = case.json(case.draw.choice([rows, {"data": rows}]))
    elif kind == "jsonl":
        data = b"\n".join(case.json(row) for row in rows)
    path = case.write_packed(f"x.{kind}", data)
    from_files({"train": str(path)}, case.draw.choice([None, TASKS["rte"], TASKS["stsb"], TASKS["sst2"]]))


def official_file(case: Case) -> None:
    task = TASKS[case.draw.choice(list(TASKS))]
    header = [*task.tsv_columns, task.tsv_label, "more"]
    label = (task.tsv_values or task.labels or ("2.5",))[0]
    rows = [[*["a b"] * len(task.tsv_columns), label, ""] for _ in range(3)]
    lines = ["g\t1\t\ta b"] * 3 if task.name == "cola" else ["\t".join(row) for row in [header, *rows]]
    split = task.validation_splits[0]
    stem = "dev_matched" if task.name == "mnli" else "dev"
    case.write_packed(f"{task.folder}/{stem}.tsv", case.damaged("\n".join(lines).encode()))
    from_folder(str(case.folder), task, [split])


def flags_file(case: Case) -> None:
    flags = {"model_name_or_path": "x", "task_name": "cola", "output_dir": "o", "do_eval": True, "warmup_ratio": 0.1}
    modernise([str(case.write("flags.json", case.json(flags)))])


def command_line(case: Case) -> None:
    words = ["--model_name_or_path", "x", "--task_name", "cola", "--output_dir", "o", "--do_train"]
    names = ("seed", "max_steps", "learning_rate", "lora_r", "eval_strategy", "fp16", "optim", "fsdp", "warmup_ratio")
    values = ("", "-1", "nan", "x", "1e999", "9" * 400, "\ud800", "true", "{", "[1]", "no", "None")
    for _ in range(case.draw.randrange(3)):
        words += [f"--{case.draw.choice(names)}", case.draw.choice(values)]
    parse(words)


def weights_file(case: Case) -> None:
    tensors = OrderedDict({"roberta.x.lora_A": torch.zeros(2, 3), "classifier.bias": torch.zeros(2)})
    known = {"method": "lora", "base": "b", "base_fingerprint": "0", "r": 2, "lora_alpha": 4.0, "labels": ["a", "b"]}
    tensors.__dict__[ATTRIBUTE] = case.changed(known)
    stream = io.BytesIO()
    torch.save(case.draw.choice([tensors, tensors, known, [1]]), stream)
    data = stream.getvalue() if case.draw.random() < 0.5 else case.damaged(stream.getvalue())
    name = case.draw.choice(["pytorch_model_lora.bin", "pytorch_model_lora.bin", "x.safetensors"])
    path = case.write(name, data)
    describe(path, ("lora",))
    resolve_lora(read_trained(path), None, None)


def config_file(case: Case) -> None:
    config = {"model_type": "roberta", "hidden_size": 8, "id2label": {"0": "a", "1": "b"}, "label2id": {"a": 0, "b": 1}}
    case.write("config.json", case.json(config))
    model_labels(ModelArguments(str(case.folder)))


def checkpoint_folder(case: Case) -> None:
    case.write("checkpoint-3/trainer_state.json", case.json({"log_history": []}))
    case.write("checkpoint-3/settings.json", case.json({"seed": 0, "learning_rate": 1e-3}))
    found = last_checkpoint(case.folder)
    if found:
        check_settings(str(found), {"seed": 0, "learning_rate": 1e-3})


def results_of_runs(case: Case) -> None:
    row = glue_table.read_hparams()["roberta_base_mrpc", "scripts"]
    counts = {"trained_in_base": 1, "trained_in_head": 2, "all": 3}
    scores = {"eval_accuracy": 0.5, "eval_f1": 0.5}
    facts = {"scores": scores, "best": scores, "seed": 0, "parameters": counts, "total_train_batch_size": 8}
    folder = "roberta_base_mrpc/scripts/seed0/model"
    path = case.write(f"{folder}/metrics.json", case.json(facts))
    file = {"path": str(path), "sha256": "0"}
    case.write(f"{folder}/run.json", case.json({"command": "python run_glue.py --seed 0", "files": {"a": file}}))
    words = ["run_glue.py", "--per_device_train_batch_size", "8", "--gradient_accumulation_steps", "1"]
    recipes.difference(words, 1, path.parent)
    runs = glue_table.read_runs(row, case.folder, [0])
    glue_table.markdown([runs], "t", [])
    glue_table.as_json([runs], "t", [])


def digests(case: Case) -> None:
    _read_sums(case.write(SUMS_NAME, case.damaged(b"0" * 64 + b"  a.bin\n" + b"1" * 64 + b"  b.bin\n")))


READERS: tuple[Callable[[Case], None], ...] = (
    *(own_file, own_file, official_file, flags_file, command_line, weights_file, config_file),
    *(checkpoint_folder, results_of_runs, digests),
)


def fuzz(count: int, seed: int, first: int = 0) -> list[str]:
    """What went wrong with inputs ``first`` to ``first + count - 1``: unexpected errors with their place, and hangs."""
    wrong = []

    def late(*_: object) -> None:
        raise TimeoutError(f"no end after {HANG_SECONDS} s")

    previous = signal.signal(signal.SIGALRM, late)
    for number in range(first, first + count):
        draw = random.Random(f"{seed} {number}")
        reader = draw.choice(READERS)
        timer = signal.setitimer(signal.ITIMER_REAL, HANG_SECONDS)
        try:
            with tempfile.TemporaryDirectory() as folder:
                reader(Case(draw, Path(folder)))
        except UserError as error:
            if not str(error).strip():
                wrong.append(f"input {number}, {reader.__name__}: an empty message")
        except Exception as error:
            frame = traceback.extract_tb(error.__traceback__)[-1]
            place = f"{Path(frame.filename).name}:{frame.lineno}"
            wrong.append(f"input {number}, {reader.__name__}: {type(error).__name__} {str(error)[:80]!r} at {place}")
        finally:
            signal.setitimer(signal.ITIMER_REAL, *timer)
    signal.signal(signal.SIGALRM, previous)
    return wrong


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--count", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="number of the first input")
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    began = time.perf_counter()
    wrong = fuzz(args.count, args.seed, args.first)
    print(*wrong, sep="\n")
    print(f"{args.count} inputs, seed {args.seed}: {len(wrong)} went wrong; {time.perf_counter() - began:.0f} s")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
