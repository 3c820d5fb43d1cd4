"""Training, batch by batch, against four runs recorded from the released code."""

import argparse
import json

import pytest
import torch
from safetensors.torch import load_file
from train.data import FT_Dataset
from train.distributed import Process
from train.language_modelling import LanguageModelling
from train.optimizer import AdamW, parameter_groups
from train.sampler import global_batches
from train.schedule import Scheduler, make_rate
from train.step import TrainStep

from tests.nlg.train.helpers import NLG, TINY_TRAIN, golden_model

RUNS = json.loads((NLG / "train_runs.json").read_text())


def train_step(model, data, args, **more):
    optimizer = AdamW(
        parameter_groups(model, args["weight_decay"], args["no_decay_bias"]),
        lr=args["lr"],
        betas=(args["adam_beta1"], args["adam_beta2"]),
        eps=args["adam_epislon"],
        correct_bias=args["correct_bias"],
    )
    scheduler = Scheduler(optimizer, make_rate(argparse.Namespace(**args)))
    task = LanguageModelling(model, data, data, method="lora", label_smooth=args["label_smooth"])
    return TrainStep(task, optimizer, scheduler, Process(), grad_acc=args["grad_acc"], clip=args["clip"], **more)


@pytest.mark.parametrize("run", RUNS, ids=lambda run: run["name"])
def test_ids_rates_losses_and_final_weights(run):
    model = golden_model(r=4 if run["lora"] else 0)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    data = FT_Dataset(TINY_TRAIN, run["batch_size"], run["seq_len"])
    train = train_step(model.train(), data, run["args"])
    log = iter(run["log"])
    step = 0
    for epoch in (1, 2):
        for rows in global_batches(data.n_rows, run["batch_size"], seed=run["seed"], epoch=epoch):
            expected = next(log)
            step += 1
            assert [step, epoch, rows] == [expected["step"], expected["epoch"], expected["ids"]]
            assert train.optimizer.param_groups[0]["lr"] == pytest.approx(expected["lr_used"], rel=1e-12, abs=1e-15)
            loss, tokens = train(data.batch(rows), step)
            assert loss.item() == pytest.approx(expected["loss"], rel=2e-5)
            assert tokens.item() == sum(len(data.rows[row].completion) for row in rows)
    assert next(log, None) is None
    golden = load_file(NLG / f"train_{run['name']}.safetensors")
    for name, p in model.named_parameters():
        if name in golden:
            assert (p - golden.pop(name)).abs().max() <= 1e-4 * p.abs().max(), name
        else:
            assert torch.equal(p, before[name]), name
    assert not golden


def test_gradients_of_an_unfinished_accumulation_are_kept():
    args = {**RUNS[0]["args"], "grad_acc": 4}
    model = golden_model().train()
    data = FT_Dataset(TINY_TRAIN, 4, 24)
    train = train_step(model, data, args)
    before = [p.detach().clone() for p in train.trainable]
    rates = []
    for step in (1, 2, 3):
        train(data.batch([step]), step)
        rates.append(train.scheduler.t)
    assert rates == [1, 2, 3]
    assert all(torch.equal(p, old) for p, old in zip(train.trainable, before))
    assert all(p.grad is not None for p in train.trainable)
    train(data.batch([4]), 4)
    assert all(p.grad is None for p in train.trainable)
    assert not torch.equal(train.trainable[1], before[1])


def test_the_gradient_of_an_accumulation_is_the_mean_over_its_micro_batches():
    data, rows = FT_Dataset(TINY_TRAIN, 4, 24), (1, 2, 3)
    model = golden_model().train()
    sums = [torch.zeros_like(p) for p in model.parameters() if p.requires_grad]
    for row in rows:
        batch = data.batch([row])
        loss = model.loss(batch.input, batch.target, batch.mask, 0.1)
        grads = torch.autograd.grad(loss, [p for p in model.parameters() if p.requires_grad])
        sums = [total + grad for total, grad in zip(sums, grads)]
    train = train_step(model, data, {**RUNS[0]["args"], "grad_acc": 3})
    seen: list[torch.Tensor] = []
    train.optimizer.register_step_pre_hook(lambda *_: seen.extend(p.grad.clone() for p in train.trainable))
    for step, row in enumerate(rows, start=1):
        train(data.batch([row]), step)
    torch.testing.assert_close(seen, [total / 3 for total in sums], rtol=1e-4, atol=1e-6)


def test_bfloat16_keeps_float32_weights_and_a_similar_loss():
    data = FT_Dataset(TINY_TRAIN, 4, 24)
    losses = []
    for dtype in (None, torch.bfloat16):
        train = train_step(golden_model().train(), data, RUNS[0]["args"], amp_dtype=dtype)
        losses.append(train(data.batch([0, 1, 2, 3]), 1)[0].item())
        assert {p.dtype for p in train.trainable} == {torch.float32}
    assert losses[0] != losses[1]
    assert losses[1] == pytest.approx(losses[0], rel=0.02)
