"""A training step on E2E: ours, transformers + peft, full fine-tuning and the bound; then a whole epoch, and memory.

Every time is of loss, gradient and update of one batch of 8 rows, LoRA of rank 4 on query and value, no dropout and no
smoothing, so that the losses of all sides are equal (checked). The released GPT-2 is not at hand and not measured.
"""

from __future__ import annotations

import argparse
import functools
import random
import statistics
import time

import harness  # noqa: F401 makes the project's modules importable; first
import torch
from harness.costs import MIB, counted_flops, matmul_flops_per_second, saved_bytes
from harness.e2e import e2e_token_ids
from harness.peers import SIZES
from harness.rows import Bench, Row, begin, bench_parser, exact
from harness.timing import Ratio, ratio, side_by_side, spread, wait_for
from harness.train_sides import Side, bound, ours, peft_like, step_flops, their_batch
from torch import Tensor
from train.data import FT_Dataset
from train.sampler import bucketed_batches, global_batches

from examples.common.errors import run_main

B, R, SEED = 8, 4, 110
PEFT = "transformers + peft"
BOUND = "bound: frozen model, forward and the gradient of the first block's input"


def build_parser() -> argparse.ArgumentParser:
    """Flags of this program."""
    return bench_parser(__doc__, rounds=7)


def main() -> None:
    """Measures everything and writes the rows."""
    bench = begin("train_step", build_parser())
    e2e = e2e_token_ids()
    data = FT_Dataset(e2e.folder / "train.jsonl", B, 512, quiet=True)
    rows = global_batches(data.n_rows, B, seed=SEED, epoch=1)[0]
    for size in ("sm",) if bench.args.quick else ("sm", "md"):
        steps_of_a_size(bench, data, size, rows)
    whole_epoch(bench, data, samples=3 if bench.args.quick else 16)
    memory(bench, data, rows)
    bench.write()


def steps_of_a_size(bench: Bench, data: FT_Dataset, size: str, rows: list[int]) -> None:
    """fp32: against transformers + peft on the longest row, against full fine-tuning and the bound."""
    device = bench.args.device
    us = ours(SIZES[size], R, device=device)
    peft = peft_like(us.model, R, device=device)
    mine, theirs = data.batch(rows).to(device), their_batch(data, rows).to(device)
    check_equal_loss(us, peft, mine, theirs)
    sides: dict[str, tuple[Side, object]] = {
        "ours": (us, mine),
        "peft": (peft, theirs),
        "bound": (bound(us.model), mine),
        "full": (ours(SIZES[size], 0, device=device), mine),
    }
    works = {name: functools.partial(side.step, batch) for name, (side, batch) in sides.items()}
    flops = {name: counted_flops(work) for name, work in works.items()}
    times = side_by_side(works, rounds=bench.args.rounds, device=device, warm_up=0)
    case = f"{size}, batch {B} of E2E, fp32"
    share = flops["ours"] / min(times["ours"]) / matmul_flops_per_second(torch.float32, device)
    note = f"T {mine.input.size(1)}, {int(mine.mask.sum())} tokens count; ours "
    note += f"{1e3 * statistics.median(times['ours']):.0f} ms, {share:.0%} of the matmul peak"
    shown = "training step" if size == "sm" else ""
    bench.add(Row(case, f"time, {PEFT} on the longest row / ours", ratio(times, "peft", "ours"), note, shown))
    bench.add(Row(case, "time, full fine-tuning / ours", ratio(times, "full", "ours")))
    bench.add(Row(case, "time, ours / bound", ratio(times, "ours", "bound"), BOUND))
    words = {"peft": f"{PEFT} on the longest row / ours", "full": "full fine-tuning / ours"}
    for name, text in words.items():
        bench.add(Row(case, f"FLOPs of matrix products, {text}", exact(flops[name] / flops["ours"])))


def check_equal_loss(us: Side, other: Side, mine: object, theirs: object, relative: float = 1e-5) -> None:
    """Raises AssertionError where what is compared is not the same computation."""
    with torch.no_grad():
        a, b = us.loss(mine).item(), other.loss(theirs).item()
    assert abs(a - b) <= relative * abs(b), (a, b)


