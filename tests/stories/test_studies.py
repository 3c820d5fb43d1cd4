"""The later studies: recipes and published figures against the collected ones, their tables, and toy runs."""

from __future__ import annotations

import csv
import json

import gpt2_beam
import gpt2_ft
import pytest

from examples.common.errors import UserError
from scripts.studies import swift, tables
from scripts.studies.runs import SIZES, lora_parameters
from tests.clm.judge_server import KEY, Server
from tests.shared_data import REPOSITORY, shared_path
from tests.stories.stories import run_script
from tests.warm_java import java_home

STUDIES = REPOSITORY / "scripts" / "studies"
PUBLISHED = json.loads((STUDIES / "published.json").read_text(encoding="utf-8"))
with (STUDIES / "recipes.tsv").open(encoding="utf-8", newline="") as _stream:
    RECIPES = {(row["study"], row["recipe"]): row for row in csv.DictReader(_stream, delimiter="\t")}
SWIFT = [name for study, name in RECIPES if study == "swift"]
SCORES = ("BLEU", "NIST", "METEOR", "ROUGE_L", "CIDEr")


def collected(study: str) -> dict:
    return json.loads(shared_path("paper_tables.json").read_text(encoding="utf-8"))[study]


def published_rows(study: str) -> list[dict]:
    return [row for table in PUBLISHED[study]["tables"] for row in table["rows"]]


def swift_figures() -> dict[str, dict[str, float]]:
    return {row["name"]: row["figures"] for row in published_rows("swift")}


def settings(program, flags: str, *more: str):
    return program.build_parser().parse_args([*flags.split(), *more])


def swift_settings(name: str):
    row = RECIPES["swift", name]
    trained = settings(gpt2_ft, row["train"], "--train_data", "x", "--valid_data", "x")
    return trained, settings(gpt2_beam, row["generate"], "--data", "x")


# --- Swift ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", SWIFT)
def test_recipes_of_swift_are_those_of_its_tables(name):
    study = collected("swift_usc_csci567")
    lora, shared = study["table1"][name], study["table2"]
    trained, searched = swift_settings(name)
    targets = [target.split(" ")[0] for target in lora["targets"]]
    assert (trained.lora_dim, trained.lora_alpha, trained.lora_dropout) == (lora["r"], lora["alpha"], lora["dropout"])
    assert trained.lora_targets.split(",") == targets
    both = "A and B both Gaussian / r" in lora["init"]
    assert trained.lora_init == ("gaussian_ab_over_r" if both else "gaussian_a_over_r")
    assert (trained.weight_decay, trained.train_batch_size) == (shared["weight_decay"], shared["batch_size"])
    assert (trained.max_epoch, trained.warmup_step) == (shared["epochs"], shared["warmup_steps"])
    assert (trained.scheduler, trained.lr) == (shared["lr_schedule"], shared["learning_rate"])
    assert trained.label_smooth == shared["label_smoothing"]
    assert trained.seq_len == study["code_facts"]["max_length"]
    assert (searched.beam, searched.length_penalty) == (shared["beam_size"], shared["length_penalty"])
    assert searched.no_repeat_ngram_size == shared["no_repeat_ngram_size"]


@pytest.mark.parametrize(("name", "count"), [("baseline", 147_456), ("improved", 2_359_296)])
def test_recipes_of_swift_train_the_published_number_of_parameters_of_gpt2_small(name, count):
    trained, _ = swift_settings(name)
    assert lora_parameters(trained.lora_targets, trained.lora_dim, n_layer=12, n_embd=768) == count
    row = next(row for row in published_rows("swift") if row.get("recipe") == name)
    assert row["trained"] == count


def test_published_figures_of_swift_are_those_collected():
    study = collected("swift_usc_csci567")
    rows = [{"model": row["name"], "trainable": row["parameters"], **row["figures"]} for row in published_rows("swift")]
    assert rows == study["table3"]
    assert PUBLISHED["swift"]["relative_improvement"] == study["table4_relative_improvement_pct"]
    trained = {row["recipe"]: row["trained"] for row in published_rows("swift") if "recipe" in row}
    assert trained == study["trainable_exact"]


