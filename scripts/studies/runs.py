"""Reads the runs of a study, of ``gpt2_ft.py`` or of ``run_clm.py``, and sums up those that differ by seed alone."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from examples.common.compare import numbers, read_json
from examples.common.errors import UserError
from examples.common.statistics import Summary, summarise

SIZES = {"sm": (12, 768), "md": (24, 1024), "lg": (36, 1280)}  # (n_layer, n_embd) of GPT-2
# (in + out) / n_embd of the layers of a block of GPT-2; c_attn as one update of query, key and value together
WIDTHS = {"c_attn": 1 + 3, "c_proj": (1 + 1) + (4 + 1), "c_fc": 1 + 4}
TEST_PROMPT = "accuracy with the test's prompt"
AFTERWARDS = ("texts", "labels", "judge")  # files of scores that follow a training


@dataclass(frozen=True)
class StudyRun:
    """One seed of a recipe: the run folder is ``RECIPE/seedN``.

    Attributes:
        trained: parameters that were trained, as the run counted them.
        figures: by name, in the unit of the published table.
        command: of the training.
        settings: flags of ``gpt2_ft.py``.
        base: model that ``run_clm.py`` trained: a folder or a name on the hub.
        judge: model that scored the texts, where one did.
    """

    folder: Path
    seed: int
    trained: int
    figures: dict[str, float]
    command: str
    settings: dict[str, Any] = field(default_factory=dict)
    base: str = ""
    judge: str = ""

    @property
    def recipe(self) -> str:
        return self.folder.resolve().parent.name


@dataclass(frozen=True)
class Recipe:
    """The runs of one recipe, a summary of each figure that all of them have, and the count that all of them have."""

    runs: list[StudyRun]
    summaries: dict[str, Summary]
    trained: int


def lora_parameters(targets: str, r: int, n_layer: int, n_embd: int) -> int:
    """Parameters of A and B on ``targets`` (separated by commas) of GPT-2: r (in + out) for each layer.

    ``c_attn`` has one A and one B over the fused output, as in Swift's study; ``c_proj`` is in attention and MLP.
    """
    return n_layer * r * n_embd * sum(WIDTHS[name] for name in targets.split(","))


def read_study_run(folder: Path) -> StudyRun:
    """A run folder of either example.

    Raises:
        UserError: it is none, or not complete.
    """
    metrics = read_json(folder / "metrics.json")
    record = read_json(folder / "run.json")
    command = str(record.get("command", ""))
    if "trainable_parameters" in metrics:  # examples/NLG
        if not metrics.get("finished"):
            raise UserError(f"{folder}: training stopped early; start the study again, which goes on with it")
        figures = numbers(read_json(folder / "last" / "scores.json").get("scores"))
        return StudyRun(
            folder, metrics["seed"], metrics["trainable_parameters"], figures, command, metrics.get("settings", {})
        )
    scores = metrics.get("scores")
    if not isinstance(scores, dict) or "parameters" not in metrics:
        raise UserError(f"{folder / 'metrics.json'}: neither of gpt2_ft.py nor of run_clm.py")
    figures = {name.removeprefix("eval_"): value for name, value in numbers(scores).items()}
    if (
        scores.get("epoch") and scores.get("train_runtime") and not record.get("resumed_from")
    ):  # else since the last start
        figures["minutes an epoch"] = scores["train_runtime"] / 60 / scores["epoch"]
    later = {name: read_json(path) for name in AFTERWARDS if (path := folder / f"{name}.json").exists()}
    figures |= numbers(later.get("texts"))
    if "labels" in later:
        figures[TEST_PROMPT] = later["labels"]["accuracy"]
    if later.get("judge", {}).get("score") is not None:
        figures["judge"] = later["judge"]["score"]
    counts = metrics["parameters"]
    return StudyRun(
        folder,
        metrics["seed"],
        counts["trained"] + counts["trained_in_head"],
        figures,
        command,
        base=str(read_json(folder / "clm.json")["base"]),
        judge=str(later.get("judge", {}).get("judge", "")),
    )


def by_recipe(runs: Sequence[StudyRun]) -> dict[str, Recipe]:
    """The runs by recipe, in the order in which the recipes first occur.

    Raises:
        UserError: a seed that stands there twice, or runs of one recipe that differ in what they trained.
    """
    groups: dict[str, list[StudyRun]] = {}
    for run in runs:
        groups.setdefault(run.recipe, []).append(run)
    found = {}
    for name, some in groups.items():
        if len({run.seed for run in some}) < len(some):
            raise UserError(f"{name}: a seed stands there twice; it counts once")
        if len({run.trained for run in some}) > 1:
            raise UserError(f"{name}: its runs differ in trained parameters; they are of different kinds")
        common = [figure for figure in some[0].figures if all(figure in run.figures for run in some)]
        summaries = {figure: summarise([run.figures[figure] for run in some]) for figure in common}
        found[name] = Recipe(some, summaries, some[0].trained)
    return found


def other_base(recipes: dict[str, Recipe], size: str) -> str:
    """Name of a base folder of a run that is no GPT-2 of this size; empty where there is none.

    The folder's path is absolute: that of a toy is not, and a name on the hub is believed.
    """
    for recipe in recipes.values():
        config = Path(recipe.runs[0].base) / "config.json"
        if config.is_absolute() and config.is_file():
            found = read_json(config)
            if (found.get("n_layer"), found.get("n_embd")) != SIZES[size] or found.get("model_type") != "gpt2":
                return config.parent.name
    return ""


def check_swift_counts(recipes: dict[str, Recipe], cards: Path) -> None:
    """Compares what the runs counted with r (in + out) over the adapted layers of their model.

    Args:
        cards: folder that model cards of the runs are relative to.

    Raises:
        UserError: another count.
    """
    for name, recipe in recipes.items():
        settings = recipe.runs[0].settings
        if not settings:
            continue  # of run_clm.py: compared with what is published
        card = str(settings["model_card"])
        if card.startswith("gpt2."):
            n_layer, n_embd = SIZES[card.removeprefix("gpt2.")]
        else:
            config = read_json(cards / card)
            n_layer, n_embd = config["n_layer"], config["n_embd"]
        expected = lora_parameters(settings["lora_targets"], settings["lora_dim"], n_layer, n_embd)
        if recipe.trained != expected:
            raise UserError(f"{name}: {recipe.trained:,} parameters were trained; by the formula {expected:,}")


def first_command(recipe: Recipe) -> str:
    """Command of the first run, with the last part of each path."""
    return shlex.join(Path(word).name if "/" in word else word for word in shlex.split(recipe.runs[0].command))
