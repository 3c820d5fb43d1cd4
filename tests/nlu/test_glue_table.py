"""The table over seeds, on hand-made metrics.json: medians, intervals, which epoch, and files that do not fit."""

from __future__ import annotations

import json
import math
import re

import glue_table
import pytest

from examples.common.errors import UserError
from tests.shared_data import GOLDEN, REPOSITORY

HPARAMS = glue_table.read_hparams()
MNLI = {"eval_accuracy": 0.8, "eval_mm_accuracy": 0.84, "eval_overall_accuracy": 0.82}


def write_run(runs, script, place, last, best, **changes):
    folder = runs / script / "scripts" / f"seed{place}" / "model"
    folder.mkdir(parents=True, exist_ok=True)
    parameters = {"trained_in_base": 294912, "trained_in_head": 592130, "all": 124940546}
    facts = {"scores": last, "best": best, "seed": place, "parameters": parameters, "total_train_batch_size": 64}
    (folder / "metrics.json").write_text(json.dumps({**facts, **changes}), encoding="utf-8")


def write_cola(runs, scores):
    for seed, (last, best) in enumerate(scores):
        name = "eval_matthews_correlation"
        write_run(runs, "roberta_base_cola", seed, {name: last}, {name: best, "step": 7, "epoch": 1.0})


def make(tmp_path, scripts, seeds, *more):
    words = [*scripts, "--runs", tmp_path, "--seeds", *seeds, "--output", tmp_path / "results", *more]
    glue_table.main(list(map(str, words)))
    return (tmp_path / "results.md").read_text(encoding="utf-8"), json.loads((tmp_path / "results.json").read_text())


def cells(text, heading, name):
    """Cells of the row that begins with ``name`` below a heading."""
    part = text.split(f"## {heading}\n")[1].split("\n## ")[0]
    (line,) = [line for line in part.splitlines() if line.startswith(f"| {name} |")]
    return [cell.strip() for cell in line.strip("|").split("|")]


FIVE = [(0.60, 0.64), (0.62, 0.63), (0.58, 0.61), (0.61, 0.66), (0.59, 0.62)]


def test_five_seeds_are_summed_up_as_the_paper_does_and_with_their_intervals(tmp_path, capsys):
    write_cola(tmp_path, FIVE)
    text, found = make(tmp_path, ["roberta_base_cola"], range(5))
    assert capsys.readouterr().out == text
    # t of four degrees of freedom at 97.5 % (tables print 2.776), sd of 61..66 by hand: sqrt(14.8 / 4)
    assert cells(text, "Best epoch of each run", "CoLA")[:8] == [
        *("CoLA", "Matthews correlation", "63.4 ± 1.2", "63.00", "61.00 to 66.00", "1.92"),
        *(f"63.20 ± {2.776445 * math.sqrt(14.8 / 4) / math.sqrt(5):.2f}", "5"),
    ]
    assert cells(text, "Last epoch", "CoLA")[2:6] == ["-", "60.00", "58.00 to 62.00", "1.58"]
    assert "93.75 %" in text
    best = found["tasks"]["roberta_base_cola"]["best"]["CoLA"]
    assert best["values"] == pytest.approx([64, 63, 61, 66, 62]) and best["coverage"] == 1 - 2 / 2**5
    assert "294,912 + 592,130" in text and "| 0.3M |" in text


def test_the_papers_plus_minus_has_one_name_and_is_given_no_meaning(tmp_path):
    """Table 2 does not say what its ± is; ours beside it are named."""
    write_cola(tmp_path, FIVE)
    text, found = make(tmp_path, ["roberta_base_cola"], range(5))
    source = "Table 2: median over 5 seeds of each run's best epoch, with a ± that it does not define"
    assert source in text and source in found["source"]
    assert found["tasks"]["roberta_base_cola"]["published"] == {"published": "63.4", "published_plus_minus": "1.2"}
    page = (REPOSITORY / "examples/NLU/README.md").read_text(encoding="utf-8")
    assert "the paper's ±, which it does not define" in page and "± standard deviation" not in page


def test_one_seed_has_no_interval(tmp_path):
    write_cola(tmp_path, FIVE)
    text, found = make(tmp_path, ["roberta_base_cola"], [3])
    assert cells(text, "Best epoch of each run", "CoLA")[3:] == ["66.00", "66.00 to 66.00", "-", "-", "1", "66.00"]
    best = found["tasks"]["roberta_base_cola"]["best"]["CoLA"]
    assert (best["sd"], best["half_width"], best["coverage"]) == (None, None, 0.0)


