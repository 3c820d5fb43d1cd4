"""The 28 recipes against the paper and the released scripts, and as commands that the program accepts."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import subprocess

import glue_table
import pytest
import recipes
from glue.arguments import parse

from examples.common.errors import UserError
from tests.nlu.world import run_here
from tests.shared_data import GOLDEN, REPOSITORY
from tests.warm_python import PYTHON

ROOM = REPOSITORY / "examples/NLU"
ROWS = glue_table.read_hparams()
TASKS = {
    "MNLI": "mnli",
    "SST-2": "sst2",
    "MRPC": "mrpc",
    "CoLA": "cola",
    "QNLI": "qnli",
    "QQP": "qqp",
    "RTE": "rte",
    "STS-B": "stsb",
}
FAMILIES = {
    "roberta_base": "RoBERTa-base LoRA",
    "roberta_large": "RoBERTa-large LoRA",
    "deberta_v2_xxlarge": "DeBERTa-XXL LoRA",
}
COLUMNS = {
    "batch_size": "per_device_train_batch_size",
    "per_device_batch": "per_device_train_batch_size",
    "epochs": "num_train_epochs",
    "learning_rate": "learning_rate",
    "lr": "learning_rate",
    "max_seq_len": "max_seq_length",
    "max_seq": "max_seq_length",
    "weight_decay": "weight_decay",
    "cls_dropout": "cls_dropout",
    "num_gpus": "num_gpus",
    "r": "lora_r",
    "alpha": "lora_alpha",
    "r_q": "lora_r",
    "r_v": "lora_r",
    "warmup_ratio": "warmup_ratio",
    "seed": "seed",
}


@pytest.fixture(scope="module")
def published():
    return json.loads((GOLDEN / "nlu/published.json").read_text(encoding="utf-8"))


def assert_row_has(script, recipe, task, facts):
    row = ROWS[script, recipe]
    for name, value in facts.items():
        if name in COLUMNS:
            value = value[task] if isinstance(value, dict) else value
            assert float(row[COLUMNS[name]]) == float(value), (script, recipe, name)


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("family", FAMILIES)
def test_the_paper_recipe_is_tables_9_and_10(family, task, published):
    table = "table10_deberta_hparams" if "deberta" in family else "table9_roberta_hparams"
    paper = published["lora_paper"][table]
    (facts,) = [row for row in paper["rows"] if row["setting"] == FAMILIES[family]]
    assert_row_has(f"{family}_{TASKS[task]}", "paper", task, {**paper["common"], **facts})


@pytest.mark.parametrize(("kind", "setting"), [("houlsby", "AdapterH 0.8M"), ("pfeiffer", "AdapterP 0.8M")])
def test_the_paper_recipe_of_adapters_is_table_9(kind, setting, published):
    paper = published["lora_paper"]["table9_roberta_hparams"]
    (facts,) = [row for row in paper["rows"] if row["setting"] == f"RoBERTa-large {setting}"]
    script = f"adapter_{kind}_roberta_large_mnli"
    assert_row_has(script, "paper", "MNLI", {**paper["common"], **facts})
    row = ROWS[script, "paper"]
    assert (row["adapter_type"], int(row["adapter_size"])) == (kind, facts["bottleneck"])


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("family", FAMILIES)
def test_the_scripts_recipe_is_the_released_script(family, task, published):
    name = "scripts_deberta" if "deberta" in family else f"scripts_{family}"
    facts = published["released_scripts"][name]
    script = f"{family}_{TASKS[task]}"
    assert_row_has(script, "scripts", task, facts)
    if "deberta" in family:
        kind, amount = (
            {"ratio": ("warmup_ratio", 1), "steps": ("warmup_steps", 0)}[
                "ratio" if "ratio" in facts["warmup"][task] else "steps"
            ],
            facts["warmup"][task].replace("ratio ", "").replace(" steps", ""),
        )
        assert ROWS[script, "scripts"][kind[0]] == amount


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("family", FAMILIES)
def test_the_published_figure_is_table_2(family, task, published):
    (row,) = [
        row
        for row in published["lora_paper"]["table2_glue"]["rows"]
        if f"{row['model']} {row['method']}" == FAMILIES[family] and not row["houlsby_setup"]
    ]
    for recipe in ("scripts", "paper"):
        ours = ROWS[f"{family}_{TASKS[task]}", recipe]
        assert float(ours["published"]) == row["scores"][task]["value"]
        assert float(ours["published_plus_minus"]) == row["scores"][task]["std"]


def test_every_recipe_has_a_script_and_every_script_a_recipe():
    scripts = {path.stem for path in ROOM.glob("*.sh")} - {"run_task"}
    assert scripts == {script for script, recipe in ROWS if recipe == "scripts"}
    assert len(scripts) == 28
    for script in scripts:
        assert f'run_task.sh" {script} "$@"' in (ROOM / f"{script}.sh").read_text(encoding="utf-8")


def test_the_readme_shows_every_recipe_with_its_command_and_the_published_figure():
    lines = (ROOM / "README.md").read_text(encoding="utf-8").splitlines()
    shown = [[cell.strip() for cell in line.strip("|").split("|")][:3] for line in lines if line.startswith("| `bash ")]
    expected = []
    for (script, recipe), row in ROWS.items():
        if recipe == "scripts":
            score = glue_table.SCORES[row["task_name"]][0]
            expected.append([f"`bash {script}.sh`", score.metric, glue_table.published(row, score)])
    assert shown == expected and len(shown) == 28


def test_what_the_paper_starts_from_mnli_starts_from_mnli():
    """Appendix D.1: MRPC, RTE and STS-B."""
    for (script, _), row in ROWS.items():
        assert (row["start"] == "mnli") == (row["task_name"] in ("mrpc", "rte", "stsb")), script


@pytest.mark.parametrize(("script", "recipe"), sorted(ROWS))
def test_every_recipe_is_a_command_that_the_program_accepts(script, recipe, tmp_path):
    row = ROWS[script, recipe]
    batch = recipes.spread(recipes.effective_batch(row), 1, int(row["per_device_train_batch_size"]))
    words = recipes.command(
        row,
        batch,
        seed=int(row["seed"]),
        output=tmp_path,
        start=tmp_path / "x.bin" if row["start"] != "-" else None,
        gpu=False,
    )
    assert words[1] == str(recipes.PROGRAM)
    model, data, training = parse(words[2:])
    assert training.per_device_train_batch_size * training.gradient_accumulation_steps == recipes.effective_batch(row)
    assert training.learning_rate == float(row["learning_rate"])
    assert data.task_name == row["task_name"] and data.max_seq_length == int(row["max_seq_length"])
    assert training.warmup_steps == float(row["warmup_ratio"] if row["warmup_ratio"] != "-" else row["warmup_steps"])
    assert (model.apply_lora, model.apply_adapter) == (row["lora_r"] != "-", row["adapter_type"] != "-")
    assert (model.lora_path is not None) == (row["start"] == "mnli")
    assert training.use_deterministic_algorithms == ("deberta" in row["model_name_or_path"])


@pytest.mark.parametrize("effective", [32, 48, 64, 128, 256])
@pytest.mark.parametrize("devices", [1, 2, 4, 8, 16])
@pytest.mark.parametrize("most", [1, 4, 6, 32])
def test_the_effective_batch_does_not_depend_on_the_devices(effective, devices, most):
    batch = recipes.spread(effective, devices, most)
    assert batch.effective == effective and batch.per_device <= most and batch.devices == devices


@pytest.mark.slow
def test_a_batch_that_the_devices_do_not_divide_becomes_the_nearest_and_is_said(tmp_path):
    assert recipes.spread(32, 3, 4).effective == 33
    result = story("roberta_large_cola", "--dry-run", cwd=tmp_path, num_gpus="3")
    assert "warning: the recipe's batch is 32, this run has 33" in result.stderr and result.returncode == 0


def story(*words, cwd, num_gpus="1"):
    environment = {**os.environ, "num_gpus": num_gpus, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    environment |= {"HF_HUB_OFFLINE": "1", "PYTHON": PYTHON}
    return subprocess.run(
        ["bash", str(ROOM / "run_task.sh"), *map(str, words)],
        capture_output=True,
        text=True,
        cwd=cwd,
        env=environment,
        check=False,
        timeout=240,
    )


@pytest.mark.slow
@pytest.mark.parametrize("published", [True, False])
def test_rte_starts_from_ones_own_mnli_run_or_from_the_published_file(published, tmp_path):
    result = story("roberta_base_rte", "--dry-run", cwd=tmp_path)
    assert result.returncode == 2
    assert "error: roberta_base_rte starts from LoRA trained on MNLI" in result.stderr
    path = tmp_path / (
        "roberta_base_lora_mnli.bin"
        if published
        else "runs/roberta_base_mnli/scripts/seed3/model/pytorch_model_lora.bin"
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    result = story("roberta_base_rte", "--dry-run", cwd=tmp_path)
    assert f"--lora_path {path.relative_to(tmp_path)}" in result.stdout
    assert story("roberta_base_rte", "--dry-run", "--recipe", "paper", cwd=tmp_path).returncode == 2


@pytest.mark.parametrize("task", ["mrpc", "rte", "stsb"])
@pytest.mark.parametrize("family", FAMILIES)
def test_each_family_starts_from_its_published_mnli_file(family, task, tmp_path, monkeypatch):
    """Names of the release: ``<model>_lora_mnli.bin``, in the folder of the command or of the scripts."""
    row, name = ROWS[f"{family}_{task}", "scripts"], f"{family}_lora_mnli.bin"
    for folder in ("here", "scripts"):
        (tmp_path / folder).mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setattr(recipes, "ROOM", tmp_path / "scripts")
    with pytest.raises(UserError, match="starts from LoRA trained on MNLI"):
        recipes.find_start(row, tmp_path / "runs", 0)
    (tmp_path / "scripts" / name).touch()
    assert recipes.find_start(row, tmp_path / "runs", 0) == tmp_path / "scripts" / name
    (tmp_path / "here" / name).touch()
    assert recipes.find_start(row, tmp_path / "runs", 0).resolve() == tmp_path / "here" / name


def test_an_unknown_recipe_lists_those_that_exist(tmp_path):
    result = story("roberta_tiny_cola", cwd=tmp_path)
    assert result.returncode == 2 and "no row roberta_tiny_cola" in result.stderr and "mnli.rdrop" in result.stderr


@pytest.mark.slow
def test_a_script_runs_two_seeds_sums_up_and_keeps_what_is_there(world, tmp_path):
    """The whole way from a named script to a table, on a tiny base model."""
    flags = ["--seeds", 0, 1, "--model_name_or_path", world.base, "--data_dir", world.glue]
    flags += ["--num_train_epochs", 2, "--disable_tqdm", "true", "--per_device_eval_batch_size", 32]
    result = story("roberta_base_cola", *flags, cwd=tmp_path)
    assert result.returncode == 0, result.stderr[-2000:]
    lines = [line.split("\t") for line in result.stdout.splitlines()]
    head = ["score", "epoch", "published", "median", "interval", "sd", "seed 0", "seed 1"]
    table = [dict(zip(head, line)) for line in lines[lines.index(head) + 1 :]]
    assert [(row["score"], row["epoch"], row["published"]) for row in table] == [
        ("CoLA", "last", "-"),
        ("CoLA", "best", "63.4 ± 1.2"),
    ]
    for seed in (0, 1):
        metrics = json.loads((tmp_path / f"runs/roberta_base_cola/scripts/seed{seed}/model/metrics.json").read_text())
        assert metrics["total_train_batch_size"] == 64
        last, best = (float(row[f"seed {seed}"]) for row in table)
        assert last == round(100 * metrics["scores"]["eval_matthews_correlation"], 2) <= best
    again = story("roberta_base_cola", *flags, cwd=tmp_path)
    assert again.stdout.count("kept: ") == 2 and again.stdout.endswith(
        result.stdout[result.stdout.index("score\tepoch") :]
    )


@pytest.fixture
def run_row(world, tmp_path, monkeypatch):
    """Runs a row of the table in this process, on a base model that may be changed; returns the folder of results."""
    base, glue = tmp_path / "base", tmp_path / "glue"
    shutil.copytree(world.base, base)
    shutil.copytree(world.glue, glue)
    flags = ["--model_name_or_path", base, "--data_dir", glue, "--num_train_epochs", 1, "--disable_tqdm", "true"]

    real = subprocess.run

    def start(words, **options):
        if str(recipes.PROGRAM) not in words:
            return real(words, **options)
        run_here(monkeypatch, *words[2:])
        return subprocess.CompletedProcess(words, 0)

    def run(*more):
        with monkeypatch.context() as patch:
            patch.setattr(subprocess, "run", start)
            recipes.main([str(word) for word in ["roberta_base_cola", "--runs", tmp_path / "runs", *flags, *more]])
        return tmp_path

    monkeypatch.setenv("num_gpus", "1")
    return run


@pytest.mark.slow
def test_an_old_score_never_stands_below_a_new_command(run_row, capsys):
    """A complete run is kept for the settings and data that it had; another batch spread is no other setting."""
    folder = run_row("--learning_rate", 1e-2)
    capsys.readouterr()
    run_row("--learning_rate", 1e-2, "--max_device_batch", 8)
    assert "kept: " in capsys.readouterr().out
    for change, message in (
        (["--learning_rate", 1e-5], "made with --learning_rate 0.01, now 1e-05"),
        (["--learning_rate", 1e-2, "--bf16"], "made without --bf16"),
        ([], "made with --learning_rate 0.01, now 4e-4"),
        (["--learning_rate", 1e-2, "--gradient_accumulation_steps", 4], "made with batch 64, now 128"),
    ):
        with pytest.raises(UserError, match=re.escape(message)):
            run_row(*change)
        assert "score\tepoch" not in capsys.readouterr().out
    for path, text in (("base/model.safetensors", "x"), ("glue/CoLA/train.tsv", "gj04\t1\t\tthe cat was great\n")):
        with (folder / path).open("a") as stream:
            stream.write(text)
        with pytest.raises(UserError, match=f"{path} has changed since"):
            run_row("--learning_rate", 1e-2)


def test_the_table_is_one_flat_file():
    with glue_table.TABLE.open(encoding="utf-8", newline="") as stream:
        widths = {len(line) for line in csv.reader(stream, delimiter="\t")}
    assert len(widths) == 1