def whole_epoch(bench: Bench, data: FT_Dataset, *, samples: int) -> None:
    """FLOPs of the whole epoch are counted for each side; the seconds of one are measured on a sample of batches."""
    us = ours(SIZES["sm"], R, device=bench.args.device)
    peft = peft_like(us.model, R, device=bench.args.device)
    lengths = data.lengths
    counts = [len(row.completion) for row in data.rows]
    draw = random.Random(SEED)
    theirs = global_batches(data.n_rows, B, seed=SEED, epoch=1)
    shape = their_batch(data, theirs[0], 128).to(bench.args.device)
    their_flops = counted_flops(lambda: peft.step(shape)) * len(theirs)
    sampled_theirs = [their_batch(data, rows, 128).to(bench.args.device) for rows in draw.sample(theirs, samples)]
    peft_seconds = [timed(peft, batch) for batch in sampled_theirs]  # counting was the warm-up
    epochs = {"bucketed": bucketed_batches(lengths, B, seed=SEED, epoch=1)}
    if not bench.args.quick:
        epochs["the released batches"] = theirs
    for name, batches in epochs.items():
        work = [
            step_flops(us.model.config, B, max(lengths[row] for row in rows), sum(counts[row] for row in rows), r=R)
            for rows in batches
        ]
        positions = sum(B * max(lengths[row] for row in rows) for rows in batches)
        chosen = draw.sample(range(len(batches)), samples)
        seconds = [timed(us, data.batch(batches[i]).to(bench.args.device)) for i in [chosen[0], *chosen]][1:]
        rates = [(t, work[i]) for t, i in zip(seconds, chosen)]
        case = f"sm, E2E epoch of {data.n_rows} rows, {name}, fp32"
        found = bootstrap(rates, peft_seconds, sum(work), len(theirs))
        note = f"sampled: {samples} batches of each, scaled by FLOPs; {positions / 1e3:.0f}k positions against "
        note += f"{B * 128 * len(theirs) / 1e3:.0f}k"
        shown = "E2E epoch, batches by length" if name == "bucketed" else ""
        bench.add(Row(case, f"time, {PEFT} on 128 / ours", found, note, shown))
        bench.add(Row(case, f"FLOPs of matrix products, {PEFT} on 128 / ours", exact(their_flops / sum(work))))


def bootstrap(mine: list[tuple[float, int]], theirs: list[float], work: int, n_theirs: int, times: int = 500) -> Ratio:
    """Ratio of the seconds of two epochs: ours scaled by FLOPs, theirs, which are all alike, by number."""
    draw = random.Random(SEED)

    def once(a: list[tuple[float, int]], b: list[float]) -> float:
        rate = sum(seconds for seconds, _ in a) / sum(flops for _, flops in a)
        return statistics.mean(b) * n_theirs / (rate * work)

    resampled = spread(
        [once(draw.choices(mine, k=len(mine)), draw.choices(theirs, k=len(theirs))) for _ in range(times)]
    )
    return Ratio(once(mine, theirs), resampled.low, resampled.high, len(mine))


def timed(side: Side, batch: object) -> float:
    wait_for(side.device)
    start = time.perf_counter()
    side.step(batch)
    wait_for(side.device)
    return time.perf_counter() - start


def memory(bench: Bench, data: FT_Dataset, rows: list[int]) -> None:
    """Bytes kept for the backward pass."""
    mine, theirs = data.batch(rows).to(bench.args.device), their_batch(data, rows).to(bench.args.device)
    us = ours(SIZES["sm"], R, dropout=0.1, device=bench.args.device)
    kept = saved_bytes(lambda: us.loss(mine), [*us.known(), *tensors(mine)])
    peft = peft_like(us.model, R, dropout=0.1, device=bench.args.device)
    theirs_kept = saved_bytes(lambda: peft.loss(theirs), [*peft.known(), *tensors(theirs)])
    case = f"sm, batch {B} of E2E, fp32, dropout 0.1"
    note = f"ours {kept / MIB:.0f} MiB, theirs {theirs_kept / MIB:.0f}; both on the longest row"
    bench.add(Row(case, f"bytes saved for backward, ours / {PEFT}", exact(kept / theirs_kept), note))


def tensors(batch: object) -> list[Tensor]:
    return [value for value in vars(batch).values() if isinstance(value, Tensor)]


if __name__ == "__main__":
    run_main(main)
