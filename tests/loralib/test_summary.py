"""``trainable_summary`` counts each parameter once, as what it is trained."""

from __future__ import annotations

from torch import nn

import loralib
from tests.loralib.models import net


def test_factors_head_and_frozen_parts_add_up_to_the_model():
    model = loralib.apply_lora(net(), "query", 2, 4, trainable="classifier")
    summary = loralib.trainable_summary(model)
    assert summary == loralib.TrainableSummary(
        adapter=2 * 2 * (6 + 6), bias=0, head=6 * 4 + 4 + 4 * 2 + 2, frozen=summary.frozen
    )
    assert summary.total == sum(p.numel() for p in model.parameters())
    assert summary.trainable == sum(p.numel() for p in model.parameters() if p.requires_grad)


def test_biases_count_as_biases_where_nothing_else_trains():
    model = loralib.apply_lora(net(), "query", 2, 4, trainable="classifier.0", bias="all")
    summary = loralib.trainable_summary(model)
    assert summary.head == 6 * 4 + 4
    biases = [
        p for name, p in model.named_parameters() if name.endswith("bias") and not name.startswith("classifier.0")
    ]
    assert summary.bias == sum(p.numel() for p in biases)


def test_a_shared_parameter_is_counted_once():
    summary = loralib.trainable_summary(net())
    assert (summary.adapter, summary.bias, summary.frozen) == (0, 0, 0)
    assert summary.head == sum(p.numel() for p in net().parameters())


def test_it_prints_as_one_line():
    text = str(loralib.TrainableSummary(adapter=294_912, bias=0, head=592_899, frozen=124_055_040))
    assert text == "adapter 294,912 + bias 0 + head 592,899 = 887,811 trainable of 124,942,851 (0.71 %)"
    assert str(loralib.trainable_summary(nn.Identity())).endswith("0 trainable of 0 (0.00 %)")
