"""All seven tasks on a little of the real GLUE data, through the shell scripts, checked without the room's code."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
import time

import pytest

from examples.common.files import read_lines
from tests.nlu.check_runs import DEVS, check, read_dev, same_trained
from tests.nlu.world import save_base
from tests.shared_data import REPOSITORY, shared_path
from tests.warm_python import PYTHON

pytestmark = pytest.mark.slow
TRAIN, DEV = 130, 70  # rows of each file
TASKS = {"mnli": "MNLI", "sst2": "SST-2", "cola": "CoLA", "qnli": "QNLI", "mrpc": "MRPC", "rte": "RTE", "stsb": "STS-B"}


def fields(*names):
    """A row of a JSON-lines sample as a line of the official file; columns without a name stay empty."""
    return lambda row: "\t".join(" ".join(row[name].split()) if name else "" for name in names)


MNLI = "index promptID pairID genre b1 b2 p1 p2 sentence1 sentence2 label1 gold_label"
# header of the official file, and how a row of the sample is written in it
COLUMNS = {
    "MNLI": ("\t".join(MNLI.split()), fields(*[""] * 8, "sentence1", "sentence2", "label", "label")),
    "QNLI": ("index\tquestion\tsentence\tlabel", fields("", "question", "sentence", "label")),
}


def lines_of(path):
    return (line.removeprefix("\ufeff").rstrip("\r") for _, line in read_lines(path))


def write(folder, task, stem, lines):
    (folder / "glue_data" / task / f"{stem}.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a little of every task in the official layout and a small base, MNLI trained already."""
    folder = tmp_path_factory.mktemp("real")
    for task in TASKS.values():
        (folder / "glue_data" / task).mkdir(parents=True)
        for path in shared_path(f"data/glue/{task}").iterdir():
            stem = path.name.split(".")[0].removesuffix("_in_domain")
            if stem in ("train", "dev"):
                write(folder, task, stem, list(lines_of(path))[: TRAIN if stem == "train" else DEV])
            elif stem == "train_subset9k":
                header, rows = COLUMNS[task]
                lines = [rows(json.loads(line)) for line in itertools.islice(lines_of(path), TRAIN + 2 * DEV)]
                write(folder, task, "train", [header, *lines[:TRAIN]])
                for at, name in enumerate(("dev_matched", "dev_mismatched") if task == "MNLI" else ()):
                    write(folder, task, name, [header, *lines[TRAIN + at * DEV :][: DEV - 1]])
    save_base(folder / "small", [path.read_text(encoding="utf-8") for path in folder.glob("glue_data/*/train.tsv")])
    run(folder, "mnli")
    return folder


def command(folder, task, runs="runs"):
    script = REPOSITORY / f"examples/NLU/roberta_base_{task}.sh"
    flags = "--max_device_batch 128 --learning_rate 1e-2 --num_train_epochs 4 --save_full_model --disable_tqdm true"
    return [
        *("bash", str(script), "--runs", runs, "--model_name_or_path", "small", "--data_dir", "glue_data"),
        *flags.split(),
        *(["--lora_path", "runs/roberta_base_mnli/scripts/seed0/model"] if task in ("mrpc", "rte", "stsb") else []),
    ]


ENVIRONMENT = {
    **os.environ,
    **{"PYTHON": PYTHON, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "num_gpus": "1"},
}


def run(folder, task, runs="runs"):
    result = subprocess.run(
        command(folder, task, runs), cwd=folder, env=ENVIRONMENT, capture_output=True, text=True, timeout=240
    )
    assert result.returncode == 0, result.stderr[-2000:]
    return folder / runs / f"roberta_base_{task}" / "scripts" / "seed0" / "model", result.stderr


@pytest.mark.parametrize("task", TASKS)
def test_frozen_weights_keep_their_bytes_and_scores_are_those_of_sklearn_and_scipy(place, task):
    model, _ = run(place, task)  # MNLI is there already and kept
    wrong, rows = check(model, place / "small", place / "glue_data")
    assert not wrong
    assert [row[0] for row in rows] == [
        f"{dev.folder} {dev.stem}" for _, dev in DEVS[task] for _ in range(len(rows) // len(DEVS[task]))
    ]
    for _, dev in DEVS[task]:
        assert len(read_dev(place / "glue_data", dev)[0]) == DEV - dev.header


def test_the_check_notices_a_changed_weight_and_a_wrong_score(place, tmp_path):
    import shutil

    import torch

    model, _ = run(place, "cola")
    shutil.copytree(model, tmp_path / "model")
    weights = torch.load(tmp_path / "model/pytorch_model.bin", weights_only=True)
    weights["roberta.embeddings.word_embeddings.weight"][0, 0] += 1e-7
    torch.save(weights, tmp_path / "model/pytorch_model.bin")
    metrics = json.loads((model / "metrics.json").read_text())
    metrics["scores"]["eval_matthews_correlation"] += 1e-9
    (tmp_path / "model/metrics.json").write_text(json.dumps(metrics))
    wrong, _ = check(tmp_path / "model", place / "small", place / "glue_data")
    assert len(wrong) == 2
    assert "word_embeddings.weight is not the base's" in wrong[0] and "eval_matthews_correlation" in wrong[1]


@pytest.mark.parametrize("task", ["mrpc"])
def test_a_run_that_was_killed_ends_with_the_numbers_of_one_that_was_not(place, task):
    whole, _ = run(place, task)
    model = place / "killed" / whole.relative_to(place / "runs")
    with subprocess.Popen(
        command(place, task, "killed"),
        cwd=place,
        env={**ENVIRONMENT, "PYTHON": sys.executable},  # whose processes are all of the group that is killed
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    ) as process:
        end = time.monotonic() + 120
        while not any(model.glob("checkpoint-*/trainer_state.json")):
            assert time.monotonic() < end and process.poll() is None, "no checkpoint to kill after"
            time.sleep(0.01)
        os.killpg(process.pid, signal.SIGKILL)
    assert not (model / "metrics.json").exists()
    _, errors = run(place, task, "killed")
    assert "going on from" in errors
    assert same_trained(whole, model)
    assert not same_trained(whole, run(place, "rte")[0])
