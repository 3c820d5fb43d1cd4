"""The loop trains any task: here one without language, whose evaluations are given in advance."""

import argparse
import json
from dataclasses import dataclass

import gpt2_ft
import pytest
import torch
from train.distributed import Process
from train.loop import Trainer
from train.schedule import Scheduler, constant
from train.step import TrainStep
from train.task import Evaluation

from examples.common.errors import UserError
from tests.nlg.train.helpers import tiny_flags
from tests.nlg.train.test_resume import assert_same_end, stop_at

SETTINGS = {
    **{"resume": False, "tensorboard": False, "bucket_by_length": False, "eval_each_epoch": False},
    **{"lora_only_checkpoints": True, "train_batch_size": 2, "max_step": 12, "max_epoch": None, "random_seed": 1},
    **{"log_interval": 4, "eval_interval": 2, "save_interval": 100, "patience": None},
}


@dataclass(frozen=True)
class Points:
    x: torch.Tensor  # (n,)

    @property
    def weight(self):
        return torch.tensor(float(len(self.x)))

    def to(self, device):
        return Points(self.x.to(device))

    pinned = None


class MeanOfPoints:
    """One number learns to be the mean of the rows; the primary figures are those of a list."""

    n_rows = 6

    def __init__(self, figures, *, higher_is_better):
        self.model = torch.nn.Linear(1, 1, bias=False)
        self.figures = iter(figures)
        self.higher_is_better = higher_is_better

    def batch(self, rows):
        return Points(torch.tensor(rows, dtype=torch.float32))

    def loss(self, batch, weight):
        return (self.model.weight - batch.x).square().sum() / weight

    def evaluate(self, process, autocast):
        figure = next(self.figures)
        return Evaluation(figure, {"accuracy": figure})

    def describe_loss(self, average):
        return f"error {average:.1f}"

    def describe(self, found, best):
        return f"accuracy {found.primary} | best {best}"

    def save(self, path, step, *, complete):
        torch.save({"step": step, **self.model.state_dict()}, path)


def run(folder, figures, *, higher_is_better=True, **changed):
    folder.mkdir(exist_ok=True)
    torch.manual_seed(0)
    task = MeanOfPoints(figures, higher_is_better=higher_is_better)
    optimizer = torch.optim.SGD(task.model.parameters(), lr=0.1)
    train = TrainStep(task, optimizer, Scheduler(optimizer, constant(0.1, warmup_step=0)), Process())
    settings = argparse.Namespace(**{**SETTINGS, "work_dir": str(folder), **changed})
    trainer = Trainer(settings, Process(), task, train, {"task": "toy"})
    trainer.run()
    return trainer


@pytest.mark.parametrize(("higher_is_better", "best"), [(True, 4), (False, 10)])
def test_the_best_checkpoint_is_that_of_the_best_primary_figure(tmp_path, capsys, higher_is_better, best):
    trainer = run(tmp_path, [0.5, 0.9, 0.6, 0.9, 0.1, 0.3], higher_is_better=higher_is_better)
    assert torch.load(tmp_path / "model.best.pt")["step"] == trainer.progress.best_step == best
    rows = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [row["accuracy"] for row in rows if "accuracy" in row] == [0.5, 0.9, 0.6, 0.9, 0.1, 0.3]
    printed = capsys.readouterr().out
    assert "accuracy 0.3 | best" in printed and "| error " in printed and "ppl" not in printed


@pytest.mark.parametrize(("patience", "end"), [(1, 6), (2, 8), (3, 12), (None, 12)])
def test_patience_counts_evaluations_since_the_best(tmp_path, capsys, patience, end):
    trainer = run(tmp_path, [0.5, 0.9, 0.6, 0.9, 0.95, 0.3], patience=patience)
    assert trainer.progress.step == end and trainer.progress.finished
    assert (tmp_path / f"model.{end}.pt").exists()
    said = f"no new best in {patience} evaluations: the best was at step 4"
    assert (said in capsys.readouterr().out) == (end < 12)


def test_a_run_that_ended_by_patience_goes_on_with_more_of_it(tmp_path):
    figures = [0.5, 0.9, 0.6, 0.9, 0.95, 0.3]
    run(tmp_path / "parts", figures, patience=1)
    again = run(tmp_path / "parts", figures[3:], patience=3, resume=True)
    whole = run(tmp_path / "whole", figures, patience=3)
    assert again.progress.best_step == whole.progress.best_step == 10
    assert torch.equal(again.task.model.weight, whole.task.model.weight)


@pytest.mark.slow
def test_the_program_ends_by_patience_and_the_count_survives_an_interruption(folder, monkeypatch, capsys):
    rates = {"scheduler": "cycle", "i_steps": "0,4,6,40", "i_lrs": "0.01,0.01,2.0,2.0", "eval_interval": 3}
    flags = {**rates, "patience": 2, "save_interval": 7}
    gpt2_ft.main(tiny_flags(work_dir="whole", **flags))
    metrics = json.loads((folder / "whole" / "metrics.json").read_text())
    assert metrics["finished"] and metrics["steps"] == metrics["best_step"] + 2 * 3 < 40
    with monkeypatch.context() as patch, pytest.raises(SystemExit):
        stop_at(patch, metrics["steps"] - 2)
        gpt2_ft.main(tiny_flags(work_dir="parts", **flags))
    gpt2_ft.main([*tiny_flags(work_dir="parts", **flags), "--resume"])
    assert_same_end(folder / "whole", folder / "parts")


def test_a_state_of_a_program_without_methods_and_targets_is_that_of_their_defaults(folder):
    gpt2_ft.main(tiny_flags(work_dir="w", max_step=4))
    state = torch.load("w/training_state.pt", weights_only=True)
    assert not {"--method", "--lora_targets"} & {*state["identity"]}
    state["progress"]["valid"] = 1.0  # a field of an older program
    torch.save(state, "w/training_state.pt")
    gpt2_ft.main([*tiny_flags(work_dir="w", max_step=4), "--resume"])
    with pytest.raises(UserError, match="belongs to another run: --lora_targets was None, is all-linear"):
        gpt2_ft.main([*tiny_flags(work_dir="w", max_step=4, lora_targets="all-linear"), "--resume"])


@pytest.mark.slow
@pytest.mark.parametrize(
    "given", [{"lora_targets": "all-linear", "lora_dropout": 0.1}, {"method": "top2", "lora_dim": 0}]
)
def test_runs_of_other_methods_and_targets_resume_exactly(folder, monkeypatch, given):
    flags = {"max_epoch": 3, "grad_acc": 3, **given}
    gpt2_ft.main(tiny_flags(work_dir="whole", **flags))
    with monkeypatch.context() as patch, pytest.raises(SystemExit):
        stop_at(patch, 7)
        gpt2_ft.main(tiny_flags(work_dir="parts", **flags))
    gpt2_ft.main([*tiny_flags(work_dir="parts", **flags), "--resume"])
    assert_same_end(folder / "whole", folder / "parts")
