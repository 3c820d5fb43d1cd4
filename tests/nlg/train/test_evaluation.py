"""Validation losses: each row once, without dropout, smoothing or filler rows."""

import math

import gpt2_ft
import pytest
import torch
from train.data import FT_Dataset
from train.distributed import Process
from train.language_modelling import evaluate, perplexity
from train.sampler import global_batches

from tests.nlg.train.helpers import TINY_TRAIN, golden_model, tiny_flags


def evaluated(model, batch_size, seed=110):
    data = FT_Dataset(TINY_TRAIN, batch_size, 24)
    return evaluate(
        model, data, Process(), batch_size=batch_size, seed=seed, autocast=torch.autocast("cpu", enabled=False)
    )


def test_the_token_mean_does_not_depend_on_the_batch_size_and_the_released_figure_does():
    model = golden_model()
    found = [evaluated(model, batch_size) for batch_size in (1, 5, 7, 24, 100)]
    token_losses = [v.figures["valid_token_loss"] for v in found]
    assert token_losses == pytest.approx(token_losses[:1] * 5, rel=1e-5)
    assert len({round(v.primary, 4) for v in found[:3]}) == 3
    assert found[3].primary == pytest.approx(token_losses[3], rel=1e-5)  # one batch


def test_the_released_figure_is_the_mean_over_batches_and_filler_rows_do_not_count():
    model, data = golden_model().eval(), FT_Dataset(TINY_TRAIN, 5, 24)
    batches = global_batches(data.n_rows, 5, seed=110, epoch=0, fillers=False)
    assert sorted(len(rows) for rows in batches) == [4, 5, 5, 5, 5]  # 24 rows
    with torch.no_grad():
        losses = []
        for rows in batches:
            batch = data.batch(rows)
            losses.append(model(batch.input, batch.target, batch.mask)[1].item())
    assert evaluated(model, 5).primary == pytest.approx(sum(losses) / 5, rel=1e-6)


@pytest.mark.parametrize("training", [True, False])
def test_dropout_is_off_and_the_mode_comes_back(training):
    model = golden_model(dropout=0.5).train(training)
    state = torch.get_rng_state()
    first = evaluated(model, 5)
    assert torch.equal(state, torch.get_rng_state())  # a run draws the same numbers however often it evaluates
    assert first == evaluated(golden_model(), 5)
    assert model.training == training


def test_losses_of_every_hundredth_batch_are_printed(tmp_path, capsys):
    path = tmp_path / "many.jsonl"
    path.write_text(TINY_TRAIN.read_text() * 9)  # 216 batches of one row
    data = FT_Dataset(path, 1, 24)
    autocast = torch.autocast("cpu", enabled=False)
    evaluate(golden_model(), data, Process(), batch_size=1, seed=1, autocast=autocast)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(" loss: tensor(")[0] for line in lines[:3]] == [f"eval samples: {i}" for i in (0, 100, 200)]
    assert lines[3].startswith("average loss ") and lines[4].startswith("average loss per token ") and len(lines) == 5


def test_perplexity_of_a_huge_loss_is_infinite_not_an_error():
    assert perplexity(1e6) == math.inf
    assert perplexity(0.0) == 1.0


def test_validation_counts_completions_whatever_the_training_loss_counts(folder):
    """As released: ``--obj jlm`` is of training alone, and the best checkpoint is chosen by completions."""
    for obj in ("clm", "jlm"):
        gpt2_ft.main(tiny_flags(work_dir=obj, max_step=2, eval_interval=2, obj=obj, lr=0.0, label_smooth=0.0))
    rows = {obj: (folder / obj / "log.jsonl").read_text().splitlines() for obj in ("clm", "jlm")}
    assert rows["clm"][1] == rows["jlm"][1] and '"valid_loss"' in rows["clm"][1]
    assert rows["clm"][0] != rows["jlm"][0]