def test_relative_improvements_of_swift_follow_from_its_table_3():
    """To the digits printed, but for the row Goal, whose figures are rounded in Table 3."""
    figures = swift_figures()
    for row in PUBLISHED["swift"]["relative_improvement"]:
        over = next(found for name, found in figures.items() if name.startswith(row["over"]))
        ours = swift.relative_improvement(figures[swift.IMPROVED], over)
        tolerance = 0.02 if row["over"] == "Goal" else 0.005
        assert {name: row[name] for name in ours} == pytest.approx(ours, abs=tolerance)


def test_the_improved_model_of_swift_reaches_80_percent_in_meteor_alone():
    figures = swift_figures()
    shares = swift.share_reached(*(figures[name] for name in (swift.IMPROVED, swift.TGEN, swift.GOAL_MODEL)))
    # (0.6882 - 0.6593) / (0.7040 - 0.6593) = 0.6465, and so on
    assert {name: round(share, 2) for name, share in shares.items()} == {
        "BLEU": 0.65,
        "NIST": 0.60,
        "METEOR": 0.93,
        "ROUGE_L": 0.77,
        "CIDEr": 0.74,
    }
    assert [name for name, share in shares.items() if share >= swift.CLAIM] == ["METEOR"]


@pytest.mark.parametrize("name", SWIFT)
def test_recipes_of_swifts_own_form_are_those_of_its_tables_in_flags_of_run_clm(name):
    study = collected("swift_usc_csci567")
    lora, shared, facts = study["table1"][name], study["table2"], study["code_facts"]
    found = clm_settings("swift-form", name)
    assert (found.lora_r, found.lora_alpha, found.lora_dropout) == (lora["r"], lora["alpha"], lora["dropout"])
    assert found.lora_targets == [target.split(" ")[0] for target in lora["targets"]]
    both = "A and B both Gaussian / r" in lora["init"]
    assert found.lora_init == ("gaussian_ab_over_r" if both else "gaussian_a_over_r")
    assert (found.weight_decay, found.per_device_train_batch_size) == (shared["weight_decay"], shared["batch_size"])
    assert (found.num_train_epochs, found.warmup_steps) == (shared["epochs"], shared["warmup_steps"])
    assert (found.lr_scheduler_type, found.learning_rate) == (shared["lr_schedule"], shared["learning_rate"])
    assert found.label_smoothing_factor == shared["label_smoothing"]
    assert (found.max_seq_length, found.add_tokens) == (facts["max_length"], ["<|ref|>"])
    assert found.loss_on_prompt and found.loss_on_padding and not found.train_added_tokens
    words = RECIPES["swift-form", name]["generate"].split()
    searched = dict(zip(words[::2], words[1::2]))
    assert (int(searched["--num_beams"]), float(searched["--length_penalty"])) == (
        shared["beam_size"],
        shared["length_penalty"],
    )
    assert int(searched["--no_repeat_ngram_size"]) == shared["no_repeat_ngram_size"]


def write_run(folder, seed, bleu, trained=147_456, **more):
    (folder / "last").mkdir(parents=True)
    flags = {"model_card": "gpt2.sm", "lora_targets": "c_attn", "lora_dim": 4}
    metrics = {"seed": seed, "trainable_parameters": trained, "finished": True, "settings": flags, **more}
    (folder / "metrics.json").write_text(json.dumps(metrics))
    (folder / "run.json").write_text(json.dumps({"command": "python /x/gpt2_ft.py --lr 1"}))
    (folder / "last" / "scores.json").write_text(json.dumps({"scores": {**dict.fromkeys(SCORES, 0.5), "BLEU": bleu}}))
    (folder / "last" / "hypotheses.txt").write_text("a text\n")
    return str(folder)


