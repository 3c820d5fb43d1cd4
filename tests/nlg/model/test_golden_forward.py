"""The model against numbers recorded from the released code on synthetic weights."""

import hashlib
import json

import pytest
import torch
from gpt2.checkpoint import load_into
from gpt2.config import MODEL_CARDS, GPT2Config, LoRAConfig
from gpt2.model import GPT2LMModel
from safetensors.torch import load_file

from tests.shared_data import GOLDEN

NLG = GOLDEN / "nlg"
CONFIG = GPT2Config(vocab_size=101, n_positions=64, n_embd=32, n_layer=2, n_head=4)

FORWARD = load_file(NLG / "tiny_forward.safetensors")
LOSSES = json.loads((NLG / "tiny_loss.json").read_text())
INITS = json.loads((NLG / "init_seed110.json").read_text())


def golden_model(dropout=0.0, r=4):
    model = GPT2LMModel(CONFIG, LoRAConfig(r=r, alpha=32, dropout=dropout))
    load_into(model, NLG / "tiny_gpt2.safetensors") if r else load_base(model)
    return model


def load_base(model):
    weights = load_file(NLG / "tiny_gpt2.safetensors")
    base = {name: tensor for name, tensor in weights.items() if "lora_" not in name}
    result = model.transformer.load_state_dict(base, strict=False)
    assert not result.unexpected_keys and not result.missing_keys


def relative_to_max(actual, expected, bound):
    assert (actual - expected).abs().max() <= bound * expected.abs().max()


def test_hidden_states_and_logits_with_lora():
    model = golden_model().eval()
    with torch.no_grad():
        hidden = model.transformer(FORWARD["input_ids"])
        logits, _ = model(FORWARD["input_ids"])
    relative_to_max(hidden, FORWARD["hidden"], 1e-5)
    relative_to_max(logits, FORWARD["logits"], 1e-5)


def test_logits_without_lora():
    model = golden_model(r=0).eval()
    with torch.no_grad():
        logits, _ = model(FORWARD["input_ids"])
    relative_to_max(logits, FORWARD["logits_without_lora"], 1e-5)


@pytest.mark.parametrize("case", LOSSES["cases"], ids=lambda c: f"smooth={c['label_smooth']}-mask={c['mask']}")
def test_losses_over_all_logits_and_over_counted_ones(case):
    model = golden_model().eval()
    inputs, targets = FORWARD["input_ids"], FORWARD["targets"]
    mask = {"mask": FORWARD["mask"], "none": None, "zeros": torch.zeros_like(FORWARD["mask"])}[case["mask"]]
    with torch.no_grad():
        _, everywhere = model(inputs, targets, mask, label_smooth=case["label_smooth"])
        counted = model.loss(
            inputs, targets, torch.ones_like(FORWARD["mask"]) if mask is None else mask, case["label_smooth"]
        )
    assert everywhere.item() == pytest.approx(case["loss"], rel=2e-6, abs=1e-12)
    assert counted.item() == pytest.approx(case["loss"], rel=2e-6, abs=1e-12)


def test_losses_of_an_empty_mask_and_an_ignored_label():
    model = golden_model().eval()
    golden = LOSSES["accuracy"]
    labels, mask = torch.tensor(golden["labels"]), FORWARD["mask"]
    ignored = FORWARD["targets"].clone()
    ignored[0, 6] = -1
    with torch.no_grad():
        _, loss = model(FORWARD["input_ids"], labels, mask, label_smooth=0.1)
        _, empty = model(FORWARD["input_ids"], labels, torch.zeros_like(mask))
        _, without = model(FORWARD["input_ids"], ignored, mask)
    assert loss.item() == pytest.approx(golden["loss"], rel=2e-6)
    assert empty.item() == golden["with_all_zero_mask"]["loss"]
    assert without.item() == pytest.approx(golden["label_minus1_without_smoothing"], rel=2e-6)


def test_logits_recorded_token_by_token_are_those_of_the_whole_input():
    model, golden = golden_model().eval(), load_file(NLG / "tiny_incremental.safetensors")
    with torch.no_grad():
        logits, _ = model(golden["input_ids"])
    relative_to_max(logits[:, 10:20], golden["growing_past_logits_from_10"], 1e-5)
    behind_prompts = golden["padded_logits"]  # (B, steps, V), after prompts of these lengths
    positions = golden["query_len"][:, None] - 1 + torch.arange(behind_prompts.size(1))
    relative_to_max(logits[torch.arange(len(logits))[:, None], positions], behind_prompts, 1e-5)


def gradients(model, label_smooth):
    model.train()
    loss = model.loss(FORWARD["input_ids"], FORWARD["targets"], FORWARD["mask"], label_smooth)
    loss.backward()
    return loss.item(), {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize(
    ("file", "r", "label_smooth"),
    [("tiny_lora_grads_ls0", 4, 0.0), ("tiny_lora_grads_ls01", 4, 0.1), ("tiny_full_grads_ls01", 0, 0.1)],
)
def test_gradients(file, r, label_smooth):
    golden = load_file(NLG / f"{file}.safetensors")
    model = golden_model(r=r)
    if r:
        for name, p in model.named_parameters():
            p.requires_grad_("lora_" in name)
    loss, grads = gradients(model, label_smooth)
    assert loss == pytest.approx(golden.pop("loss").item(), rel=2e-6)
    assert grads.keys() == golden.keys()
    for name, expected in golden.items():
        relative_to_max(grads[name], expected, 2e-5)


def test_gradients_with_dropout_draw_the_same_stream():
    golden = load_file(NLG / "tiny_lora_grads_dropout01_seed5.safetensors")
    model = golden_model(dropout=0.1)
    for name, p in model.named_parameters():
        p.requires_grad_("lora_" in name)
    torch.manual_seed(5)
    loss, grads = gradients(model, 0.1)
    assert torch.rand(1).item() == golden.pop("next_rand").item()
    assert loss == pytest.approx(golden.pop("loss").item(), rel=2e-6)
    for name, expected in golden.items():
        relative_to_max(grads[name], expected, 2e-5)


@pytest.mark.parametrize("r", [4, 0])
def test_a_seed_gives_the_released_initial_weights(r):
    torch.manual_seed(110)
    model = GPT2LMModel(CONFIG, LoRAConfig(r=r, alpha=32, dropout=0.1))
    assert torch.rand(3).tolist() == INITS[f"lora_dim={r} next_rand"]
    golden, parameters = INITS[f"lora_dim={r}"], dict(model.named_parameters())
    assert list(parameters) == list(golden)
    for name, expected in golden.items():
        value = parameters[name].detach()
        assert list(value.shape) == expected["shape"], name
        assert parameters[name].requires_grad == expected["requires_grad"], name
        digest = hashlib.sha256(value.contiguous().numpy().astype("<f4").tobytes()).hexdigest()
        assert digest == expected["sha256_f32_rowmajor"], name


@pytest.mark.parametrize("card", ["gpt2.sm", "gpt2.md", "gpt2.lg"])
def test_counted_parameters_of_the_model_cards(card):
    with torch.device("meta"):
        model = GPT2LMModel(MODEL_CARDS[card], LoRAConfig(r=4))
    lora = sum(p.numel() for name, p in model.named_parameters() if "lora_" in name)
    assert lora == INITS[card]["lora_params_r4"]
    assert sum(p.numel() for p in model.parameters()) - lora == INITS[card]["params_without_lora"]
