"""Fine-tunes GPT-2, with LoRA or fully, on token ids from ``gpt2_encode.py``.

Writes to ``--work_dir``, which holds one run: ``model.<step>.pt``, ``model.best.pt`` (lowest validation loss),
``training_state.pt`` (for ``--resume``), ``log.jsonl``, ``metrics.json`` and ``run.json``. Ends with 0 after a complete
run, 2 after a mistake, 130 after Ctrl-C and 143 after SIGTERM, both with the state saved.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from train.flags import (
    add_optimizer_flags,
    add_platform_flags,
    add_training_flags,
    check_flags,
    parse,
    print_args,
)

from examples.common.errors import run_main
from examples.common.files import write_json

if TYPE_CHECKING:  # torch takes a second to import, which --help and a mistaken flag need not wait for
    from train.distributed import Process
    from train.loop import Trainer


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    add_platform_flags(parser)
    add_optimizer_flags(parser)
    add_training_flags(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    args = parse(build_parser(), argv)
    check_flags(args)
    from train.distributed import distributed_run
    from train.work_folder import work_folder

    with distributed_run(args) as process:
        if process.is_first:
            print_args(args, **process.found())
        with work_folder(args, process):
            signum = fine_tune(args, process)
    if signum is not None:
        sys.exit(128 + signum)


def fine_tune(args: argparse.Namespace, process: Process) -> int | None:
    """Runs training in this process; returns the signal that ended it early, if one did."""
    from train.setup import build_trainer

    from examples.common.record import Run

    run = Run(process.device, args.random_seed, {role: getattr(args, role) for role in INPUTS})
    trainer = build_trainer(args, process, run)
    if process.is_first:
        run.write(trainer.work_dir / "run.json", finished=False)
    signum = trainer.run()
    if process.is_first:
        run.write(trainer.work_dir / "run.json", finished=signum is None)
        write_json(trainer.work_dir / "metrics.json", metrics(trainer))
    return signum


INPUTS = ("train_data", "valid_data", "init_checkpoint", "base_checkpoint")


def metrics(trainer: Trainer) -> dict[str, Any]:
    """Numbers of the run with its settings; losses in nats per token, times in seconds, memory in bytes."""
    from examples.common.record import device_name, peak_memory_bytes, versions

    progress, model = trainer.progress, trainer.train.model
    checkpoint = trainer.work_dir / f"model.{progress.step}.pt"  # absent after Ctrl-C between two checkpoints
    return {
        "trainable_parameters": sum(p.numel() for p in trainer.train.trainable),
        "total_parameters": sum(p.numel() for p in model.parameters()),
        "steps": progress.step,
        "tokens": int(trainer.meter.tokens),
        "train_seconds": progress.seconds,
        "peak_memory_bytes": peak_memory_bytes(trainer.process.device),
        "checkpoint_bytes": checkpoint.stat().st_size if checkpoint.exists() else None,
        "best_valid_loss": progress.best,
        "best_step": progress.best_step,
        "final_valid_loss": progress.figures.get("valid_loss"),
        "final_valid_token_loss": progress.figures.get("valid_token_loss"),
        "finished": progress.finished,
        "seed": trainer.settings.random_seed,
        "device": device_name(trainer.process.device),
        "settings": {name: value for name, value in vars(trainer.settings).items() if not name.startswith("_")},
        "versions": versions(),
    }


if __name__ == "__main__":
    run_main(main)