def test_a_table_has_mean_deviation_and_number_of_seeds_beside_the_published_figures(tmp_path, capsys):
    runs = [write_run(tmp_path / f"baseline/seed{seed}", seed, bleu) for seed, bleu in ((44, 0.64), (45, 0.66))]
    tables.main(["swift", *runs, "--output", str(tmp_path)])
    text = (tmp_path / "results.md").read_text(encoding="utf-8")
    assert capsys.readouterr().out == text
    # mean 0.65, sd sqrt(2 * 0.01^2 / 1) = 0.0141
    assert "|  | ours, n = 2 (seed 44, 45) | 147,456 | 0.6500 ± 0.0141 | 0.5000 ± 0.0000 |" in text
    assert text.count("not run here") == 2  # the improved model, and its share of the distance
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "a text" in page and "0.6500 ± 0.0141" in page and "http" not in page
    assert json.loads((tmp_path / "results.json").read_text())["recipes"]["baseline"]["figures"]["BLEU"]["n"] == 2


def test_toy_figures_stand_apart_and_the_published_rows_were_not_run(tmp_path, capsys):
    tables.main(["swift", write_run(tmp_path / "baseline/seed44", 44, 0.1), "--apart", "generated data"])
    text = capsys.readouterr().out
    published, _, toy = text.partition("## Trial")
    assert published.count("not run here") == 3 and "0.1000" not in published
    assert "| baseline | ours, n = 1 (seed 44) | 147,456 | 0.1000 |" in toy and "compare with nothing" in toy


def write_clm_run(folder, base, figures, **files):
    """A run of run_clm.py with GPT-2's sizes in its base folder, and files of later scores."""
    folder.mkdir(parents=True)
    base.mkdir(exist_ok=True)
    (base / "config.json").write_text('{"model_type": "gpt2", "n_layer": 12, "n_embd": 768}')
    scores = {f"eval_{name}": value for name, value in figures.items()}
    contents = {
        "metrics": {"seed": 1, "scores": scores, "parameters": {"trained": 5, "trained_in_head": 0}},
        "run": {"command": "run_clm.py"},
        "clm": {"base": str(base)},
        **files,
    }
    for name, content in contents.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    return str(folder)


def test_quora_with_the_courses_prompts_has_a_column_for_the_other_prompt(tmp_path, capsys):
    run = write_clm_run(tmp_path / "quora-r16/seed1", tmp_path / "base", {"accuracy": 0.7}, labels={"accuracy": 0.6})
    tables.main(["cs224n", run, "--options=--course-prompts"])
    text = capsys.readouterr().out
    assert "| minutes an epoch | accuracy with the test's prompt | command |" in text
    assert "ours, n = 1 (seed 1) | 5 | 0.700 | - | - | 0.600 |" in text
    assert "`bash scripts/study_cs224n.sh --course-prompts --size sm --recipes quora-r16`" in text
    assert "test's prompt" not in text.partition("## Sonnets")[2]


def test_a_judges_scores_stand_in_the_table_with_its_name(tmp_path, capsys):
    judged = {"score": 41.5, "judge": "strict-7b"}
    run = write_clm_run(tmp_path / "alpaca-run12/seed1", tmp_path / "base", {"loss": 1.5}, judge=judged)
    (tmp_path / "base" / "config.json").write_text('{"model_type": "gpt2", "n_layer": 24, "n_embd": 1024}')
    tables.main(["cs7643", run, "--size", "md"])
    table = capsys.readouterr().out.partition("## Alpaca")[2].partition("##")[0]
    assert "ours, n = 1 (seed 1) | 5 | 1.500 | - | 41.500 | - |" in table
    assert "Our judge: strict-7b; scores of different judges, or days, do not compare." in table


