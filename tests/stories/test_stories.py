"""From generated raw files to the table, offline: three stories in two seeds, killed and started again."""

from __future__ import annotations

import os
import signal
import statistics
import subprocess

import pytest

from tests.stories.stories import ENVIRONMENT, command, events, results, run_script, tell, wait_for

pytestmark = pytest.mark.slow
METRICS = {
    "e2e": ["BLEU", "NIST", "METEOR", "ROUGE_L", "CIDEr"],
    "webnlg": [f"{metric} {group}" for metric in ("BLEU", "METEOR", "TER") for group in "USA"],
    "dart": ["BLEU", "METEOR", "TER"],
}
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


@pytest.mark.parametrize("stage", ["train.111", "decode.110.last", "score.110.last"])
def test_a_story_killed_in_a_step_goes_on_there_and_ends_alike(told, tmp_path, stage):
    """SIGKILL for all processes at once: finished steps are not repeated, and the table is that of an unbroken run."""
    unbroken, _ = told("dart")
    work = tmp_path / "work"
    with (tmp_path / "output").open("w") as output:
        story = subprocess.Popen(
            command("dart", work), env=ENVIRONMENT, stdout=output, stderr=output, start_new_session=True
        )
        try:
            wait_for(lambda: (work / "steps.log").exists() and f"began {stage}" in events(work), stage)
        finally:
            os.killpg(story.pid, signal.SIGKILL)
            story.wait()
    broken = events(work)
    assert broken[-1] == f"began {stage}"
    tell("dart", work)
    again = events(work)[len(broken) :]
    finished = [line.removeprefix("ended ") for line in broken if line.startswith("ended")]
    assert again[: len(finished) + 1] == [*(f"kept {name}" for name in finished), f"began {stage}"]
    assert results(work)["checkpoints"] == results(unbroken)["checkpoints"]


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
