"""Runs of both examples side by side, and what HTML pages look like in light and dark."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from examples.common import compare, report
from examples.common.errors import UserError
from tests.shared_data import REPOSITORY


def write_gpt2_run(folder: Path, lr: float) -> Path:
    """A made-up work folder of ``gpt2_ft.py`` with the scores of one decoding."""
    (folder / "last").mkdir(parents=True)
    files = {
        "metrics.json": {"settings": {"lr": lr, "lora_dim": 4, "work_dir": str(folder)}, "trainable_parameters": 8192},
        "run.json": {"began": "2026-01-02T03:04:05+00:00", "commit": "0" * 40 + "-dirty", "versions": {"torch": "2"}},
        "last/scores.json": {"scores": {"BLEU": 0.5 + lr}},
    }
    for name, value in files.items():
        (folder / name).write_text(json.dumps(value), encoding="utf-8")
    rows = [{"step": s, "lr": lr, "train_loss": 3 / s} for s in (1, 2)] + [{"step": 2, "valid_loss": 1.5}]
    (folder / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return folder


def write_glue_run(folder: Path) -> Path:
    folder.mkdir()
    history = [
        {"step": 20, "epoch": 1.0, "loss": 0.7, "learning_rate": 0.1},
        {"step": 20, "epoch": 1.0, "eval_loss": 0.6, "eval_accuracy": 0.8, "eval_runtime": 3.0},
        {"step": 20, "epoch": 1.0, "train_loss": 0.65, "train_runtime": 9.0},
    ]
    files = {
        "metrics.json": {"scores": {"eval_accuracy": 0.8, "eval_runtime": 3.0}},
        "run.json": {"command": "python run_glue.py --lora_r 8 --do_train --output_dir out --lr=1e-3"},
        "trainer_state.json": {"log_history": history},
    }
    for name, value in files.items():
        (folder / name).write_text(json.dumps(value), encoding="utf-8")
    return folder


def run_compare(*words: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "examples.common.compare", *map(str, words)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
    )


def test_the_page_shows_what_differs_and_the_program_names_the_file(tmp_path):
    runs = [write_gpt2_run(tmp_path / name, lr) for name, lr in (("slow", 0.001), ("fast", 0.01))]
    done = run_compare(*runs, "--out", tmp_path / "page.html")
    assert (done.returncode, done.stdout) == (0, f"wrote {tmp_path.resolve() / 'page.html'}\n")
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "<td>lr</td>" in text and ">0.001<" in text and ">0.01<" in text
    assert "lora dim" not in text and "work dir" not in text  # equal; where the run lies
    assert "last/BLEU" in text and ">0.51<" in text and "2026-01-02 03:04 UTC" in text
    assert text.count("<figure>") == 2 and text.count("<polyline") == 4


def test_a_run_of_the_trainer_is_read_from_its_state_and_its_command(tmp_path):
    run = compare.read_run(write_glue_run(tmp_path / "glue"))
    assert run.settings == {"lora_r": "8", "do_train": "yes", "lr": "1e-3"}
    assert run.scores == {"eval_accuracy": 0.8}
    assert run.curves["train_loss"] == [(20, 0.7)] and run.curves["valid_loss"] == [(20, 0.6)]


def test_a_run_that_has_just_begun_has_no_curves(tmp_path):
    (tmp_path / "log.jsonl").touch()
    assert "Nothing was logged." in compare.compare_html([compare.read_run(tmp_path)])


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("metrics.json", "{", "metrics.json: not JSON"),
        ("metrics.json", "[" * 100_000, "metrics.json: not JSON"),
        ("run.json", "[1]", "expected a JSON object, got list"),
        ("log.jsonl", '{"step": 1, "train_loss": "x"}\n', "log.jsonl line 1: not a row of a log"),
        ("trainer_state.json", '{"log_history": [{"loss": 1}]}', "trainer_state.json line 1: not a row of a log"),
        ("other", "", "holds no run"),
    ],
)
def test_a_folder_without_a_sound_run_is_refused(tmp_path, file, content, message):
    (tmp_path / file).write_text(content, encoding="utf-8")
    with pytest.raises(UserError, match=message):
        compare.read_run(tmp_path)


def test_a_mistake_is_one_line_and_leaves_no_page(tmp_path):
    done = run_compare(tmp_path / "absent", "--out", tmp_path / "page.html")
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "is no folder" in done.stderr
    assert not (tmp_path / "page.html").exists()


def luminance(colour: str) -> float:
    """Relative luminance of ``#rrggbb`` (WCAG 2.1)."""
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    r, g, b = (p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts)
    return 0.2126 * r + 0.7152 * g + 0.0722 * b


@pytest.mark.parametrize("scheme", [report.LIGHT, report.DARK], ids=["light", "dark"])
def test_texts_and_lines_are_readable_in_both_schemes(scheme):
    for ground in ("page", "soft"):
        for name in scheme.keys() - {"page", "soft", "rule"}:
            high, low = sorted((luminance(scheme[ground]), luminance(scheme[name])), reverse=True)
            assert (high + 0.05) / (low + 0.05) >= 4.5, (ground, name)


def test_every_colour_of_a_page_follows_the_scheme():
    text = report.page("t", report.table(["", "x"], [["a", "b"]], [report.series_colour(0)]))
    assert not re.search(r"#[0-9a-f]{6}", text.split("</style>")[1]) and "prefers-color-scheme: dark" in text
    assert 'data-label="x"' in text  # a narrow screen shows it before the cell
