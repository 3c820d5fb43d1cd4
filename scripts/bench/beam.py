"""Decoding E2E test prompts: our beam search against transformers' ``generate``, and what each of its savings brings.

Both sides have equal weights with LoRA merged, equal batches, and the flags of the paper's E2E table (beam 10, length
penalty 0.8, no 4-gram twice). Weights are random, which never end a text by themselves; where texts end, the
weights are made to: a direction that grows with the position raises the end-of-text logit (``make_ends``).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

import harness  # noqa: F401  (first: it makes the other folders importable)
from generation.search import BeamSettings, Hypothesis, Search
from harness.costs import MIB, counted_flops, matmul_flops_per_second, peak_bytes
from harness.decoding_sides import DTYPES, Setting, decode_once, decode_ours, decode_theirs, read_prompts
from harness.rows import Row, begin, bench_parser, exact
from harness.timing import Ratio, ratio, side_by_side, spread

from examples.common.errors import run_main


def main() -> None:
    bench = begin("beam", bench_parser(__doc__.splitlines()[0] if __doc__ else None, rounds=3))
    prompts, rows = read_prompts()
    note = f"{len(rows)} rows, {len(prompts)} of them distinct"
    bench.add(Row("E2E test set", "prompts decoded, all rows / ours", exact(len(rows) / len(prompts)), note=note))
    cases = QUICK if bench.args.quick else FULL
    for size, precision in dict.fromkeys((case.size, case.precision) for case in cases):
        setting = Setting.make(size, precision, prompts, bench)
        for case in (case for case in cases if (case.size, case.precision) == (size, precision)):
            against_generate(setting, case)
        if (size, precision) == ("sm", "fp32"):
            equal_sequences(setting)
            savings(setting)
            curves(setting)
        memory(setting, batch=4)
    bench.write()


@dataclass(frozen=True)
class Case:
    """A comparison with ``generate``: ``ends`` says whether texts end by themselves."""

    size: str
    precision: str
    batch: int
    ends: bool
    target: str = ""


TARGET = ">= 2.0"
QUICK = [Case("sm", "fp32", 1, True, TARGET), Case("sm", "fp32", 4, False, TARGET), Case("sm", "bf16", 4, False)]
FULL = [
    *(Case("sm", "fp32", batch, ends, TARGET) for batch, ends in [(1, False), (4, False), (16, False)]),
    *(Case("sm", "fp32", batch, ends, TARGET) for batch, ends in [(1, True), (4, True), (16, True)]),
    *(Case("sm", "bf16", batch, False) for batch in (1, 4, 16)),
    Case("md", "fp32", 4, False),
    Case("md", "bf16", 4, False),
]


def against_generate(setting: Setting, case: Case) -> None:
    """Time per prompt and per step, and the share of the time that the counted products would take at full rate."""
    search = setting.search if case.ends else setting.endless
    prompts = setting.some_prompts(case.batch)
    args = setting.bench.args
    times = side_by_side(
        {
            "ours": lambda: decode_ours(setting.ours, prompts, search, case.batch),
            "generate": lambda: decode_theirs(setting.theirs, prompts, search),
        },
        rounds=max(1, min(args.rounds, 8 // case.batch)),
        device=args.device,
        warm_up=1 if case.batch == 1 else 0,
    )
    found, engine = decode_ours(setting.ours, prompts, search, case.batch)
    ours, theirs = min(times["ours"]), min(times["generate"])
    ends = f"{search.eval_len} tokens, " + ("ends come" if case.ends else "never ends")
    length = sum(len(hypothesis.tokens) for hypothesis in found) / len(found)
    note = (
        f"{ours / case.batch:.2f} s and {theirs / case.batch:.2f} s a prompt; "
        f"ours {1000 * ours / engine.steps:.1f} ms a step, {engine.steps} steps, {length:.1f} tokens on average"
    )
    name = setting.case(f"batch {case.batch}, {ends}")
    setting.bench.add(
        Row(
            name,
            "time a prompt, generate / ours",
            ratio(times, "generate", "ours"),
            case.target,
            note,
            ("batch", case.batch),
            headline=f"beam search, {case.batch} prompt{'s' * (case.batch > 1)} together" if case.target else "",
        )
    )
    flops = counted_flops(lambda: decode_ours(setting.ours, prompts, search, case.batch))
    floor = flops / matmul_flops_per_second(DTYPES[case.precision], args.device)
    shares = spread([floor / seconds for seconds in times["ours"]])
    setting.bench.add(Row(name, "time, products at peak rate / ours", shares, note=f"{flops / 1e9:.0f} GFLOP counted"))


def equal_sequences(setting: Setting) -> None:
    """How many sequences equal ``generate``'s where the rules do: no end, no ban, plain sums."""
    search = replace(
        setting.endless, length_penalty=0.0, no_repeat_ngram_size=0, eval_len=min(24, setting.search.eval_len)
    )
    prompts = setting.some_prompts(4)
    ours = [hypothesis.tokens for hypothesis in decode_ours(setting.ours, prompts, search, 4)[0]]
    theirs = decode_theirs(setting.theirs, prompts, search)
    equal = sum(a == b for a, b in zip(ours, theirs, strict=True))
    setting.bench.add(
        Row(
            setting.case("no ban, plain sums"),
            "share of sequences equal to generate's",
            exact(equal / len(prompts)),
            ">= 1.0",
            f"{equal} of {len(prompts)}, {search.eval_len} tokens",
        )
    )


