"""``quickstart.sh --real`` from the official files to the report, with a tiny random Llama in the place of SmolLM2."""

from __future__ import annotations

import json

import pytest

from tests.shared_data import REPOSITORY
from tests.stories.stories import events, run_script
from tests.stories.tiny_e2e import write_tiny_e2e
from tests.warm_java import java_home

SCRIPT = str(REPOSITORY / "scripts" / "quickstart.sh")


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_zero_shot_and_lora_are_scored_beside_each_other_and_nothing_is_repeated(tmp_path):
    write_tiny_e2e(tmp_path)
    data, models, work = tmp_path / "data" / "e2e", tmp_path / "models", tmp_path / "work"
    words = ["bash", SCRIPT, "--real", "--smallest", "--data-dir", data, "--models", models, "--work-dir", work]
    first = run_script([*map(str, words)], JAVA_HOME=java_home())
    assert first.returncode == 0, first.stderr[-2000:]
    ended = [line for line in events(work) if line.startswith("ended")]
    assert ended == [f"ended {name}" for name in ("data", "untuned", "train", "tuned", "report")]
    found = json.loads((work / "results.json").read_text(encoding="utf-8"))
    assert list(found["variants"]) == ["untuned", "lora"] and found["test_inputs"] == 6
    for variant in found["variants"].values():
        assert set(variant["scores"]) == {"BLEU", "NIST", "METEOR", "ROUGE_L", "CIDEr"}
        assert variant["slots"]["slots"] == 6 * 4
    lora = found["variants"]["lora"]
    assert lora["trainable_parameters"] == 3 * 8 * (2 * 16 + 16 + 8)  # blocks, r, A and B of query and of value
    assert lora["steps"] == 4 and lora["train_seconds"] > 0 and lora["checkpoint_bytes"] > 0
    page = (work / "report.html").read_text(encoding="utf-8")
    assert "no fine-tuning" in page and "full fine-tuning" not in page and "errors per slot" in page
    assert page.count("<article>") == 6 and page.count("<polyline") == 1  # 4 steps log no training loss
    texts = [json.loads(line)["generated"] for line in (work / "lora" / "generated.jsonl").open(encoding="utf-8")]
    assert len(texts) == 6
    before = len(events(work))
    again = run_script([*map(str, words)], JAVA_HOME=java_home())
    assert (again.returncode, again.stdout) == (0, first.stdout)
    assert events(work)[before:] == [line.replace("ended", "kept") for line in ended]


def test_without_the_official_files_one_line_says_where_they_are(tmp_path):
    result = run_script(["bash", SCRIPT, "--real", "--work-dir", str(tmp_path / "work")])
    assert result.returncode == 2 and result.stderr.count("\n") == 1
    assert "--data-dir" in result.stderr and "trainset.csv" in result.stderr and "e2e-dataset" in result.stderr
    (tmp_path / "models" / "smollm2").mkdir(parents=True)
    (tmp_path / "models" / "smollm2" / "config.json").write_text("{}")
    words = ["--real", "--data-dir", str(tmp_path), "--models", str(tmp_path / "models")]
    result = run_script(["bash", SCRIPT, *words, "--work-dir", str(tmp_path / "work")])
    assert result.returncode == 2 and "trainset.csv (.gz or not)" in result.stderr.splitlines()[-1]


def test_a_base_is_refused():
    result = run_script(["bash", SCRIPT, "--real", "--base", SCRIPT])
    assert result.returncode == 2 and result.stderr.startswith("error: --real has a base of its own")
