"""The report says what the runs' files say, escapes what they contain, loads nothing, and refuses half a story."""

from __future__ import annotations

import json
import os
import re
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest

from examples.common import report as parts
from examples.common.errors import UserError
from scripts.quickstart import report, results
from tests.warm_python import PYTHON

ROOT = Path(__file__).resolve().parents[2]
BLEU = {"untuned": 0.25, "lora": 0.671, "full": 0.6749}


def write_story(folder: Path, inputs: int = 14) -> Path:
    """A quickstart folder with made-up results; returns its test data."""
    test_data = folder / "test_formatted.jsonl"
    rows = [
        {"context": f"name : Place {i} | near : <b>Mill & Co</b>", "completion": f"Reference {j} of {i} ."}
        for i in range(inputs)
        for j in range(2)
    ]
    test_data.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    for key in ("base", *results.VARIANTS):
        run = folder / key
        run.mkdir()
        if key != "base":
            scores = {"BLEU": BLEU[key], "NIST": 5.678, "METEOR": 0.4, "ROUGE_L": 0.6, "CIDEr": 2.345}
            (run / "scores.json").write_text(json.dumps({"scores": scores}), encoding="utf-8")
            (run / "hypotheses.txt").write_text(
                "".join(f"{key} {i} <script>\n" for i in range(inputs)), encoding="utf-8"
            )
        if key != "untuned":
            metrics = {
                "trainable_parameters": 8192 if key == "lora" else 957184,
                "total_parameters": 965376,
                "train_seconds": 61.4,
                "peak_memory_bytes": 300 * 2**20,
                "checkpoint_bytes": 34000,
                "best_valid_loss": 0.5,
                "steps": 588,
                "seed": 110,
                "device": "cpu",
                "versions": {"torch": "2.13.0"},
                "settings": {"label_smooth": 0.1, "lora_dim": 4, "lora_alpha": 32, "lr": 0.002, "train_batch_size": 8},
            }
            (run / "metrics.json").write_text(json.dumps(metrics), encoding="utf-8")
            record = {"began": "2026-01-02T03:04:05Z", "commit": "0123abc"}
            (run / "run.json").write_text(json.dumps(record), encoding="utf-8")
            log = [{"step": s, "epoch": 1, "lr": 0.1, "train_loss": 3 / s} for s in (50, 100)]
            lines = [*log, {"step": 100, "valid_loss": 1.25}]
            (run / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in lines), encoding="utf-8")
    (folder / "commands.txt").write_text("python train.py --x '<y>' && echo\n", encoding="utf-8")
    return test_data


