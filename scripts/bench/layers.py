"""Layers with LoRA against the frozen layer, which bounds them, and against the other implementations.

Forward and backward pass of GPT-2's fused projection with updates of query and value, and of RoBERTa's query, with
random numbers. The frozen layer computes its output and the gradient of its input: what no LoRA layer can do without.
The overhead of a call is that of a layer so small that nothing else counts, beside LoRA in ten plain lines.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from dataclasses import replace
from functools import cache

import harness  # noqa: F401  (first: it makes the other folders importable)
import torch
from harness.costs import MIB, counted_flops, matmul_flops_per_second, peak_bytes, saved_bytes
from harness.lora_layers import DTYPES, IMPLEMENTATIONS, Case, build, load_peft, passes, run_passes, tensors
from harness.rows import Bench, Row, begin, bench_parser, exact
from harness.timing import Times, ratio, side_by_side

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

# --- what is measured ------------------------------------------------------------------------------------------------


def time_of(
    bench: Bench, case: Case, names: tuple[str, ...] = IMPLEMENTATIONS, *, axis: tuple[str, float] | None = None
) -> None:
    """A row for each implementation: its time over the frozen layer's."""
    device = bench.args.device
    has_target = axis is None and case.precision == "fp32" and case.fused and case.r == 4
    x, dy = tensors(case, device)
    times = side_by_side(
        {name: passes(build(case, name, device), x, dy) for name in names},
        rounds=bench.args.rounds,
        device=device,
        calls=max(1, 2048 // case.rows),  # some 50 ms
        cpu_time=bench.args.cpu_time,
    )
    for name in names[1:]:
        bench.add(
            Row(
                case=str(case),
                quantity=f"time, {WORDS[name]} / frozen nn.Linear",
                ratio=ratio(times, name, "frozen"),
                target="<= 1.3" if name == "ours" and has_target else "",
                note=_absolute(bench, case, times, name),
                axis=axis,
            )
        )
        if axis is None and name in ("released", "peft"):
            shown = f"q-k-v layer, r {case.r}, dropout {case.dropout:g}" if case == HEADLINE else ""
            quantity = f"time, {WORDS[name]} / ours"
            bench.add(Row(str(case), quantity, ratio(times, name, "ours"), headline=shown))


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
    bench.add(Row(str(case), "time of a call, ours / ten plain lines", ratio(times, "ours", "plain"), "<= 1.0", note))


def _absolute(bench: Bench, case: Case, times: Times, name: str) -> str:
    seconds, bound = (statistics.median(times[key]) for key in (name, "frozen"))
    note = f"{1000 * seconds:.1f} ms; frozen {1000 * bound:.1f} ms"
    if bench.args.cpu_time:  # which has no rate of the clock to be compared with
        return note
    rate = 4 * case.unit / bound / peak_rate(case.precision, bench.args.device)
    return f"{note}, {100 * rate:.0f} % of the rate of matrix products"


@cache
def peak_rate(precision: str, device: str) -> float:
    """FLOP/s of square matrix products with the threads of this run."""
    return matmul_flops_per_second(DTYPES[precision], device, seconds=0.5)


def counts_of(bench: Bench, case: Case, names: tuple[str, ...] = IMPLEMENTATIONS) -> None:
    """Rows for FLOPs and for bytes kept for the backward pass; both are the same on every machine of a kind."""
    device = bench.args.device
    x, dy = tensors(case, device)
    for name in names:
        layer = build(case, name, device)
        units = counted_flops(passes(layer, x, dy)) / case.unit
        bench.add(
            Row(
                str(case),
                f"FLOPs / (rows * in * out), {WORDS[name]}",
                exact(units),
                target="<= 4.05" if name == "ours" and case.fused and case.r == 4 else "",
            )
        )
        kept = saved_bytes(lambda layer=layer: layer(x), layer.parameters())  # type: ignore[misc]
        target = "<= 2.02" if case.dropout else "<= 1.02"  # dropout keeps its mask beside its result
        bench.add(
            Row(
                str(case),
                f"kept for backward / size of x, {WORDS[name]}",
                exact(kept / (x.numel() * x.element_size())),
                target=target if name == "ours" and case.fused and case.r == 4 and case.precision == "fp32" else "",
                note=f"{kept / MIB:.1f} MiB",
            )
        )


def memory_of(bench: Bench, case: Case, names: tuple[str, ...]) -> None:
    """A row for each implementation: highest memory over the frozen layer's, weights and input included."""
    where = {"device": bench.args.device, "threads": bench.args.threads}
    peaks = {name: peak_bytes(run_passes, case, name, bench.args.device, **where) for name in names}
    if "peft" in names:
        peaks["peft"] -= peak_bytes(load_peft, **where)
    for name in names[1:]:
        bench.add(
            Row(
                str(case),
                f"highest memory, {WORDS[name]} / frozen nn.Linear",
                exact(peaks[name] / peaks["frozen"]),
                note=f"{peaks[name] / MIB:.0f} MiB; frozen {peaks['frozen'] / MIB:.0f} MiB",
            )
        )


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
    bench.add(
        Row(
            str(case),
            "largest relative difference, ours and released",
            exact(max(differences)),
            target="<= 1e-5" if case.precision == "fp32" else "<= 0.05",
            note=parts,
        )
    )


# --- the cases -------------------------------------------------------------------------------------------------------


def timed_cases(quick: bool) -> Iterator[Case]:
    """Those of the table; ``quick`` leaves one or two of each kind."""
    if quick:
        first = Case("sm", (8, 512), dropout=0.1)
        yield from (replace(first, dropout=0.0), first, replace(first, r=16), replace(first, precision="bf16"))
        yield from (replace(first, shape=E2E_SHAPE), Case("md", E2E_SHAPE, dropout=0.1))
        yield from (Case("roberta", (16, 128), r=8, dropout=p) for p in (0.0, 0.1))
        return
    shapes = {"sm": ((8, 512), (8, 128), E2E_SHAPE), "md": ((8, 512), E2E_SHAPE)}
    for precision in DTYPES:
        for model, of_model in shapes.items():
            for shape in of_model:
                for r in (4, 16, 64):
                    yield from (Case(model, shape, r, p, precision) for p in (0.0, 0.1))
        for shape in ((16, 128), (16, 512)):
            yield from (Case("roberta", shape, 8, p, precision) for p in (0.0, 0.1))
        yield from (Case("lg", E2E_SHAPE, 4, p, precision) for p in (0.0, 0.1))


def main() -> None:
    """Measures everything and writes the rows."""
    parser = bench_parser(__doc__, rounds=5)
    parser.add_argument("--cpu_time", action="store_true", help="seconds of CPU instead of the clock: a busy machine")
    bench = begin("layers", parser)
    quick = bench.args.quick
    for case in timed_cases(quick):
        time_of(bench, case)
    for dropout in (0.0, 0.1):
        overhead_of(bench, Case("call", (1, 1), 4, dropout))
    for r in (1, 8, 64) if quick else (1, 2, 4, 8, 16, 32, 64, 128):
        time_of(bench, Case("sm", E2E_SHAPE, r), IMPLEMENTATIONS[:5], axis=("rank", r))
    for rows in (128, 1024) if quick else (64, 128, 256, 512, 1024, 2048, 4096):
        time_of(bench, Case("sm", (1, rows), dropout=0.1), axis=("rows", rows))
    for model, r in (
        (("sm", 4), ("roberta", 8)) if quick else (("sm", 4), ("sm", 16), ("sm", 64), ("md", 4), ("roberta", 8))
    ):
        for dropout in (0.0, 0.1):
            counts_of(bench, Case(model, (8, 128), r, dropout))
            equality_of(bench, Case(model, (8, 128), r, dropout))
    if not quick:
        counts_of(bench, Case("sm", (8, 128), 4, 0.1, "bf16"))
        equality_of(bench, Case("sm", (8, 128), 4, 0.1, "bf16"))
    memory_of(bench, Case("sm", (8, 512), dropout=0.1), IMPLEMENTATIONS[:4] if quick else IMPLEMENTATIONS)
    bench.write()


if __name__ == "__main__":
    run_main(main)
