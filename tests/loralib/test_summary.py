"""``trainable_summary`` counts each parameter once, as what it is trained."""

from __future__ import annotations

import torch
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


def test_published_counts_of_the_paper_models():
    """393,216 for GPT-2 Medium with r=4 on query and value; 294,912 for RoBERTa-base with r=8."""
    with torch.device("meta"):
        gpt2 = nn.ModuleList([nn.Linear(1024, 3072) for _ in range(24)])
        roberta = nn.ModuleList([nn.ModuleDict({n: nn.Linear(768, 768) for n in "qkv"}) for _ in range(12)])
    loralib.apply_lora(gpt2, r"\d+", 4, 32, enable_lora=[True, False, True])
    loralib.apply_lora(roberta, ["q", "v"], 8, 16)
    assert loralib.trainable_summary(gpt2).adapter == 393_216
    assert loralib.trainable_summary(roberta).adapter == 294_912


def test_it_prints_as_one_line():
    text = str(loralib.TrainableSummary(adapter=294_912, bias=0, head=592_899, frozen=124_055_040))
    assert text == "adapter 294,912 + bias 0 + head 592,899 = 887,811 trainable of 124,942,851 (0.71 %)"
    assert str(loralib.trainable_summary(nn.Identity())).endswith("0 trainable of 0 (0.00 %)")
