"""An adapter knows its base model again by every number of the frozen weights, whatever they are stored in."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import loralib
from tests.loralib.models import IDS, filled, net
from tests.loralib.test_adapter_folder import adapted, header_of, refuse_load, rewritten, same_adapter, saved


def large() -> nn.Module:
    torch.manual_seed(0)
    return nn.ModuleDict({"q": nn.Linear(300, 300, bias=False), "v": nn.Linear(2, 2)})


def of_large(folder: Path, dtype: torch.dtype = torch.float32) -> Path:
    return saved(folder, loralib.apply_lora(large().to(dtype), "v", 1, 1))


@pytest.mark.parametrize("position", [0, 5_000, 45_000, 89_999])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_one_changed_number_is_noticed_wherever_it_is(tmp_path, position, dtype):
    other = large().to(dtype)
    number = other["q"].weight.view(-1)[position]
    with torch.no_grad():
        number.copy_(torch.nextafter(number, torch.tensor(9, dtype=dtype)))
    refuse_load(other, of_large(tmp_path, dtype), r"1 frozen weights differ \(q.weight\)")


def test_a_weight_that_is_mostly_zero_is_noticed(tmp_path):
    other = large()
    with torch.no_grad():
        other["q"].weight[75:] = 0
    refuse_load(other, of_large(tmp_path), r"1 frozen weights differ \(q.weight\)")


def test_a_base_with_further_or_fewer_weights_is_refused(tmp_path):
    other = large()
    other["w"] = nn.Linear(1, 1)
    refuse_load(other, of_large(tmp_path), r"2 frozen weights differ \(w.bias, w.weight\)")
    del other["w"], other["q"]
    refuse_load(other, tmp_path, r"1 frozen weights differ \(q.weight\)")


def test_another_base_model_is_refused_by_name_and_can_be_loaded_all_the_same(tmp_path):
    model = adapted(trainable="classifier", bias="all")
    saved(tmp_path, model, bias="all")
    other = net()
    with torch.no_grad():
        other.h[1].query.weight[0, 0] += 1e-6
        other.h[0].ln.bias.add_(1)  # comes with the adapter
        other.classifier[0].weight.add_(1)  # likewise
    before = {key: value.clone() for key, value in other.state_dict().items()}
    refuse_load(other, tmp_path, r"trained on another base model: 1 frozen weights differ \(h.1.query.weight\); pass")
    assert all(torch.equal(value, before[key]) for key, value in other.state_dict().items())
    assert same_adapter(loralib.load_adapter(other, tmp_path, check_base=False), model)
    refuse_load(other, tmp_path, "1 frozen weights differ")  # now with LoRA on it
    assert same_adapter(loralib.load_adapter(net(), tmp_path), model)


def test_training_and_merging_leave_the_digests_of_the_base(tmp_path):
    model = adapted()
    base = header_of(saved(tmp_path, model))["base"]
    filled(model, seed=4).eval()(IDS)
    assert header_of(saved(tmp_path, model))["base"] == base
    assert header_of(saved(tmp_path, loralib.load_adapter(net(), tmp_path)))["base"] == base


@pytest.mark.slow
@pytest.mark.parametrize("here", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("there", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_a_base_in_another_precision_is_the_same_base(tmp_path, here, there):
    saved(tmp_path, adapted(model=net().to(here)))
    for same in (net().to(here).to(there), net().to(there)):
        loralib.load_adapter(same, tmp_path, lora_dtype=torch.float32)
    if {here, there} != {torch.bfloat16, torch.float16}:  # whose roundings cannot be compared
        other = net()
        with torch.no_grad():
            other.h[0].query.weight.mul_(1.1)
        refuse_load(
            other.to(there), tmp_path, r"1 frozen weights differ \(h.0.query.weight\)", lora_dtype=torch.float32
        )


class Quantised(Tensor):
    """Stands for the classes of torchao and bitsandbytes."""


WITHOUT_VALUES = {
    "meta": lambda weight: weight.to("meta"),
    "quantised": lambda weight: weight.as_subclass(Quantised),
    "sparse": lambda weight: weight.to_sparse_csr(),
}


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support is in beta")
@pytest.mark.parametrize("kind", WITHOUT_VALUES)
def test_a_base_without_plain_values_is_neither_recorded_nor_checked(tmp_path, kind):
    def strange() -> nn.Module:
        model = large()
        value = WITHOUT_VALUES[kind](model["q"].weight.detach())
        model["q"].weight = nn.Parameter(value, requires_grad=False)
        return model

    model = loralib.apply_lora(strange(), "v", 1, 1)
    assert header_of(saved(tmp_path / "here", model))["base"] == {}
    loralib.load_adapter(large(), tmp_path / "here")
    loralib.load_adapter(strange(), of_large(tmp_path / "there"))


def test_folders_without_digests_are_loaded(tmp_path):
    model = loralib.apply_lora(net(), "query", 2, 4)
    other = net()
    with torch.no_grad():
        other.h[1].query.weight.add_(1)
    rewritten(saved(tmp_path, model), lambda tensors: None)
    assert header_of(tmp_path) is None
    assert same_adapter(loralib.load_adapter(other, tmp_path), model)


def test_a_tied_and_an_empty_weight_have_digests_under_all_names(tmp_path):
    model = nn.ModuleDict({"a": nn.Linear(3, 3), "b": nn.Linear(3, 3), "none": nn.Linear(0, 3), "q": nn.Linear(2, 2)})
    model["b"].weight = model["a"].weight
    plain = copy.deepcopy(model)
    base = header_of(saved(tmp_path, loralib.apply_lora(model, "q", 1, 1)))["base"]
    assert base["a.weight"] == base["b.weight"] != base["none.weight"]
    plain["b"].weight = nn.Parameter(plain["a"].weight.detach().clone())
    loralib.load_adapter(plain, tmp_path)
