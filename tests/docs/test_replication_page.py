"""The tables of docs/replication.md are those that its result files give."""

import sys

import pytest

from tests.shared_data import REPOSITORY

sys.path.insert(0, str(REPOSITORY / "scripts" / "replication"))
import page

PAGE = REPOSITORY / "docs" / "replication.md"
RESULTS = REPOSITORY / "docs" / "replication" / "results"


@pytest.mark.slow
def test_the_page_is_made_from_the_results():
    text = PAGE.read_text(encoding="utf-8")
    assert page.fill(text, page.read_results(RESULTS)) == text


def test_the_front_page_quotes_the_results():
    results = page.read_results(RESULTS)
    untrained, lora = (100 * results[f"e2e/{row}.seed0"]["scores"]["BLEU"] for row in ("zero-shot", "lora-qv"))
    readme = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    assert f"SmolLM2-135M on E2E: BLEU {untrained:.1f} untrained, {lora:.1f} with LoRA" in readme


def made_up(shift, seeds=(0,)):
    items = {"ROUGE_L": " ".join(str((k % 7) / 10 + shift) for k in range(50)), "missing": " ".join(["1"] * 50)}
    items |= {"wrong": " ".join(["0"] * 50), "added": " ".join(["0"] * 50)}
    return {"run": "x", "items": items}


def test_verdicts_follow_the_interval(monkeypatch):
    monkeypatch.setattr(page, "ROUNDS", 200)
    for shift, verdict in ((0.1, "held"), (0.0, "held"), (-0.1, "not held")):
        results = {"e2e/lora-qv.seed0": made_up(0.2 + shift), "e2e/full.seed0": made_up(0.2)}
        monkeypatch.setattr(page, "CLAIMS", (("claim", "source", "near", "lora-qv", "full"),))
        assert page.interval(results, "lora-qv", "full")[0] == pytest.approx(100 * shift)
        monkeypatch.setattr(page, "of_row", lambda found, row: [found[f"e2e/{row}.seed0"]] if row else [])
        monkeypatch.setattr(page, "_cpu", lambda run, step: 1.0)
        for run in results.values():
            run |= {"peak_memory_bytes": 1, "result_bytes": 1}
        assert page.claims_table(results)[1][3] == f"**{verdict}**"


def test_a_claim_without_results_is_not_run():
    assert {row[3] for row in page.claims_table({})[1:]} == {"not run yet"}
