"""The tables of docs/replication.md are those that its result files give."""

import sys

import numpy as np
import pytest

from tests.shared_data import REPOSITORY

sys.path.insert(0, str(REPOSITORY / "scripts" / "replication"))
import claims
import compare
import page
import replicate

PAGE = REPOSITORY / "docs" / "replication.md"
RESULTS = REPOSITORY / "docs" / "replication" / "results"


@pytest.mark.slow
def test_the_page_is_made_from_the_results():
    text = PAGE.read_text(encoding="utf-8")
    assert page.fill(text, compare.read_results(RESULTS)) == text


def test_the_front_page_quotes_the_results():
    results = compare.read_results(RESULTS)
    untrained, lora = (100 * results[f"e2e/{row}.seed0"]["scores"]["BLEU"] for row in ("zero-shot", "lora-qv"))
    readme = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    assert f"SmolLM2-135M on E2E: BLEU {untrained:.1f} untrained, {lora:.1f} with LoRA" in readme
    lora, full = (100 * results[f"glue/sst2-{row}.seed0"]["scores"]["accuracy"] for row in ("lora", "full"))
    assert f"SST-2: accuracy {lora:.1f} with LoRA, {full:.1f} with all weights trained" in readme


ITEMS = 50


def made_up(shift, **more):
    items = {"ROUGE_L": " ".join(str((k % 7) / 10 + shift) for k in range(ITEMS))}
    return {"run": "x", "items": {**items, **more}}


@pytest.mark.parametrize(
    ("kind", "shift", "verdict"),
    [
        ("near", 0.1, "held"),
        ("near", 0.0, "held"),
        ("near", -0.1, "not held"),
        ("above", 0.1, "held"),
        ("above", 0.0, "undecided"),
        ("above", -0.1, "not held"),
    ],
)
def test_verdicts_follow_the_interval(kind, shift, verdict, monkeypatch):
    monkeypatch.setattr(compare, "ROUNDS", 200)
    results = {"e2e/a.seed0": made_up(0.2 + shift), "e2e/b.seed0": made_up(0.2)}
    mean, low, high = compare.interval(results, [("e2e/a", "e2e/b")], "ROUGE_L")
    assert low <= mean <= high and mean == pytest.approx(100 * shift, abs=1e-9)
    claim = claims.Claim("claim", "source", kind, "e2e/a", "e2e/b")
    assert claims.verdict(claim, results)[1] == verdict


def test_an_interval_covers_items_seeds_and_tasks(monkeypatch):
    """Against the spread of means that normal theory gives for the same numbers."""
    monkeypatch.setattr(compare, "ROUNDS", 2_000)
    drawn = np.random.default_rng(1)
    results, differences = {}, []
    for task, chance in (("sst2", 0.8), ("rte", 0.6)):
        values = drawn.random((2, 400)) < np.array([[chance], [chance - 0.05]])
        differences.append(100 * (values[0].astype(float) - values[1]))
        for row, side in zip("ab", values):
            words = " ".join(str(int(value)) for value in side)
            results[f"glue/{task}-{row}.seed0"] = {"items": {"correct": words}}
    pairs = [(f"glue/{task}-a", f"glue/{task}-b") for task in ("sst2", "rte")]
    mean, low, high = compare.interval(results, pairs, "correct")
    assert mean == pytest.approx(np.mean([part.mean() for part in differences]))
    error = np.sqrt(sum(part.var() / 400 for part in differences)) / 2
    assert high - low == pytest.approx(2 * 1.96 * error, rel=0.1)


def test_a_claim_of_lower_cost_is_a_ratio():
    results = {f"glue/sst2-{row}.seed0": {"result_bytes": size} for row, size in (("lora", 1), ("full", 4))}
    smaller = next(claim for claim in claims.CLAIMS if claim.figure == "result_bytes" and "glue" in claim.a)
    assert claims.verdict(smaller, results) == ("glue/sst2-lora over glue/sst2-full: 0.25", "held")


def test_a_claim_without_results_is_not_run():
    assert {row[3] for row in claims.claims_table({})[1:]} == {"not run yet"}


def test_each_claim_rests_on_rows_of_the_queue():
    rows = {f"{run.block}/{run.run}" for run in replicate.read_runs(replicate.RUNS)}
    assert {row for claim in claims.CLAIMS for pair in claim.pairs for row in pair} <= rows
