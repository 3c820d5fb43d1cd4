"""Every layout in which GPT-2 weights were published is read, and what cannot be used is refused in one line."""

from __future__ import annotations

import os
import pickle

import pytest
import torch
from gpt2.checkpoint import load_into
from gpt2.config import GPT2Config, LoRAConfig
from gpt2.model import GPT2LMModel
from gpt2.weights import read_checkpoint
from safetensors.torch import save_file

from examples.common.errors import UserError

CONFIG = GPT2Config(vocab_size=13, n_positions=8, n_embd=8, n_layer=2, n_head=2)
LORA = LoRAConfig(r=2, alpha=4)


@pytest.fixture
def trained() -> GPT2LMModel:
    """A model whose every weight differs from any fresh one."""
    torch.manual_seed(1)
    model = GPT2LMModel(CONFIG, LORA)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_()
    return model


def plain(model: GPT2LMModel) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().clone() for name, tensor in model.transformer.named_parameters()}


def short_suffixes(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Names as in checkpoints ported from TensorFlow: ``.g`` and ``.b`` for norms, ``.w`` and ``.b`` elsewhere."""
    renamed = {}
    for name, tensor in tensors.items():
        if name.endswith(".weight"):
            short = ".g" if "ln_" in name else ".w"
            name = name[: -len(".weight")] + short
        elif name.endswith(".bias"):
            name = name[: -len(".bias")] + ".b"
        renamed[name] = tensor
    return renamed


def prefixed(prefix: str):
    return lambda tensors: {prefix + name: tensor for name, tensor in tensors.items()}


def with_head_and_masks(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    masks = {f"h.{i}.attn.bias": torch.ones(8, 8).tril().view(1, 1, 8, 8) for i in range(2)}
    return {"lm_head.weight": tensors["wte.weight"], **tensors, **masks}


STYLES = {
    "first Hugging Face files": dict,
    "through DDP": prefixed("module.transformer."),
    "Hugging Face save_pretrained": prefixed("transformer."),
    "module only": prefixed("module."),
    "ported from TensorFlow": short_suffixes,
    "wrapped": lambda tensors: {"model_state_dict": tensors},
    "wrapped as state_dict": lambda tensors: {"state_dict": tensors},
    "wrapped, through DDP": lambda tensors: {"model_state_dict": prefixed("module.transformer.")(tensors)},
    "with head and causal masks": with_head_and_masks,
}


@pytest.mark.parametrize("style", STYLES)
def test_every_key_style_loads_every_weight(style, trained, tmp_path):
    path = tmp_path / "weights.bin"
    torch.save(STYLES[style](plain(trained)), path)
    model = GPT2LMModel(CONFIG, LORA)
    load_into(model, path)
    for name, tensor in plain(trained).items():
        assert torch.equal(dict(model.transformer.named_parameters())[name], tensor), name
    assert model.lm_head.decoder.weight is model.transformer.wte.weight


@pytest.mark.parametrize("prefix", ["", "transformer."])
def test_safetensors_and_pre_2020_files_load(prefix, trained, tmp_path):
    tensors = prefixed(prefix)(plain(trained))
    save_file(tensors, tmp_path / "model.safetensors")
    torch.save(tensors, tmp_path / "old.bin", _use_new_zipfile_serialization=False)
    for name in ("model.safetensors", "old.bin"):
        model = GPT2LMModel(CONFIG, LORA)
        load_into(model, tmp_path / name)
        assert all(torch.equal(a, b) for a, b in zip(plain(model).values(), plain(trained).values()))


def test_half_precision_files_load_as_float32(trained, tmp_path):
    torch.save({name: tensor.half() for name, tensor in plain(trained).items()}, tmp_path / "half.bin")
    model = GPT2LMModel(CONFIG, LORA)
    load_into(model, tmp_path / "half.bin")
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert torch.equal(model.transformer.wpe.weight, trained.transformer.wpe.weight.half().float())


def test_adapters_of_the_2021_snapshot_become_lora_A_and_lora_B(trained, tmp_path):
    tensors = plain(trained)
    for i in range(CONFIG.n_layer):
        A, B = (tensors.pop(f"h.{i}.attn.c_attn.lora_{factor}") for factor in "AB")
        for j, letter in enumerate("qv"):
            tensors[f"h.{i}.attn.{letter}_proj_adapter1.weight"] = A.chunk(2)[j].clone()
            tensors[f"h.{i}.attn.{letter}_proj_adapter2.weight"] = B.chunk(2)[j].clone()
    torch.save({"model_state_dict": prefixed("module.transformer.")(tensors)}, tmp_path / "snapshot.pt")
    model = GPT2LMModel(CONFIG, LORA)
    load_into(model, tmp_path / "snapshot.pt")
    assert all(torch.equal(a, b) for a, b in zip(plain(model).values(), plain(trained).values()))


def test_pretrained_weights_leave_fresh_lora_in_place(trained, tmp_path):
    torch.save({k: v for k, v in plain(trained).items() if ".lora_" not in k}, tmp_path / "base.bin")
    model = GPT2LMModel(CONFIG, LORA)
    before = model.lora_layers()[0].lora_A.clone()
    load_into(model, tmp_path / "base.bin")
    assert torch.equal(model.lora_layers()[0].lora_A, before)


@pytest.mark.parametrize("missing", ["wte.weight", "h.1.mlp.c_fc.bias", "ln_f.weight"])
def test_a_missing_base_weight_is_an_error_that_names_it(missing, trained, tmp_path):
    tensors = plain(trained)
    del tensors[missing]
    torch.save(tensors, tmp_path / "part.bin")
    with pytest.raises(UserError, match=f"1 of .* weights are missing, first '{missing}'"):
        load_into(GPT2LMModel(CONFIG, LORA), tmp_path / "part.bin")


def test_a_wrong_model_card_is_an_error_that_names_the_shape(trained, tmp_path):
    torch.save(plain(trained), tmp_path / "w.bin")
    wider = GPT2Config(vocab_size=13, n_positions=8, n_embd=16, n_layer=2, n_head=2)
    with pytest.raises(UserError, match=r"wte.weight has shape \(13, 8\), the model expects \(13, 16\); check --model"):
        load_into(GPT2LMModel(wider, LORA), tmp_path / "w.bin")
    shallower = GPT2Config(vocab_size=13, n_positions=8, n_embd=8, n_layer=1, n_head=2)
    with pytest.raises(UserError, match=r"the model has no 'h\.1\."):
        load_into(GPT2LMModel(shallower, LORA), tmp_path / "w.bin")


def test_foreign_tensors_beside_the_model_are_named_and_left_aside(trained, tmp_path, capsys):
    torch.save({**plain(trained), "value_head.weight": torch.zeros(1)}, tmp_path / "extra.bin")
    load_into(GPT2LMModel(CONFIG, LORA), tmp_path / "extra.bin")
    assert "1 tensors are not part of GPT-2 and were left aside, first 'value_head.weight'" in capsys.readouterr().err


def test_an_untied_head_is_refused(trained, tmp_path):
    torch.save({**plain(trained), "lm_head.weight": torch.zeros(13, 8)}, tmp_path / "untied.bin")
    with pytest.raises(UserError, match=r"lm_head\.weight differs from wte\.weight"):
        read_checkpoint(tmp_path / "untied.bin")


class Harmful:
    def __reduce__(self):
        return (os.system, ("touch harmed",))


def test_code_in_a_checkpoint_is_refused_and_not_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"model_state_dict": Harmful()}, "harmful.pt")
    (tmp_path / "plain.pt").write_bytes(pickle.dumps(Harmful(), protocol=2))
    for name in ("harmful.pt", "plain.pt"):
        with pytest.raises(UserError, match="pickled objects and code are refused"):
            read_checkpoint(name)
    assert not (tmp_path / "harmed").exists()


def test_broken_files_are_refused_by_name(trained, tmp_path):
    torch.save(plain(trained), tmp_path / "whole.pt")
    save_file(plain(trained), tmp_path / "whole.safetensors")
    for kind in ("pt", "safetensors"):
        content = (tmp_path / f"whole.{kind}").read_bytes()
        for size in (0, 10, len(content) // 2, len(content) - 1):
            broken = tmp_path / f"broken.{kind}"
            broken.write_bytes(content[:size])
            with pytest.raises(UserError, match=rf"broken\.{kind} is (truncated|not a complete safetensors file)"):
                read_checkpoint(broken)


@pytest.mark.parametrize(
    ("content", "message"), [(torch.zeros(3), "state dict"), ({"a": 1}, "state dict"), ({}, "state dict")]
)
def test_files_without_a_state_dict_are_refused(content, message, tmp_path):
    torch.save(content, tmp_path / "x.pt")
    with pytest.raises(UserError, match=message):
        read_checkpoint(tmp_path / "x.pt")


def test_a_missing_file_and_a_folder_are_told_apart(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        read_checkpoint(tmp_path / "none.pt")
    with pytest.raises(UserError, match="is a folder"):
        read_checkpoint(tmp_path)
