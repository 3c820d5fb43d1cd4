"""Layers with LoRA against the frozen layer, which bounds them, and against the other implementations.

Forward and backward pass of GPT-2's fused projection with updates of query and value, and of RoBERTa's query, with
random numbers. The frozen layer computes its output and the gradient of its input: what no LoRA layer can do without.
The overhead of a call is that of a layer so small that nothing else counts, beside LoRA in ten plain lines.
"""

from __future__ import annotations

import argparse
import statistics
from dataclasses import replace

import harness  # noqa: F401  (first: it makes the other folders importable)
import torch
from harness.costs import MIB, counted_flops, saved_bytes
from harness.lora_layers import IMPLEMENTATIONS, Case, build, passes, tensors
from harness.rows import Bench, Row, begin, bench_parser, exact
from harness.timing import ratio, side_by_side

from examples.common.errors import run_main

WORDS = {
    "frozen": "frozen nn.Linear",
    "ours": "ours",
    "plain": "ten plain lines",
    "released": "released loralib",
    "peft": "peft",
    "full": "full fine-tuning",
}
E2E_SHAPE = (8, 76)  # a batch of 8 cut to its longest example, as examples/NLG trains on E2E

HEADLINE = Case("sm", (8, 512), 4, 0.1)


def time_of(bench: Bench, case: Case) -> None:
    """A row for each implementation: its time over the frozen layer's, and over ours."""
    device = bench.args.device
    x, dy = tensors(case, device)
    times = side_by_side(
        {name: passes(build(case, name, device), x, dy) for name in IMPLEMENTATIONS},
        rounds=bench.args.rounds,
        device=device,
        calls=max(1, 2048 // case.rows),  # some 50 ms
        cpu_time=bench.args.cpu_time,
    )
    for name in IMPLEMENTATIONS[1:]:
        note = f"{1000 * statistics.median(times[name]):.1f} ms"
        bench.add(Row(str(case), f"time, {WORDS[name]} / frozen nn.Linear", ratio(times, name, "frozen"), note))
        if name in ("released", "peft"):
            shown = f"layer (query, key, value), r {case.r}, dropout {case.dropout:g}" if case == HEADLINE else ""
            bench.add(Row(str(case), f"time, {WORDS[name]} / ours", ratio(times, name, "ours"), headline=shown))


def overhead_of(bench: Bench, case: Case) -> None:
    """A row for the time of a call of ours over one of ten plain lines."""
    x, dy = tensors(case, bench.args.device)
    times = side_by_side(
        {name: passes(build(case, name, bench.args.device), x, dy) for name in ("ours", "plain")},
        rounds=bench.args.rounds,
        device=bench.args.device,
        calls=1000,
        cpu_time=bench.args.cpu_time,
    )
    note = f"{1e6 * statistics.median(times['ours']):.0f} us"
    bench.add(Row(str(case), "time of a call, ours / ten plain lines", ratio(times, "ours", "plain"), note))


def counts_of(bench: Bench, case: Case) -> None:
    """Rows for FLOPs and for bytes kept for the backward pass; both are the same on every machine of a kind."""
    device = bench.args.device
    x, dy = tensors(case, device)
    for name in IMPLEMENTATIONS:
        layer = build(case, name, device)
        units = counted_flops(passes(layer, x, dy)) / case.unit
        bench.add(Row(str(case), f"FLOPs / (rows * in * out), {WORDS[name]}", exact(units)))
        kept = saved_bytes(lambda layer=layer: layer(x), layer.parameters())  # type: ignore[misc]
        size = exact(kept / (x.numel() * x.element_size()))
        bench.add(Row(str(case), f"kept for backward / size of x, {WORDS[name]}", size, f"{kept / MIB:.1f} MiB"))


def equality_of(bench: Bench, case: Case) -> None:
    """A row for the largest difference of output and gradients from the released layer's, with its dropout mask."""
    device, results = bench.args.device, []
    x, dy = tensors(case, device)
    for name in ("ours", "released"):
        layer = build(case, name, device)
        run = passes(layer, x, dy)
        torch.manual_seed(3)
        results.append(run())
    differences = [
        ((ours - theirs).abs().max() / theirs.abs().max()).item() for ours, theirs in zip(*results, strict=True)
    ]
    parts = ", ".join(f"{part} {size:.0e}" for part, size in zip(("y", "dx", "dA", "dB"), differences, strict=True))
    bench.add(Row(str(case), "largest relative difference, ours and released", exact(max(differences)), parts))


def build_parser() -> argparse.ArgumentParser:
    """Flags of this program."""
    parser = bench_parser(__doc__, rounds=5)
    parser.add_argument("--cpu_time", action="store_true", help="seconds of CPU instead of the clock: a busy machine")
    return parser


def main() -> None:
    """Measures everything and writes the rows."""
    bench = begin("layers", build_parser())
    cases = [HEADLINE, replace(HEADLINE, dropout=0.0), replace(HEADLINE, shape=E2E_SHAPE)]
    if not bench.args.quick:
        cases += [replace(case, r=r) for case in cases for r in (16, 64)]
        cases += [replace(case, precision="bf16") for case in cases]
        cases += [Case("roberta", (16, 128), 8, p) for p in (0.0, 0.1)]
    for case in cases:
        time_of(bench, case)
    for dropout in (0.0, 0.1):
        overhead_of(bench, Case("call", (1, 1), 4, dropout))
        counts_of(bench, Case("sm", (8, 128), 4, dropout))
        equality_of(bench, Case("sm", (8, 128), 4, dropout))
    bench.write()


if __name__ == "__main__":
    run_main(main)