def test_figures_of_another_base_stand_apart(tmp_path, capsys):
    run = write_clm_run(tmp_path / "sst-head/seed1", tmp_path / "other", {"accuracy": 0.111})
    tables.main(["cs224n", run])
    assert "| ours, n = 1 (seed 1) | 5 | 0.111 |" in capsys.readouterr().out.partition("## Trial")[0]
    (tmp_path / "other" / "config.json").write_text('{"model_type": "llama", "hidden_size": 576}')
    generated = [{"generated": " "}, {"generated": "a <b> text"}]
    (tmp_path / "sst-head/seed1/generated.jsonl").write_text("".join(json.dumps(row) + "\n" for row in generated))
    (tmp_path / "sst-head/seed1/run.json").write_text(json.dumps({"command": "run_clm.py --separator ''"}))
    tables.main(["cs224n", run, "--apart", "8 steps", "--output", str(tmp_path)])
    published, _, trial = capsys.readouterr().out.partition("## Trial")
    assert "0.111" not in published and "| sst-head | ours, n = 1 (seed 1) | 5 | 0.111 |" in trial
    assert "compare with nothing: 8 steps, base other." in trial
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "A trial (8 steps, base other)" in page and "<li>(nothing)</li><li>a &lt;b&gt; text</li>" in page
    assert "run_clm.py --separator &#x27;&#x27;" in page and "<h2>Curves" not in page
    assert "<tr><td></td>" not in page  # each row has its name


@pytest.mark.parametrize(
    ("folder", "changes", "message"),
    [
        ("baseline", {"trained": 7}, "baseline: 7 parameters were trained; by the formula 147,456"),
        ("mine", {}, "mine is no recipe of swift: baseline, improved"),
        ("baseline", {"finished": False}, "training stopped early"),
    ],
)
def test_a_wrong_run_is_one_line_and_writes_no_table(tmp_path, folder, changes, message):
    run = write_run(tmp_path / folder / "seed44", 44, 0.6, **changes)
    with pytest.raises(UserError, match=message):
        tables.main(["swift", run, "--output", str(tmp_path)])
    assert not (tmp_path / "results.md").exists()


# --- CS224N and CS7643 -----------------------------------------------------------------------------------------------
def clm_settings(study: str, name: str):
    from clm.flags import build_parser

    return build_parser().parse_args([*RECIPES[study, name]["train"].split(), "--output_dir", "x"])


def names(study: str, start: str) -> list[str]:
    return [name for found, name in RECIPES if found == study and name.startswith(start)]


@pytest.mark.parametrize("data", ["sst", "cfimdb"])
def test_sentiment_recipes_are_those_of_the_report(data):
    report = collected("cs224n_report")["sentiment"]
    for name, key, method in (
        ("head", "last_layer", "head"),
        ("full", "full_default", "full"),
        ("full-tuned", "full_tuned", "full"),
    ):
        found, expected = clm_settings("cs224n", f"{data}-{name}"), report[key]
        assert (found.method, found.learning_rate) == (method, expected["lr"])
        assert found.per_device_train_batch_size == expected["batch_size"]
        assert found.num_train_epochs == expected.get("epochs", 10)
        assert found.cls_dropout == expected.get("hidden_dropout", 0.3)
        assert found.weight_decay == 0 and found.lowercase and found.metric_for_best_model == "accuracy"


@pytest.mark.parametrize(("start", "key"), [("quora", "paraphrase"), ("sonnets", "sonnet")])
def test_language_model_recipes_of_cs224n_are_those_of_the_report(start, key):
    expected = collected("cs224n_report")[key]["settings"]
    ranks = set()
    for name in names("cs224n", start):
        found = clm_settings("cs224n", name)
        assert (found.learning_rate, found.num_train_epochs) == (expected["lr"], expected["epochs"])
        assert found.per_device_train_batch_size == expected["batch_size"]
        if found.method == "lora":
            ranks.add(found.lora_r)
            assert (found.lora_alpha, found.lora_dropout) == (expected["lora_alpha"], expected["lora_dropout"])
        if start == "sonnets":
            assert found.early_stopping_patience == expected["patience"]
    assert sorted(ranks) == expected["lora_r"]


