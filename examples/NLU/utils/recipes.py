"""Rows of ``hparams.tsv`` as commands: the effective batch is kept on any number of devices, MNLI starts are found."""

from __future__ import annotations

import argparse
import math
import os
import shlex
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from glue_table import HparamsRow as Row
from glue_table import epoch_rows, read_hparams, read_runs

from examples.common.errors import UserError, run_main, warn
from examples.common.files import read_json, sha256_of

ROOM = Path(__file__).resolve().parents[1]
PROGRAM = ROOM / "examples" / "text-classification" / "run_glue.py"
# columns that are flags of run_glue.py under their own name
FLAGS = (
    *("model_name_or_path", "task_name", "learning_rate", "num_train_epochs", "warmup_ratio", "warmup_steps"),
    *("weight_decay", "max_seq_length", "lora_r", "lora_alpha", "adapter_type", "adapter_size", "cls_dropout"),
    *("reg_loss_wgt", "masking_prob", "per_device_eval_batch_size"),
)
# how a batch is spread, where files go and what is printed: none of it changes the result of a run
SPREAD = ("--per_device_train_batch_size", "--gradient_accumulation_steps")
PLACE = ("--output_dir", "--logging_dir", "--logging_steps", "--disable_tqdm")


@dataclass(frozen=True)
class Batch:
    """How a batch is spread: examples per device at once, devices, accumulated steps."""

    per_device: int
    devices: int
    accumulation: int

    @property
    def effective(self) -> int:
        return self.per_device * self.devices * self.accumulation


def effective_batch(row: Row) -> int:
    """Examples of one optimiser step: the released batch per GPU times the released number of GPUs."""
    return int(row["per_device_train_batch_size"]) * int(row["num_gpus"])


