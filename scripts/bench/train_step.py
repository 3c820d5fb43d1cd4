"""A training step on E2E: ours, transformers + peft, full fine-tuning and the bound; then a whole epoch, and memory.

Every time is of loss, gradient and update of one batch of 8 rows, LoRA of rank 4 on query and value, no dropout and no
smoothing, so that the losses of all sides are equal (checked). The released GPT-2 is not at hand and not measured.
"""

from __future__ import annotations

import functools
import random
import shutil
import statistics
import time

import harness  # noqa: F401 makes the project's modules importable; first
import torch
import torch.nn.functional as F
from gpt2.model import GPT2LMModel
from harness.costs import MIB, counted_flops, matmul_flops_per_second, peak_bytes, saved_bytes
from harness.e2e import e2e_token_ids
from harness.peers import SIZES
from harness.rows import Bench, Row, begin, bench_parser, exact
from harness.timing import Ratio, ratio, side_by_side, spread, wait_for
from harness.train_growth import curves
from harness.train_sides import Side, bound, ours, peft_like, step_flops, their_batch
from torch import Tensor
from train.data import Batch, FT_Dataset
from train.sampler import bucketed_batches, global_batches

from examples.common.errors import run_main

B, R, SEED = 8, 4, 110
PEFT = "transformers + peft"
BF16 = torch.bfloat16
BOUND = "bound: frozen model, forward and the gradient of the first block's input"


def main() -> None:
    bench = begin("train_step", bench_parser(__doc__, rounds=7))
    quick = bench.args.quick
    e2e = e2e_token_ids()
    data = FT_Dataset(e2e.folder / "train.jsonl", B, 512, quiet=True)
    epoch = global_batches(data.n_rows, B, seed=SEED, epoch=1)
    steps_of_a_size(bench, data, "sm", epoch[0], rounds=bench.args.rounds)
    in_bfloat16(bench, data, epoch[0])
    whole_epoch(bench, data, samples=3 if quick else 16)
    memory(bench, data, epoch[0])
    variants(bench, data, epoch[0])
    if not quick:
        for size in ("md", "lg"):
            steps_of_a_size(bench, data, size, epoch[0], rounds=min(3, bench.args.rounds))
        against_512(bench, data, epoch[0])
        curves(bench, B, R)
    bench.write()


# --- time of one step -------------------------------------------------------------------------------------------------


def steps_of_a_size(bench: Bench, data: FT_Dataset, size: str, rows: list[int], *, rounds: int) -> None:
    """fp32: against transformers + peft on the longest row and on 128, against full fine-tuning and the bound."""
    device = bench.args.device
    us = ours(SIZES[size], R, device=device)
    limit, peft = bound(us.model), peft_like(us.model, R, device=device)
    mine = data.batch(rows).to(device)
    longest, to_128 = (their_batch(data, rows, length).to(device) for length in (None, 128))
    check_equal_loss(us, peft, mine, longest)
    check_equal_loss(us, peft, mine, to_128)
    sides: dict[str, tuple[Side, object]] = {
        "ours": (us, mine),
        "peft": (peft, longest),
        "bound": (limit, mine),
    }
    if not bench.args.quick:
        sides["peft 128"] = (peft, to_128)
    if size != "lg":  # whose weights, gradients and moments are 12 GB
        sides["full"] = (ours(SIZES[size], 0, device=device), mine)
    works = {name: functools.partial(side.step, batch) for name, (side, batch) in sides.items()}
    flops = {name: counted_flops(work) for name, work in works.items()}
    times = side_by_side(works, rounds=rounds, device=device, warm_up=0)
    case = f"{size}, batch {B} of E2E, fp32"
    share = flops["ours"] / min(times["ours"]) / matmul_flops_per_second(torch.float32, device)
    note = f"T {mine.input.size(1)}, {int(mine.mask.sum())} tokens count; ours "
    note += f"{1e3 * statistics.median(times['ours']):.0f} ms, {flops['ours'] / 1e9:.0f} GFLOP, "
    note += f"{share:.0%} of the matmul peak"
    target, shown = (">= 1.4", "training step") if size == "sm" else ("", "")
    bench.add(
        Row(case, f"time, {PEFT} on the longest row / ours", ratio(times, "peft", "ours"), target, note, headline=shown)
    )
    if "peft 128" in sides:
        bench.add(Row(case, f"time, {PEFT} on 128 / ours", ratio(times, "peft 128", "ours")))
    bench.add(Row(case, "time, ours / bound", ratio(times, "ours", "bound"), "", BOUND))
    words = {"peft": f"{PEFT} on the longest row / ours"}
    if "full" in sides:
        best = ratio(times, "full", "bound")
        bench.add(Row(case, "time, full fine-tuning / bound", best, "", BOUND))
        target = f">= {0.92 * best.median:.3f}" if size == "sm" else ""
        against = ratio(times, "full", "ours")
        bench.add(Row(case, "time, full fine-tuning / ours", against, target, "target: the bound's ratio less 8 %"))
        words["full"] = "full fine-tuning / ours"
    for name, text in words.items():
        bench.add(Row(case, f"FLOPs of matrix products, {text}", exact(flops[name] / flops["ours"])))
    bench.add(Row(case, "FLOPs of matrix products, ours / bound", exact(flops["ours"] / flops["bound"])))