def test_alpaca_recipes_are_the_runs_of_the_log():
    log = collected("cs7643_report")["probable_log"]
    runs = {
        run["run"].split()[0].replace("_", ""): run for run in [*log["full"], *log["lora"]] if run["model"] != "1558M"
    }
    assert sorted(names("cs7643", "alpaca")) == sorted(f"alpaca-{run}" for run in runs)
    for name, run in runs.items():
        found = clm_settings("cs7643", f"alpaca-{name}")
        assert (found.learning_rate, found.num_train_epochs, found.weight_decay) == (
            run["lr"],
            run["epochs"],
            run["weight_decay"],
        )
        assert found.per_device_train_batch_size == run["batch_size"] and found.max_seq_length == 512
        assert found.max_grad_norm == (0 if "no clipping" in run["run"] else 1)
        assert found.warmup_steps == (run["warmup"] or 0)
        given = (
            json.loads(found.lr_scheduler_kwargs)
            if isinstance(found.lr_scheduler_kwargs, str)
            else found.lr_scheduler_kwargs
        )
        assert given == (None if run["min_lr"] is None else {"min_lr": run["min_lr"]})
        assert found.method == ("lora" if "r" in run else "full")
        if "r" in run:
            assert (found.lora_r, found.lora_alpha) == (run["r"], run["alpha"])
        size = {"355M": "md", "774M": "lg"}[run["model"]]
        assert RECIPES["cs7643", f"alpaca-{name}"]["sizes"] == size


@pytest.mark.parametrize(("model", "r", "count"), [("md", 16, 7_898_384), ("lg", 16, 14_095_632), ("md", 2, 987_298)])
def test_the_counts_of_the_log_are_all_projections_each_on_its_own_and_the_output_head(model, r, count):
    n_layer, d = SIZES[model]
    # query, key, value and output 2d each, the two feed-forward layers 5d each; the head d + 50,257
    assert n_layer * (4 * r * 2 * d + 2 * r * 5 * d) + r * (d + 50_257) == count


def test_published_figures_of_cs224n_are_those_collected():
    report = collected("cs224n_report")
    rows = {(row["recipe"], row["size"]): row["figures"] for row in published_rows("cs224n") if "recipe" in row}
    for start, key in (("sst", "SST"), ("cfimdb", "CFIMDB")):
        for name, part in (("head", "last_layer"), ("full", "full_default"), ("full-tuned", "full_tuned")):
            assert rows[f"{start}-{name}", "sm"] == {"accuracy": report["sentiment"][part]["dev_acc"][key]}
    for model, size in (("GPT-2", "sm"), ("GPT-2 M", "md")):
        for name, value in report["table2_dev"][model].items():
            task, _, tag = name.partition("_")
            figures = rows[f"{ {'para': 'quora', 'sonnet': 'sonnets'}[task] }-{tag}", size]
            found = figures.get("accuracy" if task == "para" else "chrF")
            assert found == (None if value is None else float(str(value).rstrip("*")))


def test_published_figures_of_cs7643_are_those_collected():
    log = collected("cs7643_report")["probable_log"]
    rows = {row["name"].partition(":")[0]: row["figures"] for row in published_rows("cs7643") if ":" in row["name"]}
    for run in [*log["full"], *log["lora"]]:
        figures = rows[run["run"].split()[0].replace("_", "")]
        assert (figures["loss"], figures["perplexity"]) == (run["loss"], run["perplexity"])


# --- the scripts ---------------------------------------------------------------------------------------------------
SCRIPTS = sorted(path.stem.removeprefix("study_") for path in (REPOSITORY / "scripts").glob("study_*.sh"))
MISTAKES = {
    "option": (["--size_", "x"], "unknown option --size_"),
    "value": (["--seeds"], "--seeds needs a value"),
    "seeds": (["--seeds", "1 1"], "--seeds 1 1: 1 stands there twice"),
    "recipe": (["--recipes", "mine"], "--recipes mine: expected one of"),
    "both": (["--smallest", "--data-dir", "."], "--embedded makes its own data and base"),
    "half": (["--data-dir", "."], "--data-dir and --base go together"),
    "data": (["--data-dir", "none", "--base", "none"], "none does not exist"),
}


FOREIGN = {
    "swift": ["--course-prompts", "--steps 3", "--rows 3", "--judge x", "--study-form --vocab x"],
    "cs224n": ["--vocab x", "--judge-url x", "--study-form"],
    "cs7643": ["--vocab x", "--course-prompts", "--study-form"],
}