def spread(effective: int, devices: int, most: int) -> Batch:
    """Spreads ``effective`` examples: as many on a device at once as divide its share, ``most`` at most.

    Where the devices do not divide the batch, the nearest batch that they do; compare ``Batch.effective``.
    """
    share = max(1, round(effective / devices))
    per_device = next(size for size in range(min(most, share), 0, -1) if share % size == 0)
    return Batch(per_device, devices, share // per_device)


def find_start(row: Row, runs: Path, seed: int) -> Path:
    """The MNLI adapter that MRPC, RTE and STS-B start from: one's own run of the same recipe, or the published file.

    The published files were trained with the scripts' alpha and fit no other recipe.
    """
    family = row["script"].rsplit("_", 1)[0]
    mnli = runs / f"{family}_mnli" / row["recipe"]
    candidates = [mnli / f"seed{seed}" / "model", *sorted(path / "model" for path in mnli.glob("seed*"))]
    found = [path / "pytorch_model_lora.bin" for path in candidates]
    published = Path(f"{family}_lora_mnli.bin")
    if row["recipe"] == "scripts":
        found += [published, ROOM / published.name]
    for path in found:
        if path.is_file():
            return path
    raise UserError(
        f"{row['script']} starts from LoRA trained on MNLI, and {found[0]} is absent: run {family}_mnli.sh first, put "
        f"the published {published} here, or give --lora_path"
    )


def command(row: Row, batch: Batch, *, seed: int, output: Path, start: Path | None, gpu: bool) -> list[str]:
    """The words of one training command."""
    words = [sys.executable]
    if batch.devices > 1:
        words += ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={batch.devices}"]
    words += [str(PROGRAM), "--do_train", "--do_eval"]
    for name in FLAGS:
        if row[name] != "-":
            words += [f"--{name}", row[name]]
    words += ["--apply_adapter"] if row["adapter_type"] != "-" else ["--apply_lora"]
    words += ["--per_device_train_batch_size", str(batch.per_device)]
    words += ["--gradient_accumulation_steps", str(batch.accumulation)]
    if row["interval"] == "epoch":
        words += ["--evaluation_strategy", "epoch", "--save_strategy", "epoch"]
    else:
        words += ["--evaluation_strategy", "steps", "--eval_steps", row["interval"]]
        words += ["--save_strategy", "steps", "--save_steps", row["interval"]]
    if "deberta" in row["model_name_or_path"]:
        words += ["--use_deterministic_algorithms", *(["--fp16"] if gpu else [])]
    words += ["--lora_path", str(start)] if start else []
    words += ["--logging_steps", "10", "--logging_dir", str(output / "log"), "--seed", str(seed)]
    return [*words, "--output_dir", str(output / "model")]


def flags_of(words: Sequence[str]) -> dict[str, str]:
    """Flags of run_glue.py in a command, the last one of a name, with their values."""
    found: dict[str, str] = {}
    name = ""
    for word in words[next(i for i, word in enumerate(words) if word.endswith(PROGRAM.name)) + 1 :]:
        if word.startswith("--"):
            name, _, value = word.partition("=")
            found[name] = value
        else:
            found[name] = f"{found[name]} {word}".strip()
    return found


def difference(words: Sequence[str], devices: int, model: Path) -> str | None:
    """How a complete run in the folder ``model`` differs from the command ``words``; None where it is its result."""
    now = flags_of(words)
    batch = math.prod([devices, *(int(now[name]) if now[name].isdigit() else 0 for name in SPREAD)])
    try:
        record = read_json(model / "run.json")
        then = flags_of(shlex.split(str(record["command"])))
        trained = read_json(model / "metrics.json")["total_train_batch_size"]
        files = [(Path(file["path"]), file["sha256"]) for file in record["files"].values()]
    except (UserError, ValueError, LookupError, TypeError, AttributeError, StopIteration):
        return "does not say how it was made"
    for name in sorted({*then, *now} - {*SPREAD, *PLACE}):
        if name not in then or name not in now:
            return f"was made {'with' if name in then else 'without'} {name}"
        if then[name] != now[name]:
            return f"was made with {name} {then[name]}, now {now[name]}"
    if trained != batch:
        return f"was made with batch {trained}, now {batch}"
    for path, digest in files:
        if path.is_file() and sha256_of(path) != digest:
            return f"is out of date: {path} has changed since"
    return None


def summary(row: Row, runs: Path, seeds: Sequence[int]) -> str:
    """Tab-separated: each score's last and best epoch by seed, their medians, and the published figure."""
    task = read_runs(row, runs, seeds)
    head = ["score", "epoch", "published", "median", "interval", "sd", *(f"seed {seed}" for seed in seeds)]
    lines = ["\t".join(head)]
    for epoch in ("last", "best"):
        for name, _, published, median, interval, sd, _, _, *values in epoch_rows([task], epoch):
            lines.append("\t".join([name, epoch, published, median, interval, sd, *values]))
    return "\n".join(lines)


def build_parser() -> argparse.ArgumentParser:
    """Options of ``run_task.sh``; see there."""
    parser = argparse.ArgumentParser(prog="run_task.sh", description=__doc__, allow_abbrev=False)
    parser.add_argument("script", help="name of a row, for example roberta_base_cola")
    parser.add_argument("--recipe", default="scripts", help="scripts or paper (default: scripts)")
    parser.add_argument("--seeds", type=int, nargs="+", help="one run each (default: the row's)")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="folder of results (default: runs)")
    parser.add_argument("--max_device_batch", type=int, help="most examples on a device at once")
    parser.add_argument("--dry-run", action="store_true", help="print the commands alone")
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Runs a row with each seed and prints the summary."""
    args, more = build_parser().parse_known_args(argv)
    table = read_hparams()
    row = table.get((args.script.removesuffix(".sh"), args.recipe))
    if row is None:
        names = sorted({name for name, recipe in table if recipe == args.recipe}) or sorted({r for _, r in table})
        raise UserError(f"no row {args.script} with recipe {args.recipe}; choose from {', '.join(names)}")
    devices, gpu = count_devices()
    most = args.max_device_batch or int(row["per_device_train_batch_size"])
    batch = spread(effective_batch(row), devices, most)
    print(
        f"{row['script']} ({args.recipe}): batch {batch.effective} = {batch.per_device} per device x {devices} devices "
        f"x {batch.accumulation} accumulated steps; released: {effective_batch(row)} on {row['num_gpus']} GPUs",
        flush=True,
    )
    if batch.effective != effective_batch(row):
        warn(f"the recipe's batch is {effective_batch(row)}, this run has {batch.effective}")
    if not gpu and "deberta" in row["model_name_or_path"]:
        warn("no GPU, so without --fp16")
    needs_start = row["start"] != "-" and not any(word.startswith("--lora_path") for word in more)
    seeds = args.seeds or [int(row["seed"])]
    for seed in seeds:
        output = args.runs / row["script"] / args.recipe / f"seed{seed}"
        start = find_start(row, args.runs, seed) if needs_start else None
        words = [*command(row, batch, seed=seed, output=output, start=start, gpu=gpu), *more]
        print(shlex.join(words), flush=True)
        if (output / "model" / "metrics.json").is_file():
            found = difference(words, devices, output / "model")
            if found:
                raise UserError(f"{output} {found}; delete it to run it again, or give another --runs")
            print(f"kept: {output} is complete; delete it to run it again")
        elif not args.dry_run:
            code = subprocess.run(words, check=False).returncode
            if code:
                sys.exit(code)
    if not args.dry_run:
        print(summary(row, args.runs, seeds))


def count_devices() -> tuple[int, bool]:
    """(processes, whether they have GPUs): the variable ``num_gpus``, else all GPUs, else one process."""
    try:
        import torch
    except ImportError:
        raise UserError(
            f"{sys.executable} has no torch; install requirement.txt there, or name another Python with PYTHON"
        ) from None
    available = torch.cuda.device_count()
    wanted = os.environ.get("num_gpus", str(available or 1))  # noqa: SIM112 (the released scripts' own name)
    if not wanted.isdigit() or int(wanted) < 1:
        raise UserError(f"the variable num_gpus should be a positive number, got {wanted!r}")
    return int(wanted), available > 0


if __name__ == "__main__":
    run_main(main)
