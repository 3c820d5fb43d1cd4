"""A batch whose rows have different adapters: one pass over all rows, the adapters one after another, and peft's way.

Rank-8 LoRA on the fused projections of GPT-2 small, in one of them alone and in a few blocks, forward only. The rows
are dealt out in turn. One after another means what one does without mixed batches: activate an adapter, compute its
rows, go on with the next, and put the rows back in order. The bound is the base model without any adapter.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import harness  # noqa: F401  (first: it makes the other folders importable)
import torch
from harness.peers import SIZES
from harness.rows import Bench, Row, begin, bench_parser, exact
from harness.timing import ratio, side_by_side
from torch import Tensor, nn

import loralib
from examples.common.errors import run_main

ROWS, R, ALPHA = 32, 8, 16
STEPS = 16  # of one position each: a short generation, without its cache of keys and values
N_ADAPTERS = (2, 8, 32)


@dataclass(frozen=True)
class Sides:
    """The same base weights and adapters twice: in our bank, and in peft's model.

    Attributes:
        inputs: what both take, one row for each of the batch.
        steps: forward passes that belong together, as those of a generation: a block is opened, and an adapter
            activated, once for all of them.
    """

    bank: loralib.Adapters
    peer: Any
    inputs: Tensor
    steps: int

    def run(self, model: nn.Module, inputs: Tensor, **kwargs: Any) -> Tensor:
        for _ in range(self.steps):
            returned = model(inputs, **kwargs)
        return returned if isinstance(returned, Tensor) else returned.last_hidden_state

    def one_pass(self, names: list[str]) -> Tensor:
        with self.bank.rows(names):
            return self.run(self.bank.model, self.inputs)

    def one_after_another(self, names: list[str]) -> Tensor:
        order, parts = [], []
        for adapter in dict.fromkeys(names):
            rows = [i for i, name in enumerate(names) if name == adapter]
            self.bank.activate(adapter)
            parts.append(self.run(self.bank.model, self.inputs[rows]))
            order += rows
        self.bank.activate(None)
        return torch.cat(parts)[torch.tensor(order).argsort()]

    def peft(self, names: list[str]) -> Tensor:
        return self.run(self.peer, self.inputs, adapter_names=names)

    def base(self) -> Tensor:
        return self.run(self.bank.model, self.inputs)


def sides(make: Callable[[], nn.Module], inputs: Tensor, steps: int, device: str) -> Sides:
    """Two models of equal weights with ``max(N_ADAPTERS)`` adapters each, whose factors are random and equal."""
    from peft import LoraConfig, get_peft_model

    model, copy = make(), make()
    copy.load_state_dict(model.state_dict())
    config = LoraConfig(r=R, lora_alpha=ALPHA, target_modules=["c_attn"], fan_in_fan_out=True)
    bank = loralib.Adapters(model.eval().to(device))
    peer: Any = get_peft_model(copy, config, adapter_name="0")
    for name in map(str, range(max(N_ADAPTERS))):
        bank.add(name, targets="c_attn", r=R, alpha=ALPHA)
        bank.activate(name)
        if name != "0":
            peer.add_adapter(name, config)
        theirs = [module for module in peer.modules() if hasattr(module, "lora_A") and name in module.lora_A]
        ours = [module for module in model.modules() if isinstance(module, loralib.Linear)]
        for mine, other in zip(ours, theirs, strict=True):
            for factor in ("lora_A", "lora_B"):
                nn.init.normal_(getattr(mine, factor), std=0.02)
                getattr(other, factor)[name].weight.data.copy_(getattr(mine, factor).data)
    bank.activate(None)
    return Sides(bank, peer.to(device).eval(), inputs.to(device), steps)


@torch.no_grad()
def measure(bench: Bench, case: str, both: Sides) -> None:
    """Rows for each number of adapters: against one after another, peft and the base; and whether outputs agree."""
    for n in N_ADAPTERS:
        names = [str(i % n) for i in range(ROWS)]
        alternatives: dict[str, Callable[[], Tensor]] = {
            "one pass": partial(both.one_pass, names),
            "one after another": partial(both.one_after_another, names),
            "peft": partial(both.peft, names),
            "base": both.base,
        }
        times = side_by_side(
            alternatives, rounds=bench.args.rounds, device=bench.args.device, cpu_time=bench.args.cpu_time
        )
        note = ", ".join(f"{name} {1e3 * statistics.median(seconds):.2f} ms" for name, seconds in times.items())
        where = f"{case}, {n} adapters"
        for one, other in (("one after another", "one pass"), ("peft", "one pass"), ("one pass", "base")):
            found = ratio(times, one, other)
            bench.add(Row(where, f"time, {one} / {other}", found, note))
        expected = alternatives["one after another"]()
        for name in ("one pass", "peft"):
            difference = ((alternatives[name]() - expected).abs().max() / expected.abs().max()).item()
            bench.add(Row(where, f"largest relative difference, {name}", exact(difference)))


class OneLayer(nn.Module):
    """The projection to query, key and value of GPT-2 small, as transformers stores it, in a module that names it."""

    def __init__(self) -> None:
        from transformers.pytorch_utils import Conv1D

        super().__init__()
        width = SIZES["sm"].n_embd
        self.c_attn = Conv1D(3 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, C) -> (B, T, 3C)."""
        return self.c_attn(x)


def gpt2(n_layer: int) -> nn.Module:
    """transformers' GPT-2 of small's width without a head, its weights random."""
    from transformers import GPT2Config, GPT2Model

    config = SIZES["sm"]
    return GPT2Model(GPT2Config(n_layer=n_layer, n_embd=config.n_embd, n_head=config.n_head))


def build_parser() -> argparse.ArgumentParser:
    """Flags of this program."""
    parser = bench_parser(__doc__, rounds=5)
    parser.add_argument("--cpu_time", action="store_true", help="seconds of CPU instead of the clock: a busy machine")
    return parser


def main() -> None:
    """Measures everything and writes the rows."""
    bench = begin("adapters", build_parser())
    quick, device = bench.args.quick, bench.args.device
    n_layer = 1 if quick else 4  # of 12: all blocks cost the same
    width, vocabulary = SIZES["sm"].n_embd, SIZES["sm"].vocab_size
    for T, steps in ((1, STEPS), (64, 1)):
        shape = f"{ROWS}x{T}" + (f", {steps} steps" if steps > 1 else "")
        measure(bench, f"q-k-v layer, {shape}", sides(OneLayer, torch.randn(ROWS, T, width), steps, device))
        ids = torch.randint(vocabulary, (ROWS, T))
        measure(bench, f"GPT-2 sm of {n_layer} blocks, {shape}", sides(partial(gpt2, n_layer), ids, steps, device))
    bench.write()


if __name__ == "__main__":
    run_main(main)