@pytest.mark.parametrize(("study", "words"), [(study, words) for study, some in FOREIGN.items() for words in some])
def test_an_option_of_another_study_is_one_line(study, words):
    result = run_script(["bash", str(REPOSITORY / "scripts" / f"study_{study}.sh"), *words.split()])
    assert (result.returncode, len(result.stderr.splitlines())) == (2, 1), result.stderr
    assert "option" in result.stderr and f"study_{study}.sh --help lists them" in result.stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--judge x", "--judge and --judge-url go together"),
        ("--steps 0", "--steps and --rows take whole numbers from 1, got 0"),
        ("--rows 2.5", "got 2.5"),
    ],
)
def test_a_mistake_in_the_words_of_a_trial_is_one_line(words, message):
    result = run_script(["bash", str(REPOSITORY / "scripts" / "study_cs7643.sh"), *words.split()])
    assert (result.returncode, len(result.stderr.splitlines())) == (2, 1) and message in result.stderr


@pytest.mark.parametrize(("words", "message"), MISTAKES.values(), ids=MISTAKES)
@pytest.mark.parametrize("study", SCRIPTS)
def test_a_mistake_in_the_words_of_a_study_is_one_line(study, words, message, tmp_path):
    script = REPOSITORY / "scripts" / f"study_{study}.sh"
    result = run_script(["bash", str(script), "--work-dir", str(tmp_path / "work"), *words])
    assert (result.returncode, len(result.stderr.splitlines())) == (2, 1), result.stderr
    assert message in result.stderr and not (tmp_path / "work").exists()


@pytest.mark.parametrize("study", SCRIPTS)
def test_help_of_a_study_names_its_options_and_starts_nothing(study):
    result = run_script(["bash", str(REPOSITORY / "scripts" / f"study_{study}.sh"), "--help"])
    assert (result.returncode, result.stderr) == (0, "")
    options = ("--smallest", "--embedded", "--data-dir", "--base", "--seeds", "--recipes", "--work-dir")
    assert [name for name in options if name not in result.stdout] == [] and "set -euo" not in result.stdout


def story(study: str, work, *options: str) -> list[str]:
    script = REPOSITORY / "scripts" / f"study_{study}.sh"
    return ["bash", str(script), "--smallest", "--work-dir", str(work), *options]


