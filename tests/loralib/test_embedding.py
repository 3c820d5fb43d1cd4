"""``Embedding``: a given table stays, padding stays, and options that cannot work with LoRA are refused."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import loralib
from tests.loralib.toys import randomize, toy


def test_fresh_embedding_has_zero_A_and_standard_normal_B():
    torch.manual_seed(0)
    layer = loralib.Embedding(50, 400, r=8)
    assert not layer.lora_A.any()
    assert abs(layer.lora_B.std() - 1) < 0.05 and abs(layer.lora_B.mean()) < 0.06  # 3,200 numbers: 1/sqrt(3200) = 0.018
    assert torch.equal(layer(torch.arange(50)), layer.weight)


def test_rows_of_tokens_that_never_occur_keep_their_output():
    layer = loralib.Embedding(11, 6, r=2)
    optimizer = torch.optim.SGD([layer.lora_A, layer.lora_B], lr=1.0)
    layer(torch.tensor([1, 4])).square().sum().backward()
    optimizer.step()
    seen = (layer(torch.arange(11)) != layer.weight).any(dim=1)
    assert seen.nonzero().flatten().tolist() == [1, 4]


def test_a_given_table_is_used_and_not_overwritten():
    table = torch.arange(12.0).view(4, 3)
    before = table.clone()
    layer = loralib.Embedding(4, 3, r=2, _weight=table)
    assert torch.equal(table, before) and torch.equal(layer.weight, before)
    assert not layer.weight.requires_grad and layer.lora_B.abs().min() > 0


@pytest.mark.parametrize("freeze", [True, False])
@pytest.mark.parametrize("r", [0, 2])
def test_from_pretrained_returns_the_given_rows(r, freeze):
    table = torch.randn(5, 3)
    layer = loralib.Embedding.from_pretrained(table, freeze=freeze, padding_idx=1, r=r, lora_alpha=2)
    assert isinstance(layer, loralib.Embedding) and layer.padding_idx == 1 and layer.r == r
    assert torch.equal(layer(torch.arange(5)), table)
    assert layer.weight.data_ptr() == table.data_ptr()
    assert layer.weight.requires_grad == (r == 0 and not freeze)


def test_from_pretrained_wants_a_table():
    with pytest.raises(ValueError, match=r"must be \(num_embeddings, embedding_dim\), got shape \(3,\)"):
        loralib.Embedding.from_pretrained(torch.zeros(3), r=1)


def test_padding_row_is_zero_and_its_column_of_A_gets_no_gradient():
    layer = loralib.Embedding(11, 6, r=2, padding_idx=3)
    assert not layer.weight[3].any()
    layer(torch.tensor([3, 5])).sum().backward()
    assert not layer.lora_A.grad[:, 3].any() and layer.lora_A.grad[:, 5].any()


@pytest.mark.parametrize("option", [{"max_norm": 1.0}, {"sparse": True}])
def test_options_that_would_damage_the_factors_are_refused(option):
    name = next(iter(option))
    with pytest.raises(ValueError, match=name):
        loralib.Embedding(5, 3, r=1, **option)
    with pytest.raises(ValueError, match=name):
        loralib.Embedding.from_pretrained(torch.randn(5, 3), r=1, **option)


@pytest.mark.parametrize("option", [{"max_norm": 1.0}, {"sparse": True}])
def test_without_rank_those_options_work_as_in_torch(option):
    torch.manual_seed(0)
    layer = loralib.Embedding(5, 3, **option)
    plain = nn.Embedding(5, 3, _weight=layer.weight.detach().clone(), **option)
    ids = torch.tensor([0, 2])
    y, expected = layer(ids), plain(ids)
    assert torch.equal(y, expected) and torch.equal(layer.weight, plain.weight)
    y.sum().backward()
    assert layer.weight.grad.is_sparse == bool(option.get("sparse"))


def test_training_with_a_tied_head_only_changes_the_factors():
    layer, head = toy("embedding"), nn.Linear(6, 11, bias=False)
    head.weight = layer.weight
    assert not head.weight.requires_grad
    before = layer.weight.clone()
    head(layer(torch.tensor([1, 2]))).square().sum().backward()
    torch.optim.SGD([layer.lora_A, layer.lora_B], lr=0.1).step()
    randomize(layer)
    layer.eval()(torch.tensor([1]))
    assert torch.equal(head.weight, before) and head.weight is layer.train().weight
