"""The queue of replications on a tiny model and made-up data of E2E's form."""

import contextlib
import gzip
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.nlu.world import save_base as save_encoder
from tests.shared_data import REPOSITORY
from tests.stories.tiny_e2e import NAMES, TYPES, write_tiny_e2e
from tests.warm_python import PYTHON

PROGRAM = REPOSITORY / "scripts" / "replication" / "replicate.py"
VERBS = (("Translate", "some words"), ("Suggest", ""))
RUNS = """block\trun\tseeds\trates\tsteps\ttrain\tgenerate
e2e\tzero-shot\t0\t-\t0\t\t--max_new_tokens 4
e2e\tlora\t0\t1e-3 1e-2\t4\t--method lora --lora_r 2\t--max_new_tokens 4
e2e\tfull\t0\tas lora\t2\t--method full\t--max_new_tokens 4
"""
GLUE_RUNS = """block\trun\tseeds\trates\tsteps\ttrain\tgenerate
glue\tsst2-lora\t0\t1e-3 1e-2\t3\t--apply_lora --lora_r 2 --lora_alpha 4\t
glue\tcola-full\t0\tas sst2-lora\t3\t\t
glue\tmrpc-head\t0\tas sst2-lora\t3\t--train_head_only\t
section7\tsame\t0\t-\t0\tglue/sst2-lora.seed0 glue/sst2-lora.seed0\t
"""
STUDY_RUNS = """block\trun\tseeds\trates\tsteps\ttrain\tgenerate
studies\tsms-lora\t0\t1e-3\t2\t--method lora --lora_r 2\t
studies\talpaca-zero-shot\t0\t-\t0\t\t
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


def sentences(number):
    return [f"{name} is a {kind}{end}" for end in ("", " indeed") for name in NAMES for kind in TYPES][:number]


@pytest.fixture(scope="module")
def glue_world(tmp_path_factory):
    """Made-up files in the layouts of the official ones, and a tiny encoder."""
    folder = tmp_path_factory.mktemp("glue")
    for task, header, line in (
        ("SST-2", "sentence\tlabel", "{a}\t{n}"),
        ("CoLA", None, "x\t{n}\t\t{a}"),
        ("MRPC", "Quality\t#1 ID\t#2 ID\t#1 String\t#2 String", "{n}\t1\t2\t{a}\t{b}"),
    ):
        place = folder / "data" / "glue" / task
        place.mkdir(parents=True)
        rows = [line.format(a=text, b=text[::-1], n=n % 2) for n, text in enumerate(sentences(40))]
        for name, part in (("train.tsv.gz", rows), ("dev.tsv.gz", rows[:12])):
            with gzip.open(place / name, "wt", encoding="utf-8") as stream:
                stream.write("\n".join([*([header] if header else []), *part]) + "\n")
        (place / "dev_in_domain.tsv").write_text("\n".join(rows[:12]) + "\n")
    save_encoder(folder / "models" / "minilm", sentences(40))
    (folder / "runs.tsv").write_text(GLUE_RUNS)
    return folder


ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)}


def replicate(world, *words):
    return subprocess.run(command_of(world, *words), capture_output=True, text=True, env=ENVIRONMENT, check=False)


def result(world, name, block="e2e"):
    return json.loads((world / "results" / block / f"{name}.json").read_text())


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


@pytest.mark.slow
def test_glue_reads_the_development_set_last_and_compares_adapters(glue_world):
    world = glue_world
    dev = world / "data" / "glue" / "SST-2" / "dev.tsv.gz"
    dev.rename(dev.with_suffix(".hidden"))
    stopped = replicate(world, "--only", "glue/sst2-lora.seed0")
    assert stopped.returncode == 2 and "dev.tsv.gz is missing" in stopped.stderr, stopped.stderr
    assert (world / "work" / "glue" / "sst2-lora.seed0" / "trained" / "metrics.json").exists()
    dev.with_suffix(".hidden").rename(dev)
    done = replicate(world)
    assert done.returncode == 0, done.stderr

    lora, full, head = (
        result(world, name, "glue") for name in ("sst2-lora.seed0", "cola-full.seed0", "mrpc-head.seed0")
    )
    counts = {run["method"]: run["parameters"] for run in (lora, full, head)}
    assert counts["lora"]["trained_in_base"] == 2 * 2 * 2 * (16 + 16)  # layers, q and v, r, A and B
    assert counts["full"]["trained_in_base"] > 1_000 and counts["head"]["trained_in_base"] == 0
    assert head["result_bytes"] < full["result_bytes"]
    for run in (lora, head):
        correct = run["items"]["correct"].split()
        assert len(correct) == 12 and run["scores"]["accuracy"] == pytest.approx(sum(map(int, correct)) / 12)
    assert "matthews_correlation" in full["scores"] and len(full["items"]["correct"].split()) == 12
    for task, first in (("sst2", "sentence"), ("mrpc", "sentence1")):
        taken, kept = (
            {json.loads(line)[first] for line in (world / "work" / "glue" / "data" / f"{task}.{part}.jsonl").open()}
            for part in ("held_out", "train")
        )
        assert len(taken) == 10 and not taken & kept

    same = result(world, "same.seed0", "section7")["kinds"]
    assert set(same) == {"query", "value"} and same["query"]["similarity"] == ["1 1", "1 1"]
    assert same["query"]["glue/sst2-lora.seed0"]["update"] > 0
    assert same["query"]["random"] != ["1 1", "1 1"]


@pytest.mark.slow
def test_the_studies_label_and_write(world):
    raw = world / "data"
    for name in ("sms_spam", "alpaca"):
        (raw / name).mkdir()
    texts = [f"{kind}\t{name} is a {word}" for kind in ("ham", "spam") for name in NAMES for word in TYPES]
    (raw / "sms_spam" / "SMSSpamCollection").write_text("\n".join(texts) + "\n")
    rows = [
        {"instruction": f"{verb} {name}", "input": given, "output": name} for name in NAMES for verb, given in VERBS
    ]
    (raw / "alpaca" / "alpaca_data.json").write_text(json.dumps(rows))
    (world / "studies.tsv").write_text(STUDY_RUNS)
    done = replicate(world, "--runs", str(world / "studies.tsv"))
    assert done.returncode == 0, done.stderr
    lora, written = (result(world, f"{name}.seed0", "studies") for name in ("sms-lora", "alpaca-zero-shot"))
    correct = [int(word) for word in lora["items"]["correct"].split()]
    tested = [json.loads(line) for line in (world / "work/studies/data/sms/test.jsonl").open()]
    assert len(correct) == len(tested) and lora["scores"]["accuracy"] == pytest.approx(sum(correct) / len(correct))
    trained, *_, labelled = lora["steps"]
    assert "test.jsonl" not in trained["command"] and "test.jsonl" in labelled["command"]
    held_out, left = ((world / "work/studies/data/sms" / f"{part}.jsonl").read_text() for part in ("held_out", "left"))
    assert held_out and not set(held_out.splitlines()) & set(left.splitlines())
    assert written["rate"] is None and "chrF" in written["scores"] and len(written["items"]["chrF"].split()) >= 2


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
    done = replicate(world, "--only", "other/*")
    assert done.returncode == 2 and "no run has such a name" in done.stderr