def savings(setting: Setting) -> None:
    """Early stop against its absence, which leaves results as they are."""
    prompts = setting.far_prompts(8 if setting.bench.args.quick else 24)
    late = replace(setting.search, early_stop=False)
    times, (ours, engine), (without, slow) = compared(setting, prompts, setting.search, late)
    same = sum(a.tokens == b.tokens for a, b in zip(ours, without, strict=True))
    setting.bench.add(
        Row(
            setting.case(f"{len(prompts)} prompts, batch 4"),
            "time, without / with exact early stop",
            times,
            note=f"{engine.steps} steps instead of {slow.steps}, {same} of {len(prompts)} results equal",
        )
    )


def compared(
    setting: Setting, prompts: list[tuple[int, ...]], search: BeamSettings, other: BeamSettings
) -> tuple[Ratio, tuple[list[Hypothesis], Search], tuple[list[Hypothesis], Search]]:
    with_it = partial(decode_ours, setting.ours, prompts, search, 4)
    without = partial(decode_ours, setting.ours, prompts, other, 4)
    times = side_by_side(
        {"with": with_it, "without": without},
        rounds=1 if setting.bench.args.quick else 3,
        device=setting.bench.args.device,
        warm_up=0,
    )
    return ratio(times, "without", "with"), with_it(), without()


def curves(setting: Setting) -> None:
    """Cost of a prompt over batch, beam and length of the prompt, in units of the first point."""
    quick, search = setting.bench.args.quick, setting.endless
    middle = setting.some_prompts(16)
    long = [(middle[0] * 10)[:length] for length in ((32, 128, 384) if quick else (16, 32, 64, 128, 256, 512))]
    curve(setting, "batch", {b: (middle[:b], search) for b in ((1, 4, 8) if quick else (1, 2, 4, 8, 16))})
    beams = (1, 4, 10) if quick else (1, 2, 4, 10, 20)
    curve(setting, "beam", {k: (middle[:1], replace(search, beam=k)) for k in beams})
    curve(setting, "prompt tokens", {len(prompt): ([prompt], search) for prompt in long})


def curve(setting: Setting, axis: str, points: dict[int, tuple[list[tuple[int, ...]], BeamSettings]]) -> None:
    alternatives = {
        str(x): partial(decode_ours, setting.ours, prompts, search, len(prompts))
        for x, (prompts, search) in points.items()
    }
    device, quick = setting.bench.args.device, setting.bench.args.quick
    times = side_by_side(alternatives, rounds=1 if quick else 3, device=device, warm_up=0)
    first = next(iter(points))
    for x, (prompts, search) in points.items():
        per_prompt = [
            (a / len(prompts)) / (b / len(points[first][0]))
            for a, b in zip(times[str(x)], times[str(first)], strict=True)
        ]
        note = f"{min(times[str(x)]) / len(prompts):.3f} s a prompt"
        case = f"{setting.size} {setting.precision}, {search.eval_len} tokens, {axis} {x}"
        setting.bench.add(
            Row(case, "seconds a prompt, in units of the first point", spread(per_prompt), "", note, (axis, x))
        )


def memory(setting: Setting, batch: int) -> None:
    """Highest memory of a decoding, the models included; the cache alone is in the note."""
    args, name = setting.bench.args, setting.case(f"batch {batch}, never ends")
    prompts, search = setting.some_prompts(batch), setting.endless
    engine = decode_ours(setting.ours, prompts, search, batch)[1]
    cache = engine.cache.store.untyped_storage().nbytes()
    taken = {
        whose: peak_bytes(decode_once, whose, setting.size, setting.precision, prompts, search, args.device,
                          device=args.device, threads=args.threads)
        for whose in ("ours", "generate")
    }  # fmt: skip
    note = " and ".join(f"{taken[whose] / MIB:.0f} MiB" for whose in ("ours", "generate"))
    setting.bench.add(
        Row(name, "peak bytes with models, ours / generate", exact(taken["ours"] / taken["generate"]),
            note=f"{note}; our cache of {batch} prompts at the end {cache / MIB:.0f} MiB")
    )  # fmt: skip


if __name__ == "__main__":
    run_main(main)
