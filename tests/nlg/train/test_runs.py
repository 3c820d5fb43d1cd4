"""The record that a run leaves."""

import hashlib
import json
import shutil
import subprocess

import pytest
import torch

from examples.common import record as runs
from examples.common.record import Run, git_commit, peak_memory_bytes, versions


def test_a_record_names_files_by_content_and_leaves_absent_ones_out(tmp_path):
    path = tmp_path / "data.jsonl"
    path.write_bytes(b"{}\n")
    run = Run(torch.device("cpu"), 7, {"train_data": path, "base_checkpoint": None})
    run.write(tmp_path / "run.json", finished=True)
    record = json.loads((tmp_path / "run.json").read_text())
    assert record["files"] == {"train_data": {"path": str(path), "sha256": hashlib.sha256(b"{}\n").hexdigest()}}
    assert record["seed"] == 7 and record["finished"] is True and record["wall_seconds"] >= 0
    assert record["versions"]["torch"] == torch.__version__ and record["device"].startswith("cpu (")


def test_a_missing_input_file_is_an_error_that_names_it(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        Run(torch.device("cpu"), 7, {"train_data": tmp_path / "nowhere"})


@pytest.mark.slow
def test_peak_memory_grows_with_what_is_held():
    before = peak_memory_bytes(torch.device("cpu"))
    held = torch.ones(before // 4 + 25_000_000)  # float32: more than everything so far, and 100 MB
    assert peak_memory_bytes(torch.device("cpu")) >= before + 50_000_000
    del held


def test_packages_that_are_not_installed_are_left_out(monkeypatch):
    monkeypatch.setattr(runs, "PACKAGES", ("torch", "no-such-package"))
    assert versions().keys() == {"python", "torch"}


@pytest.mark.skipif(shutil.which("git") is None, reason="needs git")
def test_the_commit_says_when_files_differ_from_it(tmp_path, monkeypatch):
    def git(*words):
        identity = ["-c", "user.name=t", "-c", "user.email=t@example.com"]
        return subprocess.run(["git", *identity, *words], cwd=tmp_path, check=True, capture_output=True, text=True)

    (tmp_path / "runs.py").write_text("")
    monkeypatch.setattr(runs, "__file__", str(tmp_path / "runs.py"))
    git("init", "--quiet")
    assert git_commit() is None  # no commit yet
    git("add", "runs.py")
    git("commit", "--quiet", "-m", "one")
    commit = git("rev-parse", "HEAD").stdout.strip()
    assert git_commit() == commit
    (tmp_path / "runs.py").write_text("changed")
    assert git_commit() == f"{commit}-dirty"


def test_without_git_there_is_no_commit(monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert git_commit() is None
