"""The queue of replications on a tiny model and made-up data of E2E's form."""

import contextlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.shared_data import REPOSITORY
from tests.stories.tiny_e2e import write_tiny_e2e
from tests.warm_python import PYTHON

PROGRAM = REPOSITORY / "scripts" / "replication" / "replicate.py"
RUNS = """block\trun\tseeds\trates\tsteps\ttrain\tgenerate
e2e\tzero-shot\t0\t-\t0\t\t--max_new_tokens 4
e2e\tlora\t0\t1e-3 1e-2\t4\t--method lora --lora_r 2\t--max_new_tokens 4
e2e\tfull\t0\tas lora\t2\t--method full\t--max_new_tokens 4
"""


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("replicate")
    write_tiny_e2e(folder)
    (folder / "runs.tsv").write_text(RUNS)
    return folder


def command_of(world, *words):
    flags = ["--models", world / "models", "--data", world / "data", "--work", world / "work"]
    flags += ["--results", world / "results", "--runs", world / "runs.tsv"]
    return [PYTHON, str(PROGRAM), *map(str, flags), *words]


ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)}


def replicate(world, *words):
    return subprocess.run(command_of(world, *words), capture_output=True, text=True, env=ENVIRONMENT, check=False)


def result(world, name):
    return json.loads((world / "results" / "e2e" / f"{name}.json").read_text())


@pytest.mark.slow
def test_a_queue_reads_the_test_set_last_and_goes_on_where_it_stopped(world):
    data = world / "data" / "e2e"
    hidden = [data / "testset_w_refs.csv.gz", data / "testset.csv"]
    for path in hidden:
        path.rename(path.with_suffix(".hidden"))
    stopped = replicate(world, "--only", "e2e/lora*")
    assert stopped.returncode == 2 and "testset_w_refs.csv.gz is missing" in stopped.stderr, stopped.stderr
    assert (world / "work" / "e2e" / "lora.seed0" / "trained" / "metrics.json").exists()  # all that needs no test set
    trained = (world / "work" / "e2e" / "lora.seed0" / "train.done.json").read_bytes()
    rates = result(world, "lora.rates")
    assert rates["chosen"] == min(rates["losses"], key=rates["losses"].get) and len(rates["losses"]) == 2
    for path in hidden:
        path.with_suffix(".hidden").rename(path)

    done = replicate(world)
    assert done.returncode == 0, done.stderr
    assert (world / "work" / "e2e" / "lora.seed0" / "train.done.json").read_bytes() == trained
    lora, full, untrained = (result(world, f"{name}.seed0") for name in ("lora", "full", "zero-shot"))
    assert lora["rate"] == full["rate"] == rates["chosen"] and untrained["rate"] is None
    assert lora["parameters"]["trained"] == 3 * 2 * (2 * 16 + 16 + 8)  # blocks, r, A and B of query and of value
    assert full["parameters"]["trained"] == full["parameters"]["all"]
    assert lora["result_bytes"] < full["result_bytes"]
    assert [step["step"] for step in lora["steps"]] == ["train", "generate", "score"]
    assert str(world) not in json.dumps(lora) and "--model_name_or_path MODELS/smollm2" in lora["steps"][0]["command"]
    assert set(lora["scores"]) == {"BLEU", "NIST", "METEOR", "ROUGE_L", "CIDEr"}
    assert lora["slots"]["slots"] == 6 * 4 and {len(text.split()) for text in lora["items"].values()} == {6}
    assert [step for step, _ in lora["train_losses"]] == []  # a loss is kept every tenth step

    held_out = {json.loads(line)["context"] for line in (world / "work/e2e/data/held_out.jsonl").open()}
    trained_on = {json.loads(line)["context"] for line in (world / "work/e2e/data/train.jsonl").open()}
    assert len(held_out) == 100 and not held_out & trained_on

    before = (world / "results" / "e2e" / "full.seed0.json").stat().st_mtime_ns
    assert replicate(world).returncode == 0
    assert (world / "results" / "e2e" / "full.seed0.json").stat().st_mtime_ns == before
    listed = replicate(world, "--list").stdout.splitlines()
    assert listed == [f"complete e2e/{name}.seed0" for name in ("zero-shot", "lora", "full")]


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="looks for processes in Linux's /proc")
def test_a_stopped_queue_leaves_no_program_behind(world):
    (world / "long.tsv").write_text(
        "\n".join(RUNS.splitlines()[:1]) + "\ne2e\tlong\t0\t1e-3 1e-2\t9999\t--method lora\t\n"
    )
    words = ("--runs", str(world / "long.tsv"), "--work", str(world / "stopped"))
    queue = subprocess.Popen([sys.executable, *command_of(world, *words)[1:]], env=ENVIRONMENT, stderr=subprocess.PIPE)
    log = world / "stopped" / "e2e" / "long.seed0" / "train.log"
    wait_until(lambda: log.exists() and "loss" in log.read_text(), queue)
    assert programs_with(str(world / "stopped"))
    queue.terminate()
    assert queue.wait() == 130
    assert programs_with(str(world / "stopped")) == []
    assert not (world / "results" / "e2e" / "long.seed0.json").exists()


def wait_until(done, process):
    deadline = time.monotonic() + 200
    while not done():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)


def programs_with(word):
    """Command lines of living processes that have this word."""
    lines = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            lines.append(path.read_bytes().decode(errors="replace"))
    return [line for line in lines if word in line]


def test_a_pattern_without_a_run_is_a_mistake(world):
    done = replicate(world, "--only", "glue/*")
    assert done.returncode == 2 and "no run has such a name" in done.stderr
