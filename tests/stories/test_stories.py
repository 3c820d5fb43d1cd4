"""From generated raw files to the table, offline: three stories in two seeds, killed and started again."""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import statistics
import subprocess

import pytest

from tests.stories.stories import command, copy_prepared, environment, events, results, run_script, tell, wait_for
from tests.warm_java import java_home

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]
METRICS = {
    "e2e": ["BLEU", "NIST", "METEOR", "ROUGE_L", "CIDEr"],
    "webnlg": [f"{metric} {group}" for metric in ("BLEU", "METEOR", "TER") for group in "USA"],
    "dart": ["BLEU", "METEOR", "TER"],
}
PREPARATION = ["toy_data", "toy_vocabulary", "data", "base"]  # steps before the first training with LoRA
OPTIONS = {"e2e": ["--recipe", "paper"], "webnlg": ["--checkpoint", "both"], "dart": []}


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    """Folder and printed table of a whole story, told once."""
    folders = {}

    def tell_once(dataset):
        if dataset not in folders:
            work = tmp_path_factory.mktemp(dataset) / "work"
            folders[dataset] = work, tell(dataset, work, *OPTIONS[dataset])
        return folders[dataset]

    return tell_once


@pytest.mark.parametrize("dataset", METRICS)
def test_a_story_ends_with_mean_and_interval_over_its_seeds(told, dataset):
    work, printed = told(dataset)
    found = results(work)
    assert [run["metrics"]["seed"] for run in found["runs"]] == [110, 111]
    assert list(found["checkpoints"]) == {"e2e": ["best"], "webnlg": ["last", "best"], "dart": ["last"]}[dataset]
    for checkpoint in found["checkpoints"].values():
        assert list(checkpoint) == METRICS[dataset]
        for summary in checkpoint.values():
            assert summary["n"] == len(summary["values"]) == 2
            assert summary["mean"] == pytest.approx(statistics.fmean(summary["values"]), rel=1e-12)
            # t of one degree of freedom at 97.5 % (tables print 12.706), times sd / sqrt(2)
            assert summary["half_width"] == pytest.approx(12.7062047 * summary["sd"] / 2**0.5, rel=1e-7)
    assert any(summary["sd"] > 0 for checkpoint in found["checkpoints"].values() for summary in checkpoint.values())
    assert printed == (work / "results.md").read_text(encoding="utf-8")
    assert "12.7" not in printed and "Generated data and a toy base" in printed


def test_webnlg_scores_seen_and_unseen_items_from_one_decoding(told):
    work, _ = told("webnlg")
    commands = (work / "commands.txt").read_text(encoding="utf-8")
    assert commands.count("gpt2_beam.py") == 4  # two seeds, last and best
    scores = (work / "seed110" / "last" / "scores.txt").read_text(encoding="utf-8")
    assert "all (24)" in scores and "seen (12)" in scores and "unseen (12)" in scores


def test_a_told_story_repeats_nothing(told):
    work, printed = told("dart")
    before, length = events(work), len((work / "commands.txt").read_text(encoding="utf-8"))
    assert tell("dart", work) == printed
    again = events(work)[len(before) :]
    assert again == [line.replace("ended", "kept") for line in before if line.startswith("ended")]
    assert len((work / "commands.txt").read_text(encoding="utf-8")) == length


def test_another_checkpoint_keeps_the_training(told):
    work, _ = told("e2e")
    before = events(work)
    assert "--length_penalty 0.9" in (work / "commands.txt").read_text(encoding="utf-8")  # the paper's
    tell("e2e", work, "--recipe", "paper", "--checkpoint", "last")
    again = events(work)[len(before) :]
    assert [line for line in again if line.startswith("kept train")] == ["kept train.110", "kept train.111"]
    assert [line for line in again if line.startswith("began")] == [
        *("began decode.110.last", "began score.110.last", "began decode.111.last", "began score.111.last"),
        "began table",
    ]


def kill_when(condition, what, work, output) -> list[str]:
    """Starts the DART story and kills all its processes at once when ``condition()`` holds; what it logged."""
    before = len(events(work)) if (work / "steps.log").exists() else 0
    with output.open("w") as stream:
        story = subprocess.Popen(
            command("dart", work),
            env=environment(JAVA_HOME=java_home()),
            stdout=stream,
            stderr=stream,
            start_new_session=True,
        )
        try:
            wait_for(condition, what)
        finally:
            os.killpg(story.pid, signal.SIGKILL)
            story.wait()
    return events(work)[before:]


def test_a_story_killed_again_and_again_repeats_no_finished_step_and_ends_alike(told, tmp_path):
    """SIGKILL in a search, in a scoring and in a training that has saved its state; the table is that of no kill."""
    unbroken, _ = told("dart")
    work, output = copy_prepared(unbroken, tmp_path / "work"), tmp_path / "output"
    stages = {
        "decode.110.last": lambda: (work / "seed110" / "last" / "beam.log").exists(),
        "score.110.last": lambda: (work / "seed110" / "last" / "references").exists(),
        "train.111": lambda: (work / "seed111" / "training_state.pt").exists(),
    }
    finished = PREPARATION.copy()
    begun = None  # the step in which the last story was killed
    for stage, condition in stages.items():
        logged = kill_when(condition, stage, work, output)
        assert logged[: len(finished)] == [f"kept {name}" for name in finished]
        assert begun is None or logged[len(finished)] == f"began {begun}"
        assert logged[-1] == f"began {stage}"
        finished += [line.removeprefix("ended ") for line in logged if line.startswith("ended")]
        begun = stage
    before = len(events(work))
    tell("dart", work)
    last = events(work)[before:]
    assert last[: len(finished) + 1] == [*(f"kept {name}" for name in finished), "began train.111"]
    assert "resuming after step" in (work / "seed111" / "train.log").read_text(encoding="utf-8")
    whole = events(work)
    assert all(whole.count(f"ended {name}") == 1 for name in finished if name not in PREPARATION)
    assert results(work)["checkpoints"] == results(unbroken)["checkpoints"]


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_stopped_story_stops_its_training_which_saves_its_state(told, tmp_path, signum):
    work = copy_prepared(told("dart")[0], tmp_path / "work")
    words = command("dart", work, "--", "--max_step", "1000000")  # without an end
    log = work / "seed110" / "train.log"
    story = subprocess.Popen(
        words, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    try:
        wait_for(lambda: log.exists() and "start to train the model" in log.read_text(), "training")
        story.send_signal(signum)
        assert story.wait(timeout=1800) == 128 + signum
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(story.pid, signal.SIGKILL)
    assert "Exiting from training early" in log.read_text(encoding="utf-8")
    assert not (work / ".running").exists()
    with (work / "seed110" / "training.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # nobody trains there


def test_a_work_folder_in_use_is_refused(told):
    work, _ = told("dart")
    (work / ".running").mkdir()
    (work / ".running" / "pid").write_text(str(os.getpid()))
    try:
        result = run_script(command("dart", work))
    finally:
        (work / ".running" / "pid").unlink()
        (work / ".running").rmdir()
    assert (result.returncode, result.stderr.splitlines()[-1]) == (
        2,
        f"error: {work} is in use by process {os.getpid()}",
    )
