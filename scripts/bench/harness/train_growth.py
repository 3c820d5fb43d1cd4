"""How the time of our training step grows with length, batch, rank and size of the model."""

from __future__ import annotations

import functools
import statistics

import torch
from gpt2.config import GPT2Config
from train.data import Batch

from harness.peers import SIZES
from harness.rows import Bench, Row
from harness.timing import side_by_side, spread
from harness.train_sides import ours, step_flops


def curves(bench: Bench, B: int, R: int) -> None:
    """One thing varies, the others stay at sm, batch B, length 64, rank R; half of the positions count."""
    sm = SIZES["sm"]
    points: dict[str, list[tuple[float, GPT2Config, int, int, int]]] = {
        "sequence length": [(T, sm, B, T, R) for T in (32, 64, 128, 256, 512)],
        "batch": [(b, sm, b, 64, R) for b in (1, 2, 4, 8, 16, 32)],
        "rank": [(r, sm, B, 64, r) for r in (1, 4, 16, 64)],
        "million parameters": [
            (round(_millions(config)), config, B, 64, R) for config in (SIZES["sm"], SIZES["md"], SIZES["lg"])
        ],
    }
    for name, series in points.items():
        first: tuple[float, float] | None = None
        for value, config, b, T, r in series:
            side = ours(config, r, device=bench.args.device)
            batch = random_batch(config, b, T).to(bench.args.device)
            work = {"ours": functools.partial(side.step, batch)}
            times = side_by_side(work, rounds=3, device=bench.args.device)["ours"]
            flops = step_flops(config, b, T, int(batch.mask.sum()), r=r)
            median = statistics.median(times)
            first = first or (median, flops)
            found = spread([seconds / first[0] for seconds in times])
            note = f"{1e3 * median:.0f} ms; FLOPs {flops / first[1]:.2f} times those of the first point"
            case = f"our step, fp32, {name} {value}"
            bench.add(Row(case, "seconds, in units of the first point", found, "", note, (name, value)))


def _millions(config: GPT2Config) -> float:
    return (12 * config.n_layer * config.n_embd**2 + (config.vocab_size + config.n_positions) * config.n_embd) / 1e6


def random_batch(config: GPT2Config, b: int, T: int) -> Batch:
    """Random ids; the second half of every row counts."""
    ids = torch.randint(config.vocab_size, (b, T + 1), generator=torch.Generator().manual_seed(0))
    mask = (torch.arange(T) >= T // 2).float().expand(b, T).contiguous()
    return Batch(list(range(b)), ids[:, :-1].contiguous(), ids[:, 1:].contiguous(), mask)