def test_mnli_has_a_row_for_each_half_and_the_papers_figure_is_of_both(tmp_path):
    write_run(tmp_path, "roberta_large_mnli", 0, MNLI, {**MNLI, "eval_overall_accuracy": 0.9})
    text, _ = make(tmp_path, ["roberta_large_mnli"], [0])
    rows = [cells(text, "Best epoch of each run", name) for name in ("MNLI", "MNLI matched", "MNLI mismatched")]
    assert [row[2:4] for row in rows] == [["90.6 ± 0.2", "90.00"], ["-", "80.00"], ["-", "84.00"]]


def test_a_run_without_evaluations_in_training_has_no_best_epoch(tmp_path):
    write_run(tmp_path, "roberta_base_rte", 0, {"eval_accuracy": 0.5}, None)
    text, found = make(tmp_path, ["roberta_base_rte"], [0])
    assert cells(text, "Best epoch of each run", "RTE") == ["RTE", "accuracy", "86.6 ± 0.7", *["-"] * 4, "0", "-"]
    assert cells(text, "Last epoch", "RTE")[3] == "50.00"
    assert found["tasks"]["roberta_base_rte"]["best"] == {}


def test_several_tasks_stand_in_one_table_with_a_note(tmp_path):
    write_cola(tmp_path, FIVE[:1])
    write_run(tmp_path, "roberta_base_stsb", 0, *[{"eval_pearson": 0.9, "eval_spearmanr": 0.88}] * 2)
    text, found = make(tmp_path, ["roberta_base_stsb", "roberta_base_cola"], [0], "--note", "A toy.", "--title", "T")
    assert text.startswith("# T\n\nA toy.\n") and list(found["tasks"]) == ["roberta_base_stsb", "roberta_base_cola"]
    assert cells(text, "Best epoch of each run", "STS-B")[1:4] == ["Pearson", "91.5 ± 0.2", "90.00"]
    assert cells(text, "Best epoch of each run", "STS-B Spearman")[1:4] == ["Spearman", "-", "88.00"]


WRONG = {
    "no run": ({}, [1], "seed1/model/metrics.json does not exist: that run is not complete"),
    "another seed": ({"seed": 7}, [0], "a run with seed 7 lies in the folder of seed 0"),
    "a seed twice": ({}, [0, 0], "--seeds 0 0: each seed counts once"),
}


@pytest.mark.parametrize(("changes", "seeds", "message"), WRONG.values(), ids=WRONG)
def test_runs_that_do_not_fit_are_refused(tmp_path, changes, seeds, message):
    write_run(tmp_path, "roberta_base_rte", 0, {"eval_accuracy": 0.5}, None, **changes)
    refused(tmp_path, seeds, message)


@pytest.mark.parametrize(
    ("text", "message"),
    [("{", "metrics.json line 1: not JSON"), ('{"scores": {}}', "no result of run_glue.py"), ("[]", "no result")],
)
def test_files_that_are_no_result_are_refused(tmp_path, text, message):
    write_run(tmp_path, "roberta_base_rte", 0, {}, None)
    (tmp_path / "roberta_base_rte/scripts/seed0/model/metrics.json").write_text(text)
    refused(tmp_path, [0], message)


def test_a_score_that_only_some_runs_have_is_refused(tmp_path):
    write_run(tmp_path, "roberta_base_rte", 0, {"eval_accuracy": 0.5}, {"eval_accuracy": 0.5})
    write_run(tmp_path, "roberta_base_rte", 1, {"eval_accuracy": 0.5}, None)
    refused(tmp_path, [0, 1], "some runs have eval_accuracy of the best epoch, others have not")


def refused(tmp_path, seeds, message):
    with pytest.raises(UserError, match=re.escape(message)):
        make(tmp_path, ["roberta_base_rte"], seeds)
    assert not (tmp_path / "results.md").exists()


def test_an_unknown_row_is_refused(tmp_path):
    with pytest.raises(UserError, match="no row roberta_tiny_rte with recipe scripts"):
        make(tmp_path, ["roberta_tiny_rte"], [0])


def test_every_recipe_of_a_task_has_its_scores():
    for (script, _), row in HPARAMS.items():
        first = glue_table.SCORES[row["task_name"]][0]
        assert first.is_published and glue_table.published(row, first).startswith(row["published"]), script


def test_quoted_parameters_are_those_of_table_2():
    rows = json.loads((GOLDEN / "nlu/published.json").read_text(encoding="utf-8"))["lora_paper"]["table2_glue"]["rows"]
    names = {"RoBERTa-base": "roberta_base", "RoBERTa-large": "roberta_large", "DeBERTa-XXL": "deberta_v2_xxlarge"}
    found = {
        names[row["model"]]: f"{row['trainable_params_millions']}M"
        for row in rows
        if row["method"] == "LoRA" and not row["houlsby_setup"]
    }
    assert found == glue_table.QUOTED_PARAMETERS
