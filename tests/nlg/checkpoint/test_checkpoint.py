"""A LoRA checkpoint knows its base, rank and alpha; loading one never leaves a weight random."""

from __future__ import annotations

import shutil

import pytest
import torch
from gpt2.checkpoint import BaseFile, load_into, recorded_lora, save_full, save_trained
from gpt2.config import GPT2Config, LoRAConfig
from gpt2.model import GPT2LMModel
from gpt2.weights import read_checkpoint

from examples.common.errors import UserError

CONFIG = GPT2Config(vocab_size=13, n_positions=8, n_embd=8, n_layer=2, n_head=2)
LORA = LoRAConfig(r=2, alpha=4, dropout=0.1)


@pytest.fixture
def run(tmp_path):
    """A model trained from ``base.bin``, and the folder of its files."""
    torch.manual_seed(1)
    torch.save(GPT2LMModel(CONFIG).state_dict(), tmp_path / "base.bin")
    model = GPT2LMModel(CONFIG, LORA)
    base = load_into(model, tmp_path / "base.bin")
    with torch.no_grad():
        for layer in model.lora_layers():
            layer.lora_A.normal_()
            layer.lora_B.normal_()
    return model, base, tmp_path


def fresh(lora: LoRAConfig = LORA) -> GPT2LMModel:
    return GPT2LMModel(CONFIG, lora)


def same(a: GPT2LMModel, b: GPT2LMModel) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


def test_a_lora_checkpoint_finds_its_base_by_itself(run):
    model, base, folder = run
    save_trained(folder / "model.7.pt", model, base, step=7)
    loaded = fresh()
    assert load_into(loaded, folder / "model.7.pt", require_lora=True) == base
    assert same(loaded, model)


def test_a_lora_checkpoint_finds_a_base_that_was_moved_with_it(run, tmp_path_factory):
    model, base, folder = run
    save_trained(folder / "model.7.pt", model, base, step=7)
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    for name in ("base.bin", "model.7.pt"):
        shutil.move(folder / name, elsewhere / name)
    loaded = fresh()
    load_into(loaded, elsewhere / "model.7.pt")
    assert same(loaded, model)


def test_a_lora_checkpoint_without_its_base_says_which_file_to_pass(run):
    model, base, folder = run
    save_trained(folder / "model.7.pt", model, base, step=7)
    (folder / "base.bin").rename(folder / "renamed.bin")
    with pytest.raises(
        UserError, match=r"trained on .*base\.bin .*is not there; pass that file with --base_checkpoint"
    ):
        load_into(fresh(), folder / "model.7.pt")
    loaded = fresh()
    load_into(loaded, folder / "model.7.pt", folder / "renamed.bin")
    assert same(loaded, model)


def test_a_base_with_other_bytes_is_not_taken_without_a_word(run, capsys):
    model, base, folder = run
    save_trained(folder / "model.7.pt", model, base, step=7)
    torch.save(GPT2LMModel(CONFIG).state_dict(), folder / "base.bin")
    with pytest.raises(UserError, match="has another sha256; pass that file with --base_checkpoint"):
        load_into(fresh(), folder / "model.7.pt")
    load_into(fresh(), folder / "model.7.pt", folder / "base.bin")
    assert "is not the file that" in capsys.readouterr().err


def test_a_published_adapter_without_a_record_needs_the_base_named(run):
    model, _, folder = run
    tensors = {"module." + k: v for k, v in model.state_dict().items() if ".lora_" in k}
    torch.save({"model_state_dict": tensors}, folder / "published.pt")
    with pytest.raises(UserError, match="does not say on which base; pass the pretrained file with --base_checkpoint"):
        load_into(fresh(), folder / "published.pt")
    loaded = fresh()
    load_into(loaded, folder / "published.pt", folder / "base.bin")
    assert same(loaded, model)


def test_a_complete_checkpoint_has_the_released_keys_and_stores_masks_once(run):
    model, base, folder = run
    save_full(folder / "model.8.pt", model, base, step=8)
    content = torch.load(folder / "model.8.pt", weights_only=True)
    state = content["model_state_dict"]
    first = [k.removeprefix("module.transformer.h.0.") for k in state if ".h.0." in k]
    assert first[:5] == ["ln_1.weight", "ln_1.bias", "attn.bias", "attn.c_attn.weight", "attn.c_attn.bias"]
    assert next(iter(state)) == "module.transformer.wte.weight" and list(state)[-1] == "module.lm_head.decoder.weight"
    assert state["module.transformer.h.1.attn.bias"].shape == (1, 1, 8, 8)
    assert state["module.transformer.h.0.attn.bias"].data_ptr() == state["module.transformer.h.1.attn.bias"].data_ptr()
    loaded = fresh()
    load_into(loaded, folder / "model.8.pt", require_lora=True)
    assert same(loaded, model)


def test_recorded_settings_come_back(run):
    model, base, folder = run
    save_trained(folder / "model.7.pt", model, base, step=7)
    file = read_checkpoint(folder / "model.7.pt")
    assert recorded_lora(file, LoRAConfig()) == LORA
    assert file.record is not None and file.record["step"] == 7
    assert BaseFile(**file.record["base"]) == base


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (LoRAConfig(r=4, alpha=4), "holds LoRA of rank 2, but --lora_dim is 4"),
        (LoRAConfig(), "holds LoRA of rank 2, but --lora_dim is 0"),
        (LoRAConfig(r=2, alpha=128), "was trained with --lora_alpha 4, got 128"),
    ],
)
def test_a_wrong_rank_or_alpha_is_refused(config, message, run):
    model, base, folder = run
    save_trained(folder / "model.7.pt", model, base, step=7)
    with pytest.raises(UserError, match=message):
        load_into(fresh(config), folder / "model.7.pt")


def test_decoding_with_lora_refuses_a_file_without_it(run):
    _, _, folder = run
    with pytest.raises(UserError, match="holds no LoRA weights"):
        load_into(fresh(), folder / "base.bin", require_lora=True)


def test_a_base_beside_a_complete_file_is_refused(run):
    model, base, folder = run
    save_full(folder / "model.8.pt", model, base, step=8)
    with pytest.raises(UserError, match="holds the base weights itself"):
        load_into(fresh(), folder / "model.8.pt", folder / "base.bin")


def test_an_incomplete_adapter_names_what_is_missing(run):
    model, base, folder = run
    save_trained(folder / "model.7.pt", model, base, step=7)
    content = torch.load(folder / "model.7.pt", weights_only=True)
    del content["model_state_dict"]["module.transformer.h.1.attn.c_attn.lora_B"]
    torch.save(content, folder / "model.7.pt")
    with pytest.raises(UserError, match=r"LoRA weights are missing, first 'h\.1\.attn\.c_attn\.lora_B'"):
        load_into(fresh(), folder / "model.7.pt")