def run_report(folder: Path, test_data: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [PYTHON, str(ROOT / "scripts/quickstart/report.py"), str(folder), "--test_data", str(test_data)]
    return subprocess.run(command, capture_output=True, text=True, env=environment)


class Page(HTMLParser):
    """Tags, references to other resources, and the text of a page; fails on tags that do not nest."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.loads: list[str] = []
        self.text = ""
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.loads += [value for name, value in attributes if name in ("src", "href", "xlink:href")]
        if tag != "meta":
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


@pytest.fixture()
def story(tmp_path):
    return results.read_results(tmp_path, write_story(tmp_path))


def test_the_program_writes_table_json_markdown_and_page(tmp_path):
    test_data = write_story(tmp_path)
    done = run_report(tmp_path, test_data)
    assert (done.returncode, done.stderr) == (0, "")
    lora = next(line for line in done.stdout.splitlines() if line.startswith("LoRA"))
    assert re.split(r"\s{2,}", lora) == [
        "LoRA",
        "8,192",
        "67.1",
        "5.68",
        "40.0",
        "60.0",
        "2.35",
        "61 s",
        "300 MiB",
        "33.2 KiB",
    ]
    markdown = (tmp_path / "results.md").read_text(encoding="utf-8")
    assert "| LoRA | 8,192 | 67.1 | 5.68 |" in markdown
    saved = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))
    assert saved["variants"]["full"]["scores"]["BLEU"] == BLEU["full"]
    assert saved["variants"]["lora"]["train_seconds"] == 61.4
    assert (tmp_path / "report.html").exists()


def test_the_page_stands_alone_and_escapes_what_models_and_files_say(story):
    page = Page(report.report_html(story))
    assert page.loads == []
    assert not {"script", "link", "img", "iframe", "b>"} & set(page.tags)
    assert "<b>Mill & Co</b>" in page.text and "lora 0 <script>" in page.text
    assert "python train.py --x '<y>' && echo" in page.text


def test_the_page_shows_a_dozen_inputs_with_three_predictions_and_all_references(story):
    page = Page(report.report_html(story))
    assert page.tags.count("article") == 12
    for prediction in ("untuned 0", "lora 0", "full 0", "Reference 0 of 0", "Reference 1 of 0"):
        assert prediction in page.text
    assert page.tags.count("polyline") == 6  # training and validation of LoRA, full fine-tuning and the base


def test_the_page_says_settings_date_commit_and_machine(story):
    text = Page(report.settings_html(story)).text
    assert all(name in text for name in report.SETTINGS) and "0.002" in text
    assert "Date: 2026-01-02 03:04 UTC" in text and "Commit: 0123abc" in text and "Device: cpu; CPU: " in text


def test_the_summary_is_made_of_the_table_s_numbers(story):
    text = report.summary(story)
    assert "LoRA trains 8,192 parameters, 0.86% of the 957,184" in text
    assert "BLEU 67.1 against 67.5; the base model without tuning has 25.0" in text


def test_real_base_weights_have_no_training_curve_of_their_own(tmp_path):
    test_data = write_story(tmp_path)
    for file in (tmp_path / "base").iterdir():
        file.unlink()
    story = results.read_results(tmp_path, test_data)
    assert story.base is None
    assert "Base model, on the general corpus" not in report.report_html(story)


def test_scores_that_need_java_may_be_absent(tmp_path):
    test_data = write_story(tmp_path)
    for key in results.VARIANTS:
        (tmp_path / key / "scores.json").write_text('{"scores": {"BLEU": 0.5, "NIST": 3}}', encoding="utf-8")
    done = run_report(tmp_path, test_data)
    assert done.returncode == 0
    assert "not scored: METEOR, ROUGE_L, CIDEr" in done.stdout


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (
            lambda f: (f / "lora/metrics.json").unlink(),
            "lora/metrics.json does not exist; the training",
        ),
        (lambda f: (f / "full/scores.json").write_text("{"), "full/scores.json: not JSON"),
        (lambda f: (f / "full/scores.json").write_text("{}"), "the key 'scores' is missing"),
        (lambda f: (f / "lora/metrics.json").write_text("{}"), "trainable_parameters, total_parameters"),
        (lambda f: (f / "untuned/hypotheses.txt").write_text("one\n"), "1 predictions for 14 inputs"),
        (lambda f: (f / "lora/log.jsonl").write_text('{"step": "x"}\n'), "log.jsonl line 1"),
    ],
)
def test_half_a_story_is_refused_in_one_line_and_leaves_no_report(tmp_path, spoil, message):
    test_data = write_story(tmp_path)
    spoil(tmp_path)
    done = run_report(tmp_path, test_data)
    assert done.returncode == 2
    assert message in done.stderr and done.stderr.count("\n") == 1
    assert not (tmp_path / "report.html").exists() and not (tmp_path / "results.json").exists()


def test_a_missing_folder_is_a_user_error(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        results.read_results(tmp_path, tmp_path / "absent.jsonl")


@pytest.mark.parametrize(
    ("count", "text"),
    [(None, "-"), (0, "0 B"), (999, "999 B"), (34000, "33.2 KiB"), (2**20 * 150, "150 MiB"), (2**30 * 2.5, "2.50 GiB")],
)
def test_sizes_are_readable(count, text):
    assert results.size_text(count) == text


@pytest.mark.parametrize(("low", "high"), [(0, 1), (0.52, 4.88), (0, 588), (3, 3), (0, 0), (1e-4, 2e-4)])
def test_ticks_cover_the_data_in_round_steps(low, high):
    ticks = parts.round_ticks(low, high)
    assert ticks[0] <= low + 1e-12 and ticks[-1] >= high - 1e-9
    assert len(ticks) <= 9


def test_a_chart_leaves_out_what_is_no_number_and_says_when_nothing_is_left():
    points = [(1, float("nan")), (2, 1.0), (3, float("inf")), (4, 2.0)]
    svg = parts.line_chart("t", [parts.Line("a", "#000", points)], "x", "y")
    assert "nan" not in svg and "inf" not in svg and svg.count("<circle") == 2
    assert "nothing was logged" in parts.line_chart("t", [parts.Line("a", "#000", [])], "x", "y")