def in_bfloat16(bench: Bench, data: FT_Dataset, rows: list[int]) -> None:
    """Ours under autocast, as ``--bf16`` trains, and with bf16 weights; transformers + peft with bf16 weights."""
    us, autocast = ours(SIZES["sm"], R, device=bench.args.device), ours(SIZES["sm"], R, device=bench.args.device)
    autocast.autocast = BF16
    us.model.to(BF16)
    peft, peft_fp32 = (peft_like(us.model, R, device=bench.args.device) for _ in range(2))
    peft.model.to(BF16)
    peft_fp32.model.float()
    mine, theirs = data.batch(rows).to(bench.args.device), their_batch(data, rows).to(bench.args.device)
    check_equal_loss(us, peft, mine, theirs, relative=0.01)
    check_equal_loss(autocast, peft, mine, theirs, relative=0.01)
    sides: dict[str, tuple[Side, object]] = {
        "ours": (us, mine),
        "--bf16": (autocast, mine),
        "peft": (peft, theirs),
        "peft fp32": (peft_fp32, theirs),
    }
    works = {name: functools.partial(side.step, batch) for name, (side, batch) in sides.items()}
    times = side_by_side(works, rounds=bench.args.rounds, device=bench.args.device)
    case = f"sm, batch {B} of E2E, bf16"
    flops, least = counted_flops(lambda: us.step(mine)), min(times["ours"])
    note = f"ours {1e3 * statistics.median(times['ours']):.0f} ms, "
    share = flops / least / matmul_flops_per_second(BF16, bench.args.device)
    note += f"{share:.0%} of the matmul peak; losses equal to 1 %"
    words = f"{PEFT} on the longest row"
    found = ratio(times, "peft", "ours")
    bench.add(Row(f"{case} weights", f"time, {words} / ours", found, ">= 2.2", note, headline="training step, bf16"))
    bench.add(Row(f"{case} weights", f"time, {words} in fp32 / ours", ratio(times, "peft fp32", "ours")))
    note = "weights stay float32 as in mixed precision; theirs are bf16"
    bench.add(Row(f"{case} autocast", f"time, {words} / ours with --bf16", ratio(times, "peft", "--bf16"), "", note))


def against_512(bench: Bench, data: FT_Dataset, rows: list[int]) -> None:
    us = ours(SIZES["sm"], R, device=bench.args.device)
    peft = peft_like(us.model, R, device=bench.args.device)
    mine, theirs = data.batch(rows).to(bench.args.device), their_batch(data, rows, 512).to(bench.args.device)
    times = side_by_side(
        {"ours": lambda: us.step(mine), "peft": lambda: peft.step(theirs)}, rounds=3, device=bench.args.device
    )
    bench.add(Row(f"sm, batch {B} of E2E, fp32", f"time, {PEFT} on 512 / ours", ratio(times, "peft", "ours")))


def check_equal_loss(us: Side, other: Side, mine: object, theirs: object, relative: float = 1e-5) -> None:
    """Raises AssertionError where what is compared is not the same computation."""
    with torch.no_grad():
        a, b = us.loss(mine).item(), other.loss(theirs).item()
    assert abs(a - b) <= relative * abs(b), (a, b)


# --- a whole epoch, sampled -------------------------------------------------------------------------------------------


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
        target = ">= 2.5" if name == "bucketed" else ""
        note = f"sampled: {samples} batches of each, scaled by FLOPs; {positions / 1e3:.0f}k positions against "
        note += f"{B * 128 * len(theirs) / 1e3:.0f}k"
        shown = "E2E epoch, batches by length" if name == "bucketed" else ""
        bench.add(Row(case, f"time, {PEFT} on 128 / ours", found, target, note, headline=shown))
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


# --- memory -----------------------------------------------------------------------------------------------------------