def tell(study: str, work, *options: str) -> str:
    java = {"JAVA_HOME": java_home()} if study == "swift" else {}  # the others score without METEOR
    result = run_script(story(study, work, *options), **java)
    assert result.returncode == 0, result.stderr[-3000:]
    return result.stdout


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_swift_ends_with_its_tables_and_repeats_nothing(tmp_path):
    work = tmp_path / "work"
    printed = tell("swift", work)
    # the toy has 4 blocks of width 128: 4 * 4 * (128 + 384), and 4 * 16 * 128 * (4 + 2 + 5 + 5)
    for name, count in (("baseline", 8_192), ("improved", 131_072)):
        assert f"| {name} | ours, n = 1 (seed 44) | {count:,} |" in printed
        assert f"trainable parameters: {count:,} of" in (work / name / "seed44" / "train.log").read_text()
    assert (work / "report.html").exists()
    commands = (work / "commands.txt").read_text()
    assert commands.count("--length_penalty 0.9 --no_repeat_ngram_size 4") == 2
    assert tell("swift", work) == printed and (work / "commands.txt").read_text() == commands


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_swift_in_its_own_form_trains_on_everything_and_ends_with_the_same_tables(tmp_path):
    work = tmp_path / "work"
    printed = tell("swift", work, "--study-form")
    # the toy has 2 blocks of width 64: 2 * 4 * 64 * (1 + 3), and 2 * 16 * 64 * (4 + 2 + 5 + 5)
    for name, count in (("baseline", 2_048), ("improved", 32_768)):
        assert f"| {name} | ours, n = 1 (seed 44) | {count:,} |" in printed
        run = work / name / "seed44"
        figures = json.loads((run / "texts.json").read_text())
        texts = [json.loads(line) for line in (run / "generated.jsonl").read_text().splitlines()]
        assert figures["hypotheses"] == len(texts) > 1 and figures["BLEU"] >= 0
        assert all(row["prompt"].endswith(" <|ref|>") and "<|" not in row["generated"] for row in texts)
        assert "<|ref|>" in (run / "tokenizer.json").read_text()
    commands = (work / "commands.txt").read_text()
    assert commands.count("--loss_on_padding true") == 2 and commands.count("--no_repeat_ngram_size 4") == 2
    assert "80 % of the difference" in printed and "--study-form --recipes improved" in printed
    assert tell("swift", work, "--study-form") == printed and (work / "commands.txt").read_text() == commands


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize(
    ("study", "size", "recipes", "figures"),
    [
        ("cs224n", "sm", "sst-head quora-r16 sonnets-r16", ["accuracy", "accuracy", "chrF"]),
        ("cs224n --course-prompts", "sm", "quora-r16", ["accuracy with the test's prompt"]),
        ("cs7643", "md", "alpaca-run12", ["ROUGE-L"]),
        ("cs7643", "sm", "sms-lora", ["f1_macro"]),
    ],
)
def test_a_study_on_examples_clm_ends_with_its_table(study, size, recipes, figures, tmp_path):
    work = tmp_path / "work"
    study, *options = study.split()
    printed = tell(study, work, "--size", size, "--recipes", recipes, *options)
    assert "not run here" in printed and (work / "report.html").exists()
    found = json.loads((work / "results.json").read_text())["recipes"]
    assert list(found) == recipes.split()
    for name, figure in zip(found, figures):
        assert found[name]["figures"][figure]["n"] == 1 and found[name]["trained"] > 0
    if options:
        commands, folder = (work / "commands.txt").read_text(), work / "data" / "quora-course"
        assert "--test_file data/quora-course/test.jsonl" in commands and "data/quora/" not in commands
        prompts = [(folder / f"{part}.jsonl").read_text().splitlines()[0] for part in ("train", "valid", "test")]
        assert ["Question 2" in prompt for prompt in prompts] == [True, True, False]
        assert (work / "quora-r16" / "seed11711" / "predictions.csv").read_text().startswith("id \t Predicted_Is_Par")
    elif study == "cs224n":
        lines = (work / "sst-head" / "seed11711" / "predictions.csv").read_text().splitlines()
        assert lines[0] == "id \t Predicted_Sentiment " and len(lines) == 6
        assert (
            (work / "sonnets-r16" / "seed11711" / "generated_sonnets.txt")
            .read_text()
            .startswith("--Generated Sonnets--")
        )


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_answers_are_judged_by_an_endpoint_and_not_asked_for_twice(tmp_path, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    work = tmp_path / "work"
    options = ["--size", "md", "--recipes", "alpaca-run12"]
    tell("cs7643", work, *options)
    run = work / "alpaca-run12" / "seed123"
    assert not (run / "judge.json").exists()
    with Server("HTTP 401") as server:
        result = run_script(story("cs7643", work, *options, "--judge", "strict", "--judge-url", server.url))
        assert result.returncode == 2 and "refuses with HTTP 401" in result.stderr.splitlines()[-1]
    with Server("70", "no", "80") as server:
        judge = ["--judge", "strict", "--judge-url", server.url]
        printed = tell("cs7643", work, *options, *judge)
        asked = len(server.requests)
        assert tell("cs7643", work, *options, *judge) == printed and len(server.requests) == asked
    n_texts = len((run / "generated.jsonl").read_text().splitlines())
    summary = json.loads((run / "judge.json").read_text())
    assert (summary["texts"], summary["judge"]) == (n_texts, "strict") and asked == 3 * n_texts + 1
    found = json.loads((work / "results.json").read_text())["recipes"]["alpaca-run12"]["figures"]
    assert found["judge"]["mean"] == summary["score"] and "Our judge: strict;" in printed
    written = "".join(path.read_text() for path in (run / "answers.jsonl", work / "commands.txt", work / "steps.log"))
    assert KEY not in written + printed
