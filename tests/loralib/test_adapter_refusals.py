"""What does not fit is refused by name, when saving as when loading, and nothing is changed."""

from __future__ import annotations

import sys

import pytest
import torch
from torch import nn

import loralib
from tests.loralib.models import filled, net
from tests.loralib.test_adapter_folder import (
    FUSED,
    TARGETS,
    adapted,
    changed,
    refuse_load,
    rewritten,
    same_adapter,
    saved,
)

# --- saving ----------------------------------------------------------------------------------------------------------


def test_refusals_when_saving_leave_no_file(tmp_path):
    def refuse(message, model, **kwargs):
        with pytest.raises(ValueError, match=message):
            loralib.save_adapter(model, tmp_path / "folder", **kwargs)
        assert not (tmp_path / "folder").exists()

    refuse("the model has no LoRA layer with factors", net())
    refuse("^conv is a convolution, for whose reshaped", loralib.apply_lora(net(), ["query", "conv"], 2, 4))
    refuse("h.0.query.bias, h.0.c_attn.bias, .* would be trained but not saved", adapted(bias="lora_only"))
    refuse("modules_to_save 'clasifier' matches no module; did you mean cl", adapted(), modules_to_save=["clasifier"])
    refuse(r"^h contains LoRA layers \(h.0.query, .*cannot be saved as a", adapted(), modules_to_save=["h"])
    with torch.device("meta"):
        refuse("^wte has its factors on the meta device", loralib.apply_lora(net(), TARGETS, 2, 4))
    with pytest.raises(NotImplementedError, match="unknown bias mode"):
        loralib.save_adapter(adapted(), tmp_path, bias="some")


# --- loading ---------------------------------------------------------------------------------------------------------


def drop(key):
    return lambda folder: rewritten(folder, lambda tensors: tensors.pop(f"base_model.model.{key}"))


def put(key, *shape):
    return lambda folder: rewritten(folder, lambda t: t.update({f"base_model.model.{key}": torch.ones(shape)}))


def cut(name):
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:20])


MISFITS = {
    "missing factor": (drop("h.1.query.lora_B.weight"), "missing in the file: base_model.model.h.1.query.lora_B.wei"),
    "missing layer": (drop("wte.lora_embedding_A"), "missing in the file: base_model.model.wte.lora_embedding_A"),
    "missing head": (drop("classifier.2.bias"), "missing in the file: base_model.model.classifier.2.bias; unexpected"),
    "unknown key": (put("h.0.ln.gain", 1), "missing in the file: nothing; unexpected .*: base_model.model.h.0.ln.gain"),
    "dora": (put("h.0.query.lora_magnitude_vector", 6), "unexpected in the file: .*lora_magnitude_vector"),
    "rank in file": (
        put("h.0.query.lora_A.weight", 3, 6),
        r"h.0.query.lora_A.weight is torch.float32 \(3, 6\), expected .* rank 2",
    ),
    "shape in file": (
        put("h.0.query.lora_A.weight", 2, 5),
        r"h.0.query: lora_A has shape \(2, 5\) .*, expected \(2, 6",
    ),
    "head's shape": (
        put("classifier.2.bias", 3),
        r"classifier.2.bias is torch.float32 \(3,\) in the file, but torch.float32 \(2,\) in the",
    ),
    "feature": (
        lambda folder: changed(folder, use_dora=True),
        r"adapter_config.json: uses use_dora, which these",
    ),
    "init": (
        lambda folder: changed(folder, init_lora_weights="pissa_niter_4"),
        "uses init_lora_weights='pissa_niter_4'",
    ),
    "kind": (
        lambda folder: changed(folder, peft_type="IA3"),
        "adapter_config.json: peft_type is 'IA3', expected",
    ),
    "cut config": (cut("adapter_config.json"), "adapter_config.json: Unterminated|adapter_config.json: Expecting"),
    "cut tensors": (cut("adapter_model.safetensors"), "adapter_model.safetensors is no safetensors file"),
}


@pytest.mark.slow
@pytest.mark.parametrize("adapt", [True, False])
@pytest.mark.parametrize("case", MISFITS)
def test_a_file_that_does_not_fit_is_refused_and_the_model_is_untouched(tmp_path, case, adapt):
    damage, message = MISFITS[case]
    damage(saved(tmp_path, adapted(trainable="classifier")))
    model = filled(adapted(), seed=9) if adapt else net()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    grads = [parameter.requires_grad for parameter in model.parameters()]
    with pytest.raises(ValueError, match=message):
        loralib.load_adapter(model, tmp_path)
    after = model.state_dict()
    assert list(after) == list(before) and all(torch.equal(after[key], before[key]) for key in before)
    assert [parameter.requires_grad for parameter in model.parameters()] == grads


def test_another_rank_alpha_or_set_of_layers_is_refused(tmp_path):
    saved(tmp_path)
    model = adapted(alpha_pattern={"h.1.query": 16})
    refuse_load(model, tmp_path, r"h.1.query: alpha is 4 in the file, but 16 in the model")
    model = adapted(rank_pattern={"h.1.c_attn": 4})
    refuse_load(model, tmp_path, r"h.1.c_attn: rank is 4 in the file, but 8 in the model")
    refuse_load(loralib.apply_lora(net(), "query", 2, 4), tmp_path, "unexpected in the file: .*c_attn.lora_A")
    more = loralib.apply_lora(net(), [*TARGETS, "myquery"], 2, 4, enable_lora=FUSED)
    refuse_load(more, tmp_path, "missing in the file: base_model.model.h.0.myquery.lora_A.weight")
    refuse_load(nn.ModuleDict({"wte": nn.Embedding(11, 6)}), tmp_path, "the model has no modules h.0.c_attn, h.0.query")


def test_a_lora_on_the_whole_projection_does_not_go_into_blocks(tmp_path):
    whole = filled(loralib.apply_lora(net(), "c_attn", 4, 8))
    model = loralib.apply_lora(net(), "c_attn", 2, 4, enable_lora=[True, False, True])
    refuse_load(model, saved(tmp_path, whole), "^.*h.0.c_attn: lora_B is not zero outside the blocks of enable_lora=")
    assert same_adapter(loralib.load_adapter(net(), tmp_path), whole)


def test_a_model_without_memory_is_refused(tmp_path):
    saved(tmp_path)
    with torch.device("meta"):
        refuse_load(net(), tmp_path, "h.0.c_attn: is on the meta device, where it cannot take values; load the base")


def test_absent_files_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"adapter_config.json is missing; an adapter folder has"):
        loralib.load_adapter(net(), tmp_path)
    (saved(tmp_path) / "adapter_model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"has neither adapter_model.safetensors nor adapter_model.bin"):
        loralib.load_adapter(net(), tmp_path)
    (tmp_path / "adapter_model.bin").write_bytes(b"no tensors")
    refuse_load(net(), tmp_path, "adapter_model.bin is no file of tensors")


def test_a_missing_safetensors_package_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "safetensors", None)
    monkeypatch.setitem(sys.modules, "safetensors.torch", None)
    with pytest.raises(ImportError, match="need the package safetensors: pip install safetensors"):
        loralib.save_adapter(adapted(), tmp_path / "folder")
    assert not (tmp_path / "folder").exists()
