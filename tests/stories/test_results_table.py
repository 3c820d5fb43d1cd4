"""The table over seeds: hand-computed figures, known t quantiles, published rows, and every wrong run folder."""

from __future__ import annotations

import json
import subprocess

import pytest
import results_table

from examples.common.errors import UserError
from tests.shared_data import REPOSITORY, shared_path
from tests.warm_python import PYTHON

PROGRAM = REPOSITORY / "examples" / "NLG" / "src" / "results_table.py"

E2E = {"BLEU": 0.7, "NIST": 8.8, "METEOR": 0.46, "ROUGE_L": 0.71, "CIDEr": 2.5}
GENERATION = {"BLEU": 47.0, "BLEU NLTK": 0.5, "METEOR": 0.39, "TER": 0.46}


def write_run(folder, scores, seed=110, checkpoint="last", groups=None, **changes):
    (folder / checkpoint).mkdir(parents=True)
    metrics = {"seed": seed, "trainable_parameters": 393216, "steps": 26290, "finished": True}
    metrics |= {"settings": {"model_card": "gpt2.md"}, **changes}
    (folder / "metrics.json").write_text(json.dumps(metrics))
    found = {"scores": scores, "groups": {name: {"n": 1, "scores": s} for name, s in (groups or {}).items()}}
    (folder / checkpoint / "scores.json").write_text(json.dumps(found))
    return folder


def make(tmp_path, dataset, runs, *flags):
    words = [dataset, *runs, "--recipe", "scripts", "--output", tmp_path / "table", *flags]
    results_table.main([str(word) for word in words])
    return (tmp_path / "table.md").read_text(encoding="utf-8"), json.loads((tmp_path / "table.json").read_text())


def test_e2e_figures_stand_beside_the_published_row(tmp_path, capsys):
    runs = [
        write_run(tmp_path / name, {**E2E, "BLEU": bleu, "NIST": nist}, seed)
        for name, seed, bleu, nist in (("b", 112, 0.69, 8.7), ("a", 110, 0.68, 8.6), ("c", 111, 0.70, 8.9))
    ]
    text, found = make(tmp_path, "e2e", runs)
    assert capsys.readouterr().out == text
    # 68, 70, 69: mean 69, sd 1, 4.3027 / sqrt(3) = 2.4841
    assert "| BLEU | 70.4 ± 0.1 | 69.00 | 1.00 | 66.52 to 71.48 (± 2.48) | 3 | 68.00 | 70.00 | 69.00 |" in text
    # 8.6, 8.9, 8.7: mean 8.7333, squares .01778 + .02778 + .00111 = .04667, sd .15275, times 4.3027 / sqrt(3) = .37946
    assert "| NIST | 8.85 ± 0.02 | 8.733 | 0.153 | 8.354 to 9.113 (± 0.379) | 3 | 8.600 | 8.900 | 8.700 |" in text
    assert "seeds 110, 111, 112; 393,216 trainable parameters, counted" in text
    assert text.startswith("# e2e, GPT-2 Medium with LoRA, recipe scripts\n")
    assert "Table 3" in text and "0.35M parameters" in text and "68.65, 68.85, 68.87" in text
    assert "| FT | 354.92M | 68.2 | 8.62 | 46.2 | 71.0 | 2.47 |" in text
    assert "774.03M" not in text  # Large
    assert found["checkpoints"]["last"]["CIDEr"]["values"] == [2.5, 2.5, 2.5]
    assert found["published"]["row"]["figures"]["BLEU"] == {"value": 70.4, "spread": 0.1}


def test_webnlg_takes_each_figure_from_its_group(tmp_path):
    groups = {"seen": {**GENERATION, "BLEU": 60.0}, "unseen": {**GENERATION, "TER": 0.5}}
    text, _ = make(tmp_path, "webnlg", [write_run(tmp_path / "a", {**GENERATION, "BLEU": 54.0}, groups=groups)])
    assert "| BLEU U | 46.7 ± 0.4 | 47.00 | - | - | 1 | 47.00 |" in text
    assert "| BLEU S | 62.1 ± 0.2 | 60.00 |" in text and "| BLEU A | 55.3 ± 0.2 | 54.00 |" in text
    assert "| TER U | 0.46 | 0.500 |" in text and "| TER A | 0.39 | 0.460 |" in text


def test_last_and_best_stand_in_two_tables(tmp_path):
    run = write_run(tmp_path / "a", GENERATION)
    (run / "best").mkdir()
    (run / "best" / "scores.json").write_text(json.dumps({"scores": {**GENERATION, "BLEU": 48.0}}))
    text, found = make(tmp_path, "dart", [run], "--checkpoint", "last", "best", "--size", "lg")
    assert text.index("Checkpoint: last") < text.index("| BLEU | 47.5 ± 0.1 | 47.00 |") < text.index("Checkpoint: best")
    assert "| BLEU | 47.5 ± 0.1 | 48.00 |" in text
    assert list(found["checkpoints"]) == ["last", "best"]


def test_a_size_that_the_paper_lacks_is_said_so(tmp_path):
    text, found = make(tmp_path, "dart", [write_run(tmp_path / "a", GENERATION)], "--size", "sm")
    assert "no row of this size" in text and "| BLEU | - | 47.00 |" in text
    assert found["published"]["row"] is None