def memory(bench: Bench, data: FT_Dataset, rows: list[int]) -> None:
    """Bytes kept for the backward pass, and the highest memory of a new process that takes two steps."""
    mine, theirs = data.batch(rows).to(bench.args.device), their_batch(data, rows).to(bench.args.device)
    us = ours(SIZES["sm"], R, dropout=0.1, device=bench.args.device)
    kept = saved_bytes(lambda: us.loss(mine), [*us.known(), *tensors(mine)])
    peft = peft_like(us.model, R, dropout=0.1, device=bench.args.device)
    theirs_kept = saved_bytes(lambda: peft.loss(theirs), [*peft.known(), *tensors(theirs)])
    case = f"sm, batch {B} of E2E, fp32, dropout 0.1"
    note = f"ours {kept / MIB:.0f} MiB, theirs {theirs_kept / MIB:.0f}; both on the longest row"
    bench.add(Row(case, f"bytes saved for backward, ours / {PEFT}", exact(kept / theirs_kept), "<= 0.45", note))
    again = ours(SIZES["sm"], R, dropout=0.1, checkpointing=True, device=bench.args.device)
    less = saved_bytes(lambda: again.loss(mine), [*again.known(), *tensors(mine)])
    quantity = "bytes saved for backward, --gradient_checkpointing / without"
    bench.add(Row(case, quantity, exact(less / kept), "", f"{less / MIB:.0f} MiB"))
    where = {"device": bench.args.device, "threads": torch.get_num_threads()}
    peaks = {
        side: peak_bytes(two_steps, side, rows, str(data.path), bench.args.device, **where)
        for side in ("ours", "checkpointing", "peft")
    }
    note = f"with weights: {peaks['ours'] / MIB:.0f} MiB against {peaks['peft'] / MIB:.0f}"
    bench.add(Row(case, f"highest memory, ours / {PEFT}", exact(peaks["ours"] / peaks["peft"]), "", note))
    ratio_ = exact(peaks["checkpointing"] / peaks["ours"])
    bench.add(Row(case, "highest memory, --gradient_checkpointing / without", ratio_))


def two_steps(name: str, rows: list[int], path: str, device: str) -> None:
    """The work of a measured process. The peer needs our model for its weights; it is dropped before the steps."""
    data = FT_Dataset(path, B, 512, quiet=True)
    side = ours(SIZES["sm"], R, dropout=0.1, checkpointing=name == "checkpointing", device=device)
    batch: object = data.batch(rows).to(device)
    if name == "peft":
        side, batch = peft_like(side.model, R, dropout=0.1, device=device), their_batch(data, rows).to(device)
    for _ in range(2):
        side.step(batch)


def tensors(batch: object) -> list[Tensor]:
    return [value for value in vars(batch).values() if isinstance(value, Tensor)]


# --- parts of ours ----------------------------------------------------------------------------------------------------


def variants(bench: Bench, data: FT_Dataset, rows: list[int]) -> None:
    """What the loss without logits, checkpointing and, in full, compiling change, all else equal."""
    us = ours(SIZES["sm"], R, device=bench.args.device)
    whole = Side(us.model, lambda batch: loss_of_logits(us.model, batch), us.optimizer)
    again = ours(SIZES["sm"], R, checkpointing=True, device=bench.args.device)
    mine = data.batch(rows).to(bench.args.device)
    check_equal_loss(us, whole, mine, mine)
    works = {"ours": lambda: us.step(mine), "logits": lambda: whole.step(mine), "again": lambda: again.step(mine)}
    if not bench.args.quick and shutil.which("g++"):
        compiled = ours(SIZES["sm"], R, device=bench.args.device)
        compiled.model.transformer.compile_blocks()
        works["compiled"] = lambda: compiled.step(mine)
    times = side_by_side(works, rounds=bench.args.rounds, device=bench.args.device)
    case = f"sm, batch {B} of E2E, fp32"
    kept = [saved_bytes(lambda s=side: s.loss(mine), [*us.known(), *tensors(mine)]) for side in (us, whole)]  # type: ignore[misc]
    words = "loss in chunks / over logits at the counted positions"
    bench.add(Row(case, f"time, {words}", ratio(times, "ours", "logits")))
    bench.add(Row(case, f"bytes saved for backward, {words}", exact(kept[0] / kept[1])))
    bench.add(Row(case, "time, --gradient_checkpointing / without", ratio(times, "again", "ours")))
    if "compiled" in times:
        bench.add(Row(case, "time, --compile / without", ratio(times, "compiled", "ours")))


def loss_of_logits(model: GPT2LMModel, batch: Batch) -> Tensor:
    """The loss from logits of all counted positions at once."""
    counted = batch.mask.flatten().nonzero().squeeze(1)
    hidden = model.transformer(batch.input).flatten(0, 1)[counted]
    return F.cross_entropy(model.lm_head(hidden), batch.target.flatten()[counted])


if __name__ == "__main__":
    run_main(main)
