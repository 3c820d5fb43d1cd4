"""The table of hyper-parameters against the paper and the released commands, and as flags of the programs."""

from __future__ import annotations

import csv

import gpt2_beam
import gpt2_decode
import gpt2_ft
import pytest

from tests.shared_data import REPOSITORY

with (REPOSITORY / "examples" / "NLG" / "hparams.tsv").open(encoding="utf-8", newline="") as _stream:
    ROWS = {(row["dataset"], row["recipe"]): row for row in csv.DictReader(_stream, delimiter="\t")}

# Hu et al. 2021 (arXiv:2106.09685v2), Table 11: what E2E, WebNLG and DART share
TABLE_11_SHARED = {
    **{"train_batch_size": 8, "max_epoch": 5, "warmup_step": 500, "lr": 2e-4, "lora_dim": 4, "lora_alpha": 32},
    **{"beam": 10, "no_repeat_ngram_size": 4},
}
# and where they differ
TABLE_11 = {
    "e2e": {"weight_decay": 0.01, "lora_dropout": 0.1, "label_smooth": 0.1, "length_penalty": 0.9},
    "webnlg": {"weight_decay": 0.01, "lora_dropout": 0.1, "label_smooth": 0.1, "length_penalty": 0.8},
    "dart": {"weight_decay": 0.0, "lora_dropout": 0.0, "label_smooth": 0.0, "length_penalty": 0.8},
}
# README of the released examples/NLG: its two E2E commands
README_E2E = {
    **{"train_batch_size": 8, "grad_acc": 1, "valid_batch_size": 4, "seq_len": 512, "clip": 0.0, "lr": 2e-4},
    **{"weight_decay": 0.01, "adam_beta2": 0.999, "warmup_step": 500, "max_epoch": 5, "lora_dim": 4},
    **{"lora_alpha": 32, "lora_dropout": 0.1, "label_smooth": 0.1, "eval_len": 64, "beam": 10},
    **{"length_penalty": 0.8, "no_repeat_ngram_size": 4, "repetition_penalty": 1.0, "eos_token_id": 628},
}
OWN = {"dataset", "recipe", "checkpoint"}  # columns that are no flag of a program


def numbers(row, names) -> dict[str, float]:
    return {name: float(row[name]) for name in names}


def test_every_data_set_has_both_recipes():
    assert sorted(ROWS) == sorted((dataset, recipe) for dataset in TABLE_11 for recipe in ("scripts", "paper"))


@pytest.mark.parametrize("dataset", TABLE_11)
def test_the_paper_recipe_is_table_11(dataset):
    expected = {**TABLE_11_SHARED, **TABLE_11[dataset]}
    row = ROWS[dataset, "paper"]
    assert numbers(row, expected) == expected
    # Section 4.1: A Gaussian, B zero; Appendix D.3: the best epoch of each run
    assert (row["scheduler"], row["lora_init"], row["checkpoint"]) == ("linear", "paper", "best")


def test_the_scripts_recipe_of_e2e_is_the_released_command():
    row = ROWS["e2e", "scripts"]
    assert numbers(row, README_E2E) == README_E2E
    assert (row["scheduler"], row["lora_init"], row["checkpoint"]) == ("linear", "released", "last")


@pytest.mark.parametrize("dataset", ["webnlg", "dart"])
def test_the_scripts_recipe_of_the_others_takes_the_papers_figures_as_the_readme_says(dataset):
    row = ROWS[dataset, "scripts"]
    expected = {**README_E2E, **TABLE_11_SHARED, **TABLE_11[dataset], "ref_num": 6}
    assert numbers(row, expected) == expected
    assert (row["lora_init"], row["checkpoint"]) == ("released", "last")


@pytest.mark.parametrize("dataset", TABLE_11)
def test_recipes_differ_only_where_paper_and_scripts_do(dataset):
    scripts, paper = ROWS[dataset, "scripts"], ROWS[dataset, "paper"]
    differing = {name for name in scripts if scripts[name] != paper[name]} - {"recipe"}
    assert differing == {"lora_init", "checkpoint", *(["length_penalty"] if dataset == "e2e" else [])}


@pytest.mark.parametrize("key", ROWS, ids="-".join)
def test_every_column_is_a_flag_that_takes_its_value(key):
    row = {name: value for name, value in ROWS[key].items() if name not in OWN and value != "-"}
    read = set()
    for program in (gpt2_ft, gpt2_beam, gpt2_decode):
        for action in program.build_parser()._actions:
            if action.dest in row:
                read.add(action.dest)
                assert action.choices is None or row[action.dest] in action.choices
                if callable(action.type):
                    action.type(row[action.dest])
    assert read == set(row)


@pytest.mark.parametrize("key", ROWS, ids="-".join)
def test_the_story_reads_every_column(key):
    source = (REPOSITORY / "scripts" / "reproduce.sh").read_text(encoding="utf-8")
    words = set(source.replace('"', " ").replace(")", " ").split())
    assert set(ROWS[key]) - {"dataset", "recipe"} <= words
