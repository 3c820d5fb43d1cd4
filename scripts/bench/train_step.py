"""A training step on E2E: ours, transformers + peft, full fine-tuning and the bound; and memory.

Every time is of loss, gradient and update of one batch of 8 rows, LoRA of rank 4 on query and value, no dropout and no
smoothing, so that the losses of all sides are equal (checked). The released GPT-2 is not at hand and not measured.
"""

from __future__ import annotations

import argparse
import functools
import statistics
from collections.abc import Callable

import harness  # noqa: F401 makes the project's modules importable; first
import torch
from gpt2 import fast_linear
from harness.costs import MIB, counted_flops, matmul_flops_per_second, saved_bytes
from harness.e2e import e2e_token_ids
from harness.peers import SIZES
from harness.rows import Bench, Row, begin, bench_parser, exact
from harness.timing import ratio, side_by_side
from harness.train_sides import Side, bound, ours, peft_like, their_batch
from torch import Tensor
from train.data import FT_Dataset
from train.sampler import global_batches

from examples.common.errors import run_main

B, R, SEED = 8, 4, 110
PEFT = "transformers + peft"
PLAIN = "ours has oneDNN's products" if fast_linear.AVX512 else "no AVX-512: both are torch's own products"
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
    works: dict[str, Callable[[], None]] = {
        name: functools.partial(side.step, batch) for name, (side, batch) in sides.items()
    }
    works["plain"] = functools.partial(step_without_fast_products, us, mine)
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
    bench.add(Row(case, "time, --fast_cpu_products false / ours", ratio(times, "plain", "ours"), PLAIN))
    words = {"peft": f"{PEFT} on the longest row / ours", "full": "full fine-tuning / ours"}
    for name, text in words.items():
        bench.add(Row(case, f"FLOPs of matrix products, {text}", exact(flops[name] / flops["ours"])))


def step_without_fast_products(side: Side, batch: object) -> None:
    """A step whose products with frozen weights are torch's own on every processor."""
    try:
        fast_linear.ENABLED = False
        side.step(batch)
    finally:
        fast_linear.ENABLED = True


def check_equal_loss(us: Side, other: Side, mine: object, theirs: object, relative: float = 1e-5) -> None:
    """Raises AssertionError where what is compared is not the same computation."""
    with torch.no_grad():
        a, b = us.loss(mine).item(), other.loss(theirs).item()
    assert abs(a - b) <= relative * abs(b), (a, b)


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
