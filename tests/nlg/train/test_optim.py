"""AdamW against numbers recorded from the released code and against torch's where the two agree."""

import json

import pytest
import torch
from train.optimizer import AdamW, parameter_groups
from train.schedule import Scheduler, linear

from tests.shared_data import GOLDEN

TRACES = json.loads((GOLDEN / "nlg" / "adamw_traces.json").read_text())


class Toy(torch.nn.Module):
    """The 3x2 weight and the bias of the recorded traces."""

    def __init__(self, dtype):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.tensor(TRACES["weight"], dtype=dtype))
        self.bias = torch.nn.Parameter(torch.tensor(TRACES["bias"], dtype=dtype))


def optimizer_of(model, case):
    return AdamW(
        parameter_groups(model, case["weight_decay"], case["no_decay_bias"]),
        lr=case["lr"],
        betas=(case["beta1"], case["beta2"]),
        eps=case["eps"],
        correct_bias=case["correct_bias"],
    )


def case_name(case):
    return f"correct={case['correct_bias']} decay={case['weight_decay']} spare_bias={case['no_decay_bias']}"


@pytest.mark.parametrize("case", TRACES["cases"], ids=case_name)
def test_updates_equal_the_released_optimizer(case):
    model = Toy(torch.float32)
    optimizer = optimizer_of(model, case)
    assert [(len(g["params"]), g["weight_decay"]) for g in optimizer.param_groups] == [
        (g["n"], g["weight_decay"]) for g in case["groups"]
    ]
    scheduler = Scheduler(optimizer, linear(case["lr"], warmup_step=case["warmup_step"], max_step=case["max_step"]))
    for grads, expected in zip(TRACES["grads"], case["trace"]):
        assert optimizer.param_groups[0]["lr"] == pytest.approx(expected["lr"], abs=1e-15)
        model.weight.grad, model.bias.grad = (torch.tensor(g) for g in grads)
        optimizer.step()
        scheduler.step()
        torch.testing.assert_close(model.weight.data, torch.tensor(expected["weight"]), atol=1e-7, rtol=0)
        torch.testing.assert_close(model.bias.data, torch.tensor(expected["bias"]), atol=1e-7, rtol=0)


@pytest.mark.parametrize("case", TRACES["cases"], ids=case_name)
def test_updates_in_float64_equal_the_formula(case):
    model = Toy(torch.float64)
    optimizer = optimizer_of(model, case)
    decay = {id(p): g["weight_decay"] for g in optimizer.param_groups for p in g["params"]}
    rate = linear(case["lr"], warmup_step=case["warmup_step"], max_step=case["max_step"])
    expected = {p: (p.detach().clone(), torch.zeros_like(p), torch.zeros_like(p)) for p in model.parameters()}
    for t, grads in enumerate(TRACES["grads"]):
        model.weight.grad, model.bias.grad = (torch.tensor(g, dtype=torch.float64) for g in grads)
        for group in optimizer.param_groups:
            group["lr"] = rate(t)
        optimizer.step()
        for p, (value, m, v) in expected.items():
            assert p.grad is not None
            m = case["beta1"] * m + (1 - case["beta1"]) * p.grad
            v = case["beta2"] * v + (1 - case["beta2"]) * p.grad**2
            a = rate(t)
            if case["correct_bias"]:
                a *= (1 - case["beta2"] ** (t + 1)) ** 0.5 / (1 - case["beta1"] ** (t + 1))
            value = value - a * m / (v.sqrt() + case["eps"])
            value = value - rate(t) * decay[id(p)] * value
            expected[p] = (value, m, v)
            torch.testing.assert_close(p.data, value, atol=1e-12, rtol=0)


def test_without_decay_and_epsilon_it_is_torch_adam():
    ours, theirs = Toy(torch.float64), Toy(torch.float64)
    mine = AdamW(ours.parameters(), lr=0.01, betas=(0.9, 0.98), eps=0.0)
    torchs = torch.optim.Adam(theirs.parameters(), lr=0.01, betas=(0.9, 0.98), eps=0.0)
    for grads in TRACES["grads"]:
        for model in (ours, theirs):
            model.weight.grad, model.bias.grad = (torch.tensor(g, dtype=torch.float64) for g in grads)
        mine.step()
        torchs.step()
    torch.testing.assert_close(ours.weight, theirs.weight, atol=1e-13, rtol=0)


def test_a_parameter_without_gradient_is_not_touched_even_by_decay():
    model = Toy(torch.float32)
    optimizer = AdamW(model.parameters(), lr=0.1, weight_decay=0.5)
    before = model.bias.detach().clone()
    model.weight.grad = torch.ones_like(model.weight)
    optimizer.step()
    assert torch.equal(model.bias, before)
    assert model.bias not in optimizer.state


def test_a_parameter_that_joins_late_has_its_own_step_count():
    late, alone = Toy(torch.float64), Toy(torch.float64)
    optimizer = AdamW(late.parameters(), lr=0.1)
    late.weight.grad = torch.ones_like(late.weight)
    optimizer.step()
    late.bias.grad = alone.bias.grad = torch.ones_like(late.bias)
    optimizer.step()
    AdamW([alone.bias], lr=0.1).step()
    assert torch.equal(late.bias, alone.bias)


def test_state_saved_and_loaded_continues_bit_for_bit():
    straight, resumed = Toy(torch.float32), Toy(torch.float32)

    def train(model, optimizer, grads):
        for pair in grads:
            model.weight.grad, model.bias.grad = (torch.tensor(g) for g in pair)
            optimizer.step()

    first = AdamW(straight.parameters(), lr=0.05, weight_decay=0.01)
    train(straight, first, TRACES["grads"])
    second = AdamW(resumed.parameters(), lr=0.05, weight_decay=0.01)
    train(resumed, second, TRACES["grads"][:3])
    third = AdamW(resumed.parameters(), lr=9.0)
    third.load_state_dict(second.state_dict())
    train(resumed, third, TRACES["grads"][3:])
    assert torch.equal(straight.weight, resumed.weight)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lr": -1.0}, "learning rate"),
        ({"betas": (1.0, 0.9)}, "betas"),
        ({"betas": (0.9, -0.1)}, "betas"),
        ({"eps": -1e-9}, "epsilon"),
        ({"weight_decay": -0.1}, "decay"),
    ],
)
def test_settings_out_of_bounds_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        AdamW(Toy(torch.float32).parameters(), **options)