def test_another_model_than_the_published_rows_is_named(tmp_path):
    run = write_run(tmp_path / "a", GENERATION, settings={"model_card": "mine.json"})
    assert make(tmp_path, "dart", [run])[0].startswith("# dart, model card mine.json with LoRA")
    run = write_run(tmp_path / "b", GENERATION)
    assert make(tmp_path, "dart", [run], "--size", "lg")[0].startswith("# dart, model card gpt2.md with LoRA")


def test_a_toy_is_called_one(tmp_path):
    text, found = make(tmp_path, "dart", [write_run(tmp_path / "a", GENERATION)], "--toy")
    assert "dart, a toy base with LoRA" in text and "compare with nothing" in text and found["toy"] is True


WRONG = {
    "no such run": (lambda f: f / "none", "none/metrics.json does not exist"),
    "no scores": (
        lambda f: write_run(f / "a", GENERATION, checkpoint="best"),
        "a/last/scores.json does not exist",
    ),
    "no seed": (lambda f: write_run(f / "a", GENERATION, seed=None), "expected a whole number as 'seed'"),
    "stopped": (lambda f: write_run(f / "a", GENERATION, finished=False), "training stopped early at step 26290"),
    "no METEOR": (lambda f: write_run(f / "a", {"BLEU": 47.0}), "METEOR is missing in the scores of all; score again"),
}


@pytest.mark.parametrize(("build", "message"), WRONG.values(), ids=WRONG)
def test_a_wrong_run_folder_is_refused_and_nothing_is_written(tmp_path, build, message):
    with pytest.raises(UserError) as error:
        make(tmp_path, "dart", [build(tmp_path)])
    assert message in str(error.value)
    assert not (tmp_path / "table.md").exists() and not (tmp_path / "table.json").exists()


def test_scores_without_groups_are_refused_for_webnlg(tmp_path):
    with pytest.raises(UserError, match="no groups; score again with --groups"):
        make(tmp_path, "webnlg", [write_run(tmp_path / "a", GENERATION)])


def test_a_group_without_items_has_no_figures(tmp_path):
    """WebNLG's dev set, for one, has seen categories alone."""
    text, found = make(tmp_path, "webnlg", [write_run(tmp_path / "a", GENERATION, groups={"seen": GENERATION})])
    assert "| BLEU U | 46.7 ± 0.4 | - | - | - | 0 | - |" in text and "| BLEU S | 62.1 ± 0.2 | 47.00 |" in text
    assert "BLEU U" not in found["checkpoints"]["last"]


def test_runs_on_different_items_are_refused(tmp_path):
    runs = [
        write_run(tmp_path / "a", GENERATION, 1, groups={"seen": GENERATION}),
        write_run(tmp_path / "b", GENERATION, 2, groups={"seen": GENERATION, "unseen": GENERATION}),
    ]
    with pytest.raises(UserError, match=r"a/last/scores.json: no items are unseen, in other runs some are"):
        make(tmp_path, "webnlg", runs)


def test_a_seed_counts_once(tmp_path):
    runs = [write_run(tmp_path / name, GENERATION) for name in "ab"]
    with pytest.raises(UserError, match="have the same seed 110: they count once"):
        make(tmp_path, "dart", runs)


def test_the_program_ends_with_one_line_and_code_2(tmp_path):
    words = [PYTHON, PROGRAM, "dart", tmp_path / "none", "--recipe", "x", "--output", tmp_path / "t"]
    result = subprocess.run(list(map(str, words)), capture_output=True, encoding="utf-8")
    assert result.returncode == 2
    assert len(result.stderr.splitlines()) == 1 and result.stderr.startswith("error: ")


PAPER_SIZES = {"GPT-2 M": "md", "GPT-2 L": "lg"}


def test_published_figures_are_those_of_the_collected_tables():
    """Every row of Tables 3, 13 and 14, in order, against the collection of published figures."""
    paper = json.loads(shared_path("paper_tables.json").read_text(encoding="utf-8"))["lora_paper"]
    e2e = [
        (PAPER_SIZES[row["model"]], row["method"], {m: (s["value"], s["std"]) for m, s in row["scores"].items()})
        for row in paper["table3_e2e"]["rows"]
    ]
    dart = [
        (
            PAPER_SIZES[row["model"]],
            row["method"],
            {"BLEU": (row["BLEU"], row["BLEU_std"]), "METEOR": (row["METEOR"], None), "TER": (row["TER"], None)},
        )
        for row in paper["table13_dart"]["rows"]
    ]
    webnlg = [
        (
            PAPER_SIZES[row["model"]],
            row["method"],
            {
                f"{metric} {group}": (row[metric][group], (row.get(f"{metric}_std") or {}).get(group))
                for metric in ("BLEU", "METEOR", "TER")
                for group in "USA"
            },
        )
        for row in paper["table14_webnlg"]["rows"]
    ]
    for dataset, rows in {"e2e": e2e, "webnlg": webnlg, "dart": dart}.items():
        ours = [
            (row["size"], row["method"], {name: (f["value"], f.get("spread")) for name, f in row["figures"].items()})
            for row in results_table.read_published(dataset)["rows"]
        ]
        assert ours == rows
