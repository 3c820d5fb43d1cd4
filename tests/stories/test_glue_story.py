"""The GLUE story offline: generated data, a tiny base, two seeds, MNLI first; killed and started again."""

from __future__ import annotations

import os
import re
import signal
import statistics
import subprocess
import sys

import pytest

from tests.shared_data import REPOSITORY
from tests.stories.stories import copy_prepared, environment, events, results, run_script, wait_for

pytestmark = pytest.mark.timeout(3600)
SCRIPT = REPOSITORY / "scripts" / "reproduce_glue.sh"
MISTAKES = {
    "no model": ([], "model is missing: expected one of roberta_base roberta_large deberta_v2_xxlarge"),
    "another model": (["bert"], "model bert: expected one of roberta_base"),
    "two models": (["roberta_base", "roberta_large"], "unexpected word roberta_large after roberta_base"),
    "an unknown option": (["roberta_base", "--task", "mnli"], "unknown option --task"),
    "a task": (["roberta_base", "--tasks", "mnli wnli"], "task wnli: expected one of mnli sst2"),
    "no task": (["roberta_base", "--tasks", " "], "--tasks is empty"),
    "a recipe": (["roberta_base", "--recipe", "mine"], "--recipe mine: expected one of scripts paper"),
    "no value": (["roberta_base", "--seeds"], "--seeds needs a value"),
    "a seed twice": (["roberta_base", "--seeds", "0 1 0"], "--seeds 0 1 0: 0 stands there twice"),
    "no data": (["roberta_base", "--data-dir", "none"], "none does not exist: --data-dir names a folder"),
    "no folder of a task": (
        ["roberta_base", "--tasks", "rte", "--data-dir", str(REPOSITORY / "tests")],
        "tests holds no folder RTE for the task rte",
    ),
    "no base": (["roberta_base", "--base", "none"], "none/config.json does not exist: --base names the folder"),
    "data for a toy": (["--embedded", "--data-dir", "."], "--embedded makes its own data and base"),
    "a toy of DeBERTa": (["deberta_v2_xxlarge", "--embedded"], "model of --embedded deberta_v2_xxlarge: expected one"),
    "a task that no toy has": (["--embedded", "--tasks", "qqp"], "task qqp: expected one of mnli sst2 mrpc cola rte"),
}


