"""Stock transformers models with LoRA or adapters put in give the numbers recorded from the released 2021 fork."""

from __future__ import annotations

import pytest
import torch
from glue.adapters import add_adapters
from glue.export import merged_model
from glue.lora import SharedKeySelfAttention, add_lora
from glue.losses import Consistency, consistency_loss
from glue.trainable import mark_trainable
from torch import nn

from tests.nlu.world import RECORDED, TENSORS, recorded_deberta, recorded_roberta

TOLERANCE = {"rtol": 0.0, "atol": 1e-5}  # float32; attention was rewritten since 2021
MASK, LABELS = TENSORS["attention_mask"], TENSORS["labels"]


def loaded(model: nn.Module, case: str) -> nn.Module:
    """Recorded weights into a model that must have exactly their names; eval mode."""
    prefix = f"{case}|weight|"
    weights = {key.removeprefix(prefix): value for key, value in TENSORS.items() if key.startswith(prefix)}
    model.load_state_dict(weights, strict=True)
    return model.eval()


def deberta_with_lora() -> nn.Module:
    model = recorded_deberta()
    add_lora(model, r=4, lora_alpha=8)
    return loaded(model, "deberta_lora")


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_roberta_with_lora_is_the_released_model(attention):
    model = recorded_roberta(attn_implementation=attention)
    add_lora(model, r=4, lora_alpha=8)
    assert_as_recorded(loaded(model, "roberta_lora"), "roberta_lora", "roberta|input_ids", ("lora",))


@pytest.mark.parametrize("adapter_type", ["houlsby", "pfeiffer"])
def test_roberta_with_adapters_is_the_released_model(adapter_type):
    model = recorded_roberta()
    add_adapters(model, adapter_type=adapter_type, adapter_size=4)
    case = f"roberta_{adapter_type}"
    assert_as_recorded(loaded(model, case), case, "roberta|input_ids", ("adapter",))


def test_deberta_with_lora_is_the_released_model():
    assert_as_recorded(deberta_with_lora(), "deberta_lora", "deberta|input_ids", ("lora",))


def assert_as_recorded(model, case, inputs, tags):
    mark_trainable(model, tags)
    out = model(TENSORS[inputs], attention_mask=MASK, labels=LABELS)
    torch.testing.assert_close(out.logits, TENSORS[f"{case}|logits"], **TOLERANCE)
    torch.testing.assert_close(out.loss, TENSORS[f"{case}|loss"].reshape(()), **TOLERANCE)
    out.loss.backward()
    recorded = {key.split("|")[2]: value for key, value in TENSORS.items() if key.startswith(f"{case}|grad|")}
    assert recorded
    for name, parameter in model.named_parameters():
        if name in recorded:
            torch.testing.assert_close(parameter.grad, recorded.pop(name), **TOLERANCE)
        elif not parameter.requires_grad:
            assert parameter.grad is None, name
    assert not recorded


def test_lora_on_the_positions_of_deberta_would_be_another_model():
    model = deberta_with_lora()
    for module in model.modules():
        if isinstance(module, SharedKeySelfAttention):
            module.__class__ = SharedKeySelfAttention.__mro__[1]
    with torch.no_grad():
        naive = model(TENSORS["deberta|input_ids"], attention_mask=MASK).logits
    assert (naive - TENSORS["deberta_lora|logits"]).abs().max() > 1.0


@pytest.mark.parametrize(
    ("case", "make", "tags"),
    [
        ("roberta_lora", recorded_roberta, ("lora",)),
        ("roberta_houlsby", recorded_roberta, ("adapter",)),
        ("roberta_pfeiffer", recorded_roberta, ("adapter",)),
        ("roberta_bitfit", recorded_roberta, ("bias",)),
        ("roberta_lora_plus_bitfit", recorded_roberta, ("lora", "bias")),
        ("deberta_lora", recorded_deberta, ("lora",)),
        ("deberta_bitfit", recorded_deberta, ("bias",)),
    ],
)
def test_the_same_parameters_are_trained_as_in_the_released_code(case, make, tags):
    model = make()
    if "lora" in tags:
        add_lora(model, r=4, lora_alpha=8)
    if "adapter" in tags:
        add_adapters(model, adapter_type=case.removeprefix("roberta_"), adapter_size=4)
    mark_trainable(model, tags)
    trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    assert trained == RECORDED["cases"][case]["trainable"]


@pytest.mark.parametrize(
    "case", ["deberta_reg_rdrop", "deberta_reg_cutoff_all_w1", "deberta_reg_cutoff_all_w2", "deberta_class_cutoff_all"]
)
def test_consistency_losses_are_the_released_ones(case):
    settings = RECORDED["cases"][case]
    special = RECORDED["deberta_special_ids"]
    consistency = Consistency(
        settings["reg_loss_wgt"],
        settings["masking_prob"],
        kept=(special["cls_token_id"], special["sep_token_id"]),
        unk=special["unk_token_id"],
    )
    model, ids = deberta_with_lora(), TENSORS["deberta|input_ids"]
    second = consistency.second_input(ids, MASK)
    assert torch.equal(second, ids) == (settings["masking_prob"] == 0)
    with torch.no_grad():
        first_logits = model(ids, attention_mask=MASK).logits
        second_logits = model(second, attention_mask=MASK).logits
    loss = consistency_loss(first_logits, second_logits, LABELS, consistency.weight)
    torch.testing.assert_close(loss, TENSORS[f"{case}|loss"].reshape(()), **TOLERANCE)


def test_merged_deberta_is_a_stock_model_with_the_same_logits():
    """Positions keep the frozen projection, so the copy has position projections of its own."""
    model = deberta_with_lora()
    merged = merged_model(model)
    assert not merged.config.share_att_key
    assert not [name for name in merged.state_dict() if "lora" in name]
    assert {type(module).__module__.split(".")[0] for module in merged.modules()} <= {"transformers", "torch"}
    with torch.no_grad():
        logits = merged(TENSORS["deberta|input_ids"], attention_mask=MASK).logits
    torch.testing.assert_close(logits, TENSORS["deberta_lora|logits"], **TOLERANCE)
    assert model.config.share_att_key
