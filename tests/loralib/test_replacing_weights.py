"""``python -m loralib merge`` of a file with all weights: they replace those of the base, or one line says why not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from loralib.__main__ import main

WTE, LN, HEAD = "transformer.wte.weight", "transformer.h.0.ln_1.weight", "lm_head.weight"


def base_in(folder: Path) -> dict[str, torch.Tensor]:
    """Writes ``base``, a small model with a tied output layer; its tensors."""
    torch.manual_seed(0)
    tensors = {WTE: torch.randn(5, 4), LN: torch.randn(4)}
    (folder / "base").mkdir()
    (folder / "base" / "config.json").write_text(json.dumps({"model_type": "gpt2"}))
    save_file(tensors, folder / "base" / "model.safetensors")
    return tensors


def merge(folder: Path, tensors: dict[str, torch.Tensor]) -> int:
    torch.save(tensors, folder / "tuned.pt")
    return main(["merge", str(folder / "base"), str(folder / "tuned.pt"), "--out", str(folder / "out")])


@pytest.mark.parametrize("form", ["as in the base", "of a wrapper", "without prefix", "with head and mask"])
def test_all_weights_are_replaced_under_the_names_and_in_the_dtype_of_the_base(form, tmp_path):
    tuned = {name: tensor + 1 for name, tensor in base_in(tmp_path).items()}
    given = {name: tensor.double() for name, tensor in tuned.items()}
    if form == "of a wrapper":
        given = {f"module.{name}": tensor for name, tensor in given.items()}
    elif form == "without prefix":
        given = {name.removeprefix("transformer."): tensor for name, tensor in given.items()}
    elif form == "with head and mask":
        given |= {HEAD: given[WTE].clone(), "transformer.h.0.attn.bias": torch.ones(1, 1, 3, 3)}
    assert merge(tmp_path, given) == 0
    found = load_file(tmp_path / "out" / "model.safetensors")
    assert found.keys() == tuned.keys()
    for name, tensor in tuned.items():
        torch.testing.assert_close(found[name], tensor, rtol=0, atol=0)
    assert json.loads((tmp_path / "out" / "config.json").read_text()) == {"model_type": "gpt2"}


REFUSED = {
    "an output layer of its own": ({HEAD: torch.ones(5, 4)}, "lm_head.weight is not the embedding, to which"),
    "an output layer without embedding": ({WTE: None, HEAD: torch.ones(5, 4)}, "lm_head.weight is not the embedding"),
    "a weight too many": ({"transformer.ln_f.weight": torch.ones(4)}, "tuned.pt has transformer.ln_f.weight"),
    "a weight too few": ({LN: None}, f"base has {LN}"),
    "another shape": ({LN: torch.ones(3)}, f"{LN} has shape (3,), in "),
    "transposed": ({WTE: torch.ones(4, 5)}, f"{WTE} has shape (4, 5), in "),
    "NaN": ({LN: torch.full((4,), torch.nan)}, f"{LN} has NaN or infinite values once merged in torch.float32"),
    "too large for the dtype": ({LN: torch.full((4,), 1e300, dtype=torch.double)}, f"{LN} has NaN or infinite values"),
    "one weight twice": ({"wte.weight": torch.ones(5, 4)}, f"has {WTE} twice, once as wte.weight"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_weights_that_are_not_those_of_the_base_are_refused_in_one_line(case, tmp_path, capsys):
    changes, message = REFUSED[case]
    given = {**base_in(tmp_path), **changes}
    before = (tmp_path / "base" / "model.safetensors").read_bytes()
    assert merge(tmp_path, {name: tensor for name, tensor in given.items() if tensor is not None}) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("error: ") and err.count("\n") == 1 and message in err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["base", "tuned.pt"]
    assert (tmp_path / "base" / "model.safetensors").read_bytes() == before


@pytest.mark.parametrize("case", ["quantised by its config", "quantised by its dtype", "no base"])
def test_a_base_that_is_quantised_or_none_is_refused_in_one_line(case, tmp_path, capsys):
    tensors = base_in(tmp_path)
    base = tmp_path / "base"
    if case == "quantised by its config":
        (base / "config.json").write_text(json.dumps({"quantization_config": {"bits": 4}}))
    elif case == "quantised by its dtype":
        save_file({**tensors, WTE: tensors[WTE].to(torch.int8)}, base / "model.safetensors")
    else:
        (base / "config.json").unlink()
    assert merge(tmp_path, tensors) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and ("is no folder of a base model" if case == "no base" else "quantised") in err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["base", "tuned.pt"]
