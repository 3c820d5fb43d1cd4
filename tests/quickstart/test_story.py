"""The quickstart as a user runs it: embedded data, a user's own data and base, and what it refuses."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from tests.shared_data import REPOSITORY
from tests.warm_java import java_home
from tests.warm_python import PYTHON

pytestmark = pytest.mark.timeout(3600)  # a busy machine needs minutes; this is for what hangs
SCORES = {"BLEU", "NIST", "METEOR", "ROUGE_L", "CIDEr"}


def quickstart(*arguments: object, **more: str) -> subprocess.CompletedProcess[str]:
    """Runs the script with the Python of the tests, which installs nothing."""
    return subprocess.run(
        ["bash", REPOSITORY / "scripts/quickstart.sh", *map(str, arguments)],
        env={**os.environ, "PYTHON": PYTHON, **more},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def embedded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the smallest run on embedded data."""
    folder = tmp_path_factory.mktemp("quickstart")
    result = quickstart("--smallest", "--work-dir", folder, JAVA_HOME=java_home())
    assert result.returncode == 0, result.stderr
    assert "LoRA" in result.stdout and "full fine-tuning" in result.stdout
    return folder


def assert_whole(folder: Path) -> None:
    for variant in ("untuned", "lora", "full"):
        assert set(json.loads((folder / variant / "scores.json").read_text())["scores"]) == SCORES
        assert (folder / variant / "hypotheses.txt").read_text().count("\n") > 0
    report = (folder / "report.html").read_text()
    assert "<svg" in report and "http" not in report.replace("http://www.w3.org", "")


@pytest.mark.slow
def test_the_embedded_story_ends_with_scores_and_a_report(embedded):
    assert_whole(embedded)
    lora, full = (json.loads((embedded / name / "metrics.json").read_text()) for name in ("lora", "full"))
    assert 0 < lora["trainable_parameters"] < 0.01 * full["trainable_parameters"]
    assert lora["checkpoint_bytes"] < 0.02 * full["checkpoint_bytes"]


@pytest.mark.slow
def test_own_data_and_own_base_weights_tell_the_same_story(embedded, tmp_path):
    data = tmp_path / "my data"
    data.mkdir()
    for split in ("train", "valid", "test"):
        lines = (embedded / f"data/e2e/{split}.txt").read_text().splitlines(keepends=True)
        (data / f"{split}.txt").write_text("".join(lines[:40]))
    base = next((embedded / "base").glob("model.[0-9]*.pt"))
    flags = ["--base", base, "--model-card", embedded / "model.json", "--vocab", embedded / "vocab"]
    result = quickstart("--smallest", "--work-dir", tmp_path / "out", "--data-dir", data, *flags, JAVA_HOME=java_home())
    assert result.returncode == 0, result.stderr
    assert_whole(tmp_path / "out")
    assert not (tmp_path / "out/base").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--fast"], "unknown option --fast"),
        (["--base"], "--base needs a value"),
        (["--base", "no/file"], "no/file does not exist"),
        (["--data-dir", "no/folder"], "no/folder/train.txt does not exist"),
    ],
)
def test_a_mistake_is_one_line(arguments, message):
    result = quickstart(*arguments)
    assert result.returncode == 2
    assert result.stderr.startswith(f"error: {message}") and result.stderr.count("\n") == 1


def test_a_folder_with_other_files_is_left_alone(tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    result = quickstart("--work-dir", tmp_path)
    assert result.returncode == 2 and "holds other files" in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]
