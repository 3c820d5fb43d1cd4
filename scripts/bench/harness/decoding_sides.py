"""Both sides of a comparison of decoding: equal weights, prompts of E2E, our search and transformers' ``generate``."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from generation.decoding_model import DecodingModel
from generation.search import BeamSettings, Hypothesis, Search
from gpt2.config import LoRAConfig
from gpt2.model import GPT2LMModel

from harness.e2e import e2e_token_ids
from harness.peers import SIZES, seeded_model, transformers_gpt2
from harness.rows import Bench

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
QUICK_LENGTH = 24  # tokens of quick runs that never end
SHARPNESS = 12.0  # of the final layer norm: the best token gets about a half of the probability, not 1 / 50257
END_FROM, END_OVER = 50, 40  # position where the end-of-text logit starts to rise, and over how many it rises
END_STRENGTH = 30.0  # beside hidden states of length 100: half of it is enough for an end, near position 70


@dataclass(frozen=True)
class Setting:
    """A model in both forms, ready to decode, and prompts of every length."""

    size: str
    precision: str
    bench: Bench
    prompts: list[tuple[int, ...]]
    search: BeamSettings
    model: GPT2LMModel
    ours: DecodingModel
    theirs: Any

    @classmethod
    def make(cls, size: str, precision: str, prompts: list[tuple[int, ...]], bench: Bench) -> Setting:
        model = ready_model(size, precision, bench.args.device)
        search = BeamSettings(beam=10, eval_len=64, length_penalty=0.8, no_repeat_ngram_size=4)
        theirs = transformers_gpt2(merged(model)).to(bench.args.device).eval()
        return cls(size, precision, bench, prompts, search, model, DecodingModel(model), theirs)

    def some_prompts(self, count: int) -> list[tuple[int, ...]]:
        """``count`` prompts of middle length, as decoding meets them: side by side stand those of near length."""
        ordered = sorted(self.prompts, key=len)
        middle = (len(ordered) - count) // 2
        return ordered[middle : middle + count]

    def far_prompts(self, count: int) -> list[tuple[int, ...]]:
        """``count`` prompts from the shortest to the longest, whose texts end at different times."""
        ordered = sorted(self.prompts, key=len)
        return [ordered[number * (len(ordered) - 1) // (count - 1)] for number in range(count)]

    @property
    def endless(self) -> BeamSettings:
        return never(self.search, self.bench.args.quick)

    def case(self, more: str) -> str:
        return f"{self.size} {self.precision}, beam {self.search.beam}, {more}"


def read_prompts() -> tuple[list[tuple[int, ...]], list[tuple[int, ...]]]:
    """Distinct prompts of the test set, and the prompts of all its rows."""
    lines = (e2e_token_ids().folder / "test.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [tuple(json.loads(line)["context"]) for line in lines]
    return list(dict.fromkeys(rows)), rows


def ready_model(size: str, precision: str, device: str) -> GPT2LMModel:
    model = seeded_model(SIZES[size], LoRAConfig(r=4, alpha=32)).eval()
    make_ends(model)
    return model.to(device, DTYPES[precision])


@torch.no_grad()
def make_ends(model: GPT2LMModel) -> None:
    """Sharpens the predictions, and makes the end of text likelier with every position from ``END_FROM`` on."""
    transformer, eos = model.transformer, model.config.vocab_size - 1
    transformer.ln_f.weight.mul_(SHARPNESS)
    direction = torch.randn(model.config.n_embd, generator=torch.Generator().manual_seed(1))
    direction /= direction.norm()
    positions = torch.arange(model.config.n_positions)
    rise = ((positions - END_FROM) / END_OVER).clamp(0, 1)
    transformer.wpe.weight += END_STRENGTH * rise[:, None] * direction
    transformer.wte.weight[eos] = 0.02 * model.config.n_embd**0.5 * direction  # as long as the other rows


@torch.no_grad()
def merged(model: GPT2LMModel) -> GPT2LMModel:
    """The same function without LoRA, for the other side."""
    plain = GPT2LMModel(model.config, LoRAConfig(r=0))
    state = {key: value for key, value in model.state_dict().items() if "lora_" not in key}
    for number, layer in enumerate(model.lora_layers()):
        state[f"transformer.h.{number}.attn.c_attn.weight"] = layer.merged_weight
    plain.load_state_dict(state)
    return plain.to(next(model.parameters()).device, next(model.parameters()).dtype)


def decode_ours(
    model: DecodingModel, prompts: Sequence[tuple[int, ...]], search: BeamSettings, batch_size: int
) -> tuple[list[Hypothesis], Search]:
    engine = Search(model, prompts, search, batch_size=batch_size)
    found = dict(engine)
    return [found[number] for number in range(len(prompts))], engine


@torch.no_grad()
def decode_theirs(model: Any, prompts: Sequence[tuple[int, ...]], search: BeamSettings) -> list[list[int]]:
    """``generate`` over one batch, padded on the left; tokens without the padding behind the end."""
    width, device = max(map(len, prompts)), model.device
    pad = model.config.vocab_size - 1
    ids = torch.tensor([[pad] * (width - len(prompt)) + list(prompt) for prompt in prompts], device=device)
    seen = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts], device=device)
    # "no end" cannot be said as an argument: None there means the setting of the model
    model.generation_config.eos_token_id = search.eos_token_ids[0] if search.eos_token_ids else None
    out = model.generate(
        ids,
        attention_mask=seen,
        num_beams=search.beam,
        do_sample=False,
        max_new_tokens=search.eval_len,
        length_penalty=search.length_penalty,
        no_repeat_ngram_size=search.no_repeat_ngram_size or None,
        early_stopping=False,
        pad_token_id=pad,
    )
    return [row[width:].tolist() for row in out]


def never(search: BeamSettings, quick: bool) -> BeamSettings:
    """Texts that never end; a quick run breaks them off sooner."""
    return replace(search, eos_token_ids=(), eval_len=QUICK_LENGTH if quick else search.eval_len)
