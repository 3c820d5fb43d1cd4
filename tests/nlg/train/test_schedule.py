"""Learning rates against those recorded from the released code."""

import argparse
import json

import pytest
import torch
from train.schedule import Scheduler, last_step, make_rate

from examples.common.errors import UserError
from tests.shared_data import GOLDEN

CASES = json.loads((GOLDEN / "nlg" / "schedules.json").read_text())


def flags(**given):
    defaults = {"lr": 0.1, "warmup_step": 0, "max_step": 12, "max_epoch": None, "i_steps": "0", "i_lrs": "0.00025"}
    return argparse.Namespace(**{**defaults, **given})


def scheduler_for(args):
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.0)
    return Scheduler(optimizer, make_rate(args)), optimizer.param_groups[0]


@pytest.mark.parametrize("case", CASES, ids=lambda c: "-".join(str(v) for v in c["args"].values()))
def test_rates_equal_the_released_ones(case, capsys):
    args = flags(lr=case["lr"], **case["args"])
    args.max_step = last_step(args, batches_per_epoch=0)
    scheduler, group = scheduler_for(args)
    rates = []
    for _ in case["lr_used_by_update_k"]:
        rates.append(group["lr"])
        scheduler.step()
    assert rates == pytest.approx(case["lr_used_by_update_k"], rel=1e-14, abs=1e-17)
    assert args.max_step == case["max_step_after"]
    printed = capsys.readouterr()
    assert printed.out == case["stdout"]
    assert ("keeps the rate constant" in printed.err) == case["is_none"]


def test_state_loaded_gives_the_same_next_rate():
    scheduler, group = scheduler_for(flags(scheduler="linear", warmup_step=3))
    for _ in range(7):
        scheduler.step()
    other, other_group = scheduler_for(flags(scheduler="linear", warmup_step=3))
    other.load_state_dict(scheduler.state_dict())
    assert other_group["lr"] == group["lr"] != 0.0


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"scheduler": "cosine", "max_step": 0}, "cosine needs --max_step"),
        ({"scheduler": "cycle", "i_steps": "0,5", "i_lrs": "0.1"}, "2 values, --i_lrs 1"),
        ({"scheduler": "cycle", "i_steps": "5,0", "i_lrs": "0.1,0.2"}, "must increase"),
        ({"scheduler": "cycle", "i_steps": "0,x", "i_lrs": "0.1,0.2"}, "--i_steps 0,x: expected numbers"),
    ],
)
def test_impossible_schedules_are_refused(given, message):
    with pytest.raises(UserError, match=message):
        make_rate(flags(**given))
