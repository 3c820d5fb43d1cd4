"""``score.py``: figures that a few lines of arithmetic give too."""

from __future__ import annotations

import json
import math
import subprocess
import sys

import pytest
import score
import torch
from clm.losses import class_scores, label_scores
from clm.opening import Opened
from clm.sources import Row
from clm.text_scores import chrf, rouge_l

from examples.common.errors import UserError
from tests.clm.world import CLM, save_base, tiny_model, tiny_tokenizer, write_jsonl
from tests.warm_python import PYTHON


def test_perplexity_counts_bytes_and_tokens_of_whole_texts():
    model, tokenizer = tiny_model("llama"), tiny_tokenizer(pad_token="<|end|>")
    texts = ["Blue Spice serves French food.", "a good film, é"]
    opened = Opened(model, tokenizer, None, (), None)
    found = score.perplexity(opened, [Row("x", {"text": text}) for text in texts], 64, 2)
    nats = n = n_bytes = 0.0
    for text in texts:
        ids = [*tokenizer(text)["input_ids"], tokenizer.eos_token_id]
        log_p = model(torch.tensor([ids])).logits[0].log_softmax(-1)
        nats -= sum(log_p[t, ids[t + 1]].item() for t in range(len(ids) - 1))
        n += len(ids) - 1
        n_bytes += len(text.encode()) - len(tokenizer.decode(ids[:1]).encode())
    assert found["nats_per_token"] == pytest.approx(nats / n, rel=1e-5)
    assert found["bits_per_byte"] == pytest.approx(nats / math.log(2) / n_bytes, rel=1e-5)
    assert found["perplexity"] == pytest.approx(math.exp(nats / n), rel=1e-5)


def test_label_scores_by_hand():
    found = label_scores(["a", "a", "b", "c"], ["a", "b", "b", "b"])
    # F1: a 2/3, b 2 * 1 * (1/3) / (4/3) = 1/2, c 0
    assert found == {"accuracy": 0.5, "f1_macro": pytest.approx((2 / 3 + 1 / 2 + 0) / 3)}
    logits, labels = torch.randn(9, 3), torch.arange(9) % 3
    loss = torch.nn.functional.cross_entropy(logits, labels).item()
    assert class_scores(logits.numpy(), labels.numpy())["loss"] == pytest.approx(loss, rel=1e-6)


def test_text_scores_are_100_for_equal_texts_and_print_their_settings():
    for found in (chrf(["A cat."], ["A cat."]), rouge_l(["a cat ."], ["A cat."])):
        assert found.value == pytest.approx(100)
    assert "nc:6" in chrf(["a"], ["b"]).settings
    # common subsequence "a cat": precision 2/3, recall 2/4, F with beta 1.2
    assert rouge_l(["a big cat"], ["a cat sat down"]).value == pytest.approx(
        100 * 2.44 * (1 / 3) / (0.5 + 1.44 * 2 / 3)
    )


def test_commands_score_what_the_other_programs_write(tmp_path, monkeypatch, capsys):
    labels = write_jsonl(tmp_path / "gold.jsonl", [{"text": "x", "label": "yes"}, {"text": "y", "label": "no"}])
    (tmp_path / "test_results.txt").write_text("index\tprediction\n0\tyes\n1\tyes\n")
    _run(monkeypatch, "labels", "--predictions", str(tmp_path / "test_results.txt"), "--references", labels)
    assert "accuracy: 0.5" in capsys.readouterr().out
    written = write_jsonl(tmp_path / "g.jsonl", [{"prompt": "p", "response": "gold", "generated": "a cat"}])
    gold = write_jsonl(tmp_path / "r.jsonl", [{"prompt": "p", "response": "a cat"}])
    json_file = tmp_path / "s.json"
    _run(monkeypatch, "texts", "--hypotheses", written, "--references", gold, "--json", str(json_file))
    assert json.loads(json_file.read_text())["chrF"] == pytest.approx(100)
    flags = ["--model", save_base(tmp_path / "m"), "--input", labels]
    _run(monkeypatch, "perplexity", *flags)
    assert "bits_per_byte: " in capsys.readouterr().out
    with pytest.raises(UserError, match=r"--hypotheses .* has 1 rows, but --references .* has 2"):
        _run(monkeypatch, "texts", "--hypotheses", written, "--references", labels)


@pytest.mark.slow
def test_e2e_figures_come_from_the_scorer_of_the_nlg_example(tmp_path):
    written = write_jsonl(tmp_path / "g.jsonl", [{"generated": "a\ncat sat"}, {"generated": "a dog"}])
    (tmp_path / "refs.txt").write_text("a cat sat\na cat\n\na dog\n\none more\n")
    command = [PYTHON, str(CLM / "score.py"), "e2e", "--hypotheses", written, "--references"]
    found = subprocess.run([*command, str(tmp_path / "refs.txt")], capture_output=True, text=True, check=False)
    assert found.returncode == 2
    assert found.stderr.splitlines()[-1].startswith(f"error: {written} has 2 hypotheses, but the references are for 3")
    (tmp_path / "refs.txt").write_text("a cat sat\na cat\n\na dog\n")
    command += [str(tmp_path / "refs.txt"), "--python", "--json", str(tmp_path / "s.json")]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr
    scores = json.loads((tmp_path / "s.json").read_text())
    assert (scores["hypotheses"], scores["definition"]) == (2, "python") and scores["ROUGE_L"] == pytest.approx(1)
    assert {"BLEU", "NIST", "METEOR", "CIDEr"} <= set(scores)
    assert "ROUGE_L: 1.0" in found.stdout and "scores.json" not in found.stderr


def _run(monkeypatch, *words):
    monkeypatch.setattr(sys, "argv", ["score.py", *words])
    score.main()


def test_predictions_that_are_not_utf_8_and_rows_of_half_surrogates_are_one_line(tmp_path, monkeypatch):
    (tmp_path / "x_results.txt").write_bytes(b"index\tprediction\n0\t\xa0\n")
    rows = write_jsonl(tmp_path / "rows.jsonl", [{"label": "\ud800"}])
    for predictions, message in (("x_results.txt", "line 2: not UTF-8"), ("rows.jsonl", "half of a surrogate pair")):
        with pytest.raises(UserError, match=message):
            _run(monkeypatch, "labels", "--predictions", str(tmp_path / predictions), "--references", rows)
