"""Decoding E2E test prompts: our beam search against transformers' ``generate``, and what each of its savings brings.

Both sides have equal weights with LoRA merged, equal batches, and the flags of the paper's E2E table (beam 10, length
penalty 0.8, no 4-gram twice). Weights are random, which never end a text by themselves; where texts end, the
weights are made to: a direction that grows with the position raises the end-of-text logit (``make_ends``).
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, replace
from functools import partial

import harness  # noqa: F401  (first: it makes the other folders importable)
from harness.decoding_sides import Setting, decode_ours, decode_theirs, read_prompts
from harness.rows import Row, begin, bench_parser, exact
from harness.timing import ratio, side_by_side

from examples.common.errors import run_main


def build_parser() -> argparse.ArgumentParser:
    """Flags of this program."""
    return bench_parser(__doc__, rounds=3)


def main() -> None:
    """Measures everything and writes the rows."""
    bench = begin("beam", build_parser())
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
            early_stop(setting)
    bench.write()


@dataclass(frozen=True)
class Case:
    """A comparison with ``generate``: ``ends`` says whether texts end by themselves."""

    size: str
    precision: str
    batch: int
    ends: bool


QUICK = [Case("sm", "fp32", 1, True), Case("sm", "fp32", 4, True)]
FULL = [
    *(Case("sm", "fp32", batch, ends) for batch, ends in [(1, False), (4, False), (16, False)]),
    *(Case("sm", "fp32", batch, ends) for batch, ends in [(1, True), (4, True), (16, True)]),
    *(Case("sm", "bf16", batch, False) for batch in (1, 4, 16)),
    Case("md", "fp32", 4, False),
    Case("md", "bf16", 4, False),
]
HEADLINES = [Case("sm", "fp32", batch, True) for batch in (1, 4, 16)]


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
            note,
            f"beam search, batch {case.batch}" if case in HEADLINES else "",
        )
    )


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
            f"{equal} of {len(prompts)}, {search.eval_len} tokens",
        )
    )


def early_stop(setting: Setting) -> None:
    """The exact early stop against its absence; results are equal."""
    prompts = setting.far_prompts(8 if setting.bench.args.quick else 24)
    searches = {"with": setting.search, "without": replace(setting.search, early_stop=False)}
    work = {name: partial(decode_ours, setting.ours, prompts, search, 4) for name, search in searches.items()}
    times = side_by_side(work, rounds=1 if setting.bench.args.quick else 3, device=setting.bench.args.device, warm_up=0)
    (ours, engine), (late, slow) = (run() for run in work.values())
    same = sum(a.tokens == b.tokens for a, b in zip(ours, late, strict=True))
    note = f"{engine.steps} steps instead of {slow.steps}, {same} of {len(prompts)} results equal"
    case = setting.case(f"{len(prompts)} prompts, batch 4")
    setting.bench.add(Row(case, "time, without / with exact early stop", ratio(times, "without", "with"), note))


if __name__ == "__main__":
    run_main(main)
