"""What LoRA adds to a forward pass (paper, Table 1): merged and unmerged, ours, peft's and the released layer.

Every ratio is within one code base: the model with LoRA against the same model without it, on equal weights.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from harness.decoding_sides import DTYPES, merged
from harness.peers import SIZES, released_loralib, seeded_model, set_peft_like_ours, transformers_gpt2, with_peft
from harness.rows import Bench, Row, begin, bench_parser
from harness.timing import ratio, side_by_side

import torch  # isort: skip
from generation.decoding_model import DecodingModel
from gpt2.config import LoRAConfig
from gpt2.model import GPT2LMModel

import loralib
from examples.common.errors import run_main

R, ALPHA = 4, 32  # of the paper's GPT-2 runs
PROMPT = 128  # tokens of the paper's Table 1
CALLS = {PROMPT: 2, 1: 10}  # calls in one measurement


def main() -> None:
    bench = begin("inference", bench_parser(__doc__.splitlines()[0] if __doc__ else None, rounds=15))
    for size in ("sm",) if bench.args.quick else ("sm", "md"):
        for precision in DTYPES:
            models(bench, size, precision)
    layers(bench)
    bench.write()


@torch.no_grad()
def models(bench: Bench, size: str, precision: str) -> None:
    """Forward passes of 1 x 128 tokens, and of one token."""
    device, dtype = bench.args.device, DTYPES[precision]
    model = seeded_model(SIZES[size], LoRAConfig(r=R, alpha=ALPHA)).to(device, dtype).eval()
    folded = seeded_model(SIZES[size], LoRAConfig(r=R, alpha=ALPHA)).to(device, dtype).eval()
    for layer in folded.lora_layers():
        layer.merge()
    base = merged(model).eval()
    theirs = transformers_gpt2(base).to(device).eval()
    # peft: one update of rank 2r, equal to ours on query and value
    peft_model = with_peft(transformers_gpt2(base).to(device), r=2 * R, alpha=2 * ALPHA, dropout=0.0).to(dtype).eval()
    set_peft_like_ours(peft_model, model)
    ids = torch.arange(1, PROMPT + 1, device=device)[None]
    for tokens, what in ((PROMPT, f"forward 1 x {PROMPT}"), (1, "step 1 x 1")):
        case = f"{size} {precision}, {what}"
        ours(bench, case, {"base": base, "again": base, "merged": folded, "unmerged": model}, ids, tokens)
        peers(bench, case, theirs, peft_model, ids, tokens)
    step_of_the_search(bench, f"{size} {precision}, step 1 x 1", base)


def ours(bench: Bench, case: str, sides: dict[str, GPT2LMModel], ids: torch.Tensor, tokens: int) -> None:
    """Our model with LoRA in both forms, against itself without."""

    def forward(model: GPT2LMModel) -> object:
        return model(ids[:, :tokens])

    times = side_by_side(
        {name: partial(forward, model) for name, model in sides.items()},
        rounds=bench.args.rounds,
        device=bench.args.device,
        calls=CALLS[tokens],
    )
    bench.add(Row(case, "time, ours without LoRA / itself (noise)", ratio(times, "again", "base")))
    bench.add(Row(case, "time, ours merged / ours without LoRA", ratio(times, "merged", "base"), "<= 1.03"))
    target = "<= 1.10" if tokens == 1 else ""
    bench.add(Row(case, "time, ours unmerged / ours without LoRA", ratio(times, "unmerged", "base"), target))


def peers(bench: Bench, case: str, theirs: Any, peft_model: Any, ids: torch.Tensor, tokens: int) -> None:
    """peft on transformers' GPT-2, against transformers' GPT-2."""

    def forward(model: Any) -> object:
        return model(input_ids=ids[:, :tokens])

    for name in ("unmerged", "merged"):
        if name == "merged":
            peft_model.merge_adapter()
        times = side_by_side(
            {"base": lambda: forward(theirs), "peft": lambda: forward(peft_model)},
            rounds=bench.args.rounds,
            device=bench.args.device,
            calls=CALLS[tokens],
        )
        bench.add(Row(case, f"time, peft {name} / transformers without LoRA", ratio(times, "peft", "base")))
    peft_model.unmerge_adapter()


def step_of_the_search(bench: Bench, case: str, base: GPT2LMModel) -> None:
    """The weights as our beam search packs them; logits included on both sides."""
    decoder = DecodingModel(base)
    device = decoder.wte.device
    token, position = (
        torch.ones(1, 1, dtype=torch.int64, device=device),
        torch.zeros(1, dtype=torch.int64, device=device),
    )
    alone = [lambda qkv: qkv[:, :, 2]] * base.config.n_layer  # a token that sees itself takes its own value
    times = side_by_side(
        {
            "base": lambda: base(token),
            "packed": lambda: decoder.logits(decoder.hidden(token, position, alone)),
        },
        rounds=bench.args.rounds,
        device=device,
        calls=CALLS[1],
    )
    bench.add(Row(case, "time, weights packed for decoding / as stored", ratio(times, "packed", "base")))


@torch.no_grad()
def layers(bench: Bench) -> None:
    """The fused projection alone, ours and as released, which multiplies by a dense update."""
    released = released_loralib()
    device, width = bench.args.device, 768
    for tokens in (PROMPT, 1):
        x = torch.randn(1, tokens, width, device=device)
        plain = torch.nn.Linear(width, 3 * width).to(device)
        options: dict[str, Any] = {
            "r": R,
            "lora_alpha": ALPHA,
            "enable_lora": [True, False, True],
            "fan_in_fan_out": True,
        }
        makers = {"ours": loralib.MergedLinear, "released": released.MergedLinear}
        made = {name: make(width, 3 * width, **options).to(device) for name, make in makers.items()}
        sides: dict[str, Callable[[], object]] = {"plain": partial(plain, x)}
        sides |= {name: partial(layer, x) for name, layer in made.items()}
        calls = 50 if tokens > 1 else 300
        case = f"fused projection {width} -> {3 * width} fp32, {tokens} x {width}"
        for state in ("unmerged", "merged"):
            for layer in made.values():
                layer.train(state == "unmerged")
            times = side_by_side(sides, rounds=bench.args.rounds, device=device, calls=calls)
            for name in made:
                bench.add(Row(case, f"time, {name} {state} / nn.Linear", ratio(times, name, "plain")))


if __name__ == "__main__":
    run_main(main)
