"""The other implementations: the released loralib under a name of its own, transformers and peft on equal weights."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from gpt2.config import GPT2Config
from gpt2.model import GPT2LMModel
from torch import Tensor

from examples.common.errors import UserError

RELEASED = "loralib==0.1.2"
PEERS = Path(os.environ.get("BENCH_PEERS", Path(__file__).resolve().parents[3] / ".bench-peers"))


def released_loralib() -> ModuleType:
    """The package as published, imported as ``released_loralib`` so that it does not stand in for ours.

    Raises:
        UserError: it is not installed in the folder of the peers.
    """
    name = "released_loralib"
    if name not in sys.modules:
        file = PEERS / "loralib" / "__init__.py"
        if not file.exists():
            raise UserError(
                f"the released package is not in {PEERS}; install it with "
                f"`pip install --no-deps --target {PEERS} {RELEASED}` (bench.sh does)"
            )
        spec = importlib.util.spec_from_file_location(name, file, submodule_search_locations=[str(file.parent)])
        assert spec is not None and spec.loader is not None, file
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        spec.loader.exec_module(module)
    return sys.modules[name]


def transformers_gpt2(model: GPT2LMModel, *, attention: str = "sdpa") -> Any:
    """transformers' ``GPT2LMHeadModel`` with the base weights of our model, without dropout, in its dtype.

    Args:
        attention: ``sdpa`` or ``eager``.
    """
    from transformers import GPT2Config as TheirConfig
    from transformers import GPT2LMHeadModel

    config = model.config
    theirs = TheirConfig(
        vocab_size=config.vocab_size,
        n_positions=config.n_positions,
        n_embd=config.n_embd,
        n_layer=config.n_layer,
        n_head=config.n_head,
        layer_norm_epsilon=config.layer_norm_epsilon,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        bos_token_id=config.vocab_size - 1,
        eos_token_id=config.vocab_size - 1,
    )
    theirs._attn_implementation = attention
    peer: Any = GPT2LMHeadModel(theirs)
    state = {key: value for key, value in model.state_dict().items() if "lora_" not in key}
    state["lm_head.weight"] = state.pop("lm_head.decoder.weight")
    missing, unexpected = peer.load_state_dict(state, strict=False)
    assert not missing and not unexpected, (missing, unexpected)
    return peer.to(next(model.parameters()).dtype)


def with_peft(peer: Any, *, r: int, alpha: int, dropout: float) -> Any:
    """peft's LoRA as usually put on GPT-2: one update of the whole fused projection."""
    from peft import LoraConfig, get_peft_model

    return get_peft_model(
        peer, LoraConfig(r=r, lora_alpha=alpha, lora_dropout=dropout, target_modules=["c_attn"], fan_in_fan_out=True)
    )


def set_peft_like_ours(peft_model: Any, model: GPT2LMModel) -> None:
    """Makes peft's one update of rank 2r equal to our updates of rank r on query and value: stacked A, block B.

    ``with_peft`` must have got rank 2r and twice our alpha, which keeps alpha / r.
    """
    layers = [module for module in peft_model.modules() if hasattr(module, "lora_A") and len(module.lora_A) > 0]
    for theirs, ours in zip(layers, model.lora_layers(), strict=True):
        theirs.lora_A["default"].weight.data.copy_(ours.lora_A.data)
        theirs.lora_B["default"].weight.data.copy_(block_factor(ours.lora_B.data, ours.enable_lora))  # type: ignore[arg-type]


def block_factor(lora_B: Tensor, enable_lora: tuple[bool, ...]) -> Tensor:
    """(out, g*r) factor of the whole projection from our (g*out/n, r): block B of the j-th enabled in its columns."""
    n, g = len(enable_lora), sum(enable_lora)
    block, r = lora_B.size(0) // g, lora_B.size(1)
    whole = lora_B.new_zeros(n * block, g * r)
    for j, i in enumerate(place for place, on in enumerate(enable_lora) if on):
        whole[i * block : (i + 1) * block, j * r : (j + 1) * r] = lora_B[j * block : (j + 1) * block]
    return whole


SIZES = {
    "sm": GPT2Config(n_embd=768, n_layer=12, n_head=12),
    "md": GPT2Config(n_embd=1024, n_layer=24, n_head=16),
    "lg": GPT2Config(n_embd=1280, n_layer=36, n_head=20),
}


def seeded_model(config: GPT2Config, lora: Any, *, seed: int = 0) -> GPT2LMModel:
    """A model with random weights; ``lora_B`` too, so that the update is not zero."""
    torch.manual_seed(seed)
    model = GPT2LMModel(config, lora)
    with torch.no_grad():
        for layer in model.lora_layers():
            if layer.has_lora:
                layer.lora_B.normal_(std=0.02)
    return model