@pytest.mark.parametrize(("words", "message"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_is_one_line(tmp_path, words, message):
    result = run_script(["bash", str(SCRIPT), "--work-dir", str(tmp_path / "work"), *words])
    lines = result.stderr.splitlines()
    assert (result.returncode, len(lines)) == (2, 1), result.stderr
    assert lines[0].startswith("error: ") and message in lines[0]
    assert not (tmp_path / "work").exists()


def test_minilm_is_the_base_where_it_was_fetched_unless_another_is_named(tmp_path):
    """In a checkout with models/minilm, as far as the command of the first training, by a Python that does nothing."""
    for name in ("scripts", "examples"):
        (tmp_path / name).symlink_to(REPOSITORY / name)
    minilm = tmp_path / "models" / "minilm"
    minilm.mkdir(parents=True)
    (minilm / "config.json").write_text("{}")
    for number, (words, base) in enumerate(
        [(["roberta_base"], minilm), (["roberta_base", "--base", "hub"], None), (["roberta_large"], None)]
    ):
        work = tmp_path / f"work{number}"
        script = ["bash", str(tmp_path / "scripts" / SCRIPT.name), *words, "--tasks", "sst2", "--seeds", "0"]
        result = run_script([*script, "--work-dir", str(work)], PYTHON="true")
        named = re.findall(r"--model_name_or_path (\S+)", (work / "commands.txt").read_text())
        assert named == ([str(base)] if base else [])
        assert ("with --base hub" in result.stderr) is (base is not None)


def test_help_names_every_option():
    result = run_script(["bash", str(SCRIPT), "--help"])
    options = set(re.findall(r"^        (--[a-z-]+)(?:\)| \|)", SCRIPT.read_text(encoding="utf-8"), flags=re.MULTILINE))
    assert (result.returncode, len(options)) == (0, 8)
    assert all(f"  {name} " in result.stdout for name in options - {"--help"})
    assert "set -euo" not in result.stdout


def command(work, tasks: str) -> list[str]:
    return ["bash", str(SCRIPT), "--embedded", "--tasks", tasks, "--seeds", "0 1", "--work-dir", str(work)]


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    """Folder and printed table of a whole story."""
    work = tmp_path_factory.mktemp("glue") / "work"
    result = run_script(command(work, "sst2 mrpc mnli"))
    assert result.returncode == 0, result.stderr[-2000:]
    return work, result.stdout


@pytest.mark.slow
def test_the_story_trains_mnli_first_and_ends_with_median_and_intervals(told):
    work, printed = told
    ended = [line.split()[1] for line in events(work) if line.startswith("ended train")]
    assert ended == [f"train.{task}.{seed}" for task in ("mnli", "sst2", "mrpc") for seed in (0, 1)]
    found = results(work)["tasks"]
    assert list(found) == ["roberta_base_mnli", "roberta_base_sst2", "roberta_base_mrpc"]
    assert list(found["roberta_base_mnli"]["last"]) == ["MNLI", "MNLI matched", "MNLI mismatched"]
    for script, task in found.items():
        runs = [work / "runs" / script / "scripts" / f"seed{seed}" / "model" for seed in (0, 1)]
        for epoch in ("last", "best"):
            for summary in task[epoch].values():
                assert summary["n"] == len(summary["values"]) == 2
                assert summary["median"] == pytest.approx(statistics.median(summary["values"]), rel=1e-12)
                assert [summary["low"], summary["high"]] == sorted(summary["values"])
        assert all(best >= last for best, last in zip(*(main_values(task, epoch) for epoch in ("best", "last"))))
        assert all((folder / "checkpoint-3").is_dir() for folder in runs)  # 384 examples / batch 128
    for script, least in {"roberta_base_mnli": 60, "roberta_base_sst2": 95, "roberta_base_mrpc": 95}.items():
        assert min(main_values(found[script], "last")) > least  # a model that learned nothing: 33, 50, 50
    matched, mismatched = (found["roberta_base_mnli"]["best"][f"MNLI {half}"]["values"] for half in HALVES)
    assert main_values(found["roberta_base_mnli"], "best") == pytest.approx(
        [(one + other) / 2 for one, other in zip(matched, mismatched)], rel=1e-12
    )  # the generated halves have as many examples
    assert printed == (work / "results.md").read_text(encoding="utf-8")
    assert "they compare with nothing" in printed and "| MNLI mismatched | accuracy | - |" in printed


HALVES = ("matched", "mismatched")


def main_values(task, epoch):
    """Values of the score that the paper prints."""
    return next(iter(task[epoch].values()))["values"]


@pytest.mark.slow
def test_mrpc_starts_from_the_mnli_run_of_its_seed(told):
    work, _ = told
    for seed in (0, 1):
        log = (work / f"roberta_base_mrpc.seed{seed}.log").read_text(encoding="utf-8")
        assert f"--lora_path runs/roberta_base_mnli/scripts/seed{seed}/model/pytorch_model_lora.bin" in log


@pytest.mark.slow
def test_a_told_story_repeats_nothing(told):
    work, printed = told
    before = events(work)
    result = run_script(command(work, "sst2 mrpc mnli"))
    assert (result.returncode, result.stdout) == (0, printed)
    again = events(work)[len(before) :]
    assert again == [line.replace("ended", "kept") for line in before if line.startswith("ended")]


def kill_when(condition, what, work, output) -> list[str]:
    """Starts the story with MNLI and MRPC and kills all its processes when ``condition()`` holds; what it logged."""
    before = len(events(work)) if (work / "steps.log").exists() else 0
    real = environment(PYTHON=sys.executable)  # whose processes, the ones that they start too, are of the group
    with output.open("w") as stream:
        story = subprocess.Popen(
            command(work, "mnli mrpc"), env=real, stdout=stream, stderr=stream, start_new_session=True
        )
        try:
            wait_for(condition, what)
        finally:
            os.killpg(story.pid, signal.SIGKILL)
            story.wait()
    return events(work)[before:]


@pytest.mark.slow
def test_a_story_killed_twice_repeats_no_finished_run_and_ends_with_the_same_figures(told, tmp_path):
    """SIGKILL in a training that has saved a checkpoint, and in one that has not; the figures are those of no kill."""
    unbroken, _ = told
    work = copy_prepared(unbroken, tmp_path / "work")
    folder = work / "runs" / "roberta_base_{}" / "scripts" / "seed{}" / "model"

    def saved(task, seed):
        """Two checkpoints are begun, so that the first is whole."""
        return len(list(type(work)(str(folder).format(task, seed)).glob("checkpoint-*/trainer_state.json"))) > 1

    logged = kill_when(lambda: saved("mnli", 1), "train.mnli.1", work, tmp_path / "output")
    assert logged[-2:] == ["ended train.mnli.0", "began train.mnli.1"]
    log = work / "roberta_base_mrpc.seed0.log"
    logged = kill_when(log.exists, "train.mrpc.0", work, tmp_path / "output")
    kept = ["kept toy", "kept train.mnli.0"]
    assert logged == [*kept, "began train.mnli.1", "ended train.mnli.1", "began train.mrpc.0"]
    assert "going on from" in (work / "roberta_base_mnli.seed1.log.err").read_text(encoding="utf-8")
    before = len(events(work))
    result = run_script(command(work, "mnli mrpc"))
    assert result.returncode == 0, result.stderr[-2000:]
    assert events(work)[before:][:4] == [*kept, "kept train.mnli.1", "began train.mrpc.0"]
    found, expected = results(work)["tasks"], results(unbroken)["tasks"]
    assert found == {script: expected[script] for script in ("roberta_base_mnli", "roberta_base_mrpc")}
