"""Everything that an interrupted training run needs to go on as if nothing had happened.

On a CPU a resumed run equals an uninterrupted one bit for bit; on a GPU as far as its kernels repeat themselves.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from gpt2.checkpoint import write_tensors

from examples.common.errors import UserError, warn
from train.distributed import Process, gather_objects
from train.log import Meter
from train.step import TrainStep

STATE_NAME = "training_state.pt"
LENGTH = ("--max_step", "--max_epoch")  # may grow, for a longer training
# Flags that may differ when a run goes on: where it runs and reports. Input files are compared by content instead.
MAY_DIFFER = frozenset(
    {"platform", "local_rank", "rank", "device", "world_size", "dist", "gradient_checkpointing", "fast_cpu_products"}
    | {"work_dir", "resume", "tensorboard", "log_interval", "save_interval", "lora_only_checkpoints", "patience"}
    | {"train_data", "valid_data", "init_checkpoint", "base_checkpoint", "model_card"}
    | {"roll_interval", "roll_lr", "roll_step", "eval_epoch"}
)


@dataclass
class Progress:
    """Where a run stands after a micro-batch.

    Attributes:
        epoch: the current one, from 1.
        batches: micro-batches done in it.
        step: micro-batches done in all.
        epoch_best: best primary figure of the epoch, None before the first evaluation.
        best, best_step: best of the run, and when.
        stale: evaluations since then.
        figures: of the latest evaluation.
        seconds: spent in training steps.
        log_rows: rows in ``log.jsonl``.
        finished: nothing is left to do.
    """

    epoch: int = 1
    batches: int = 0
    step: int = 0
    epoch_best: float | None = None
    best: float | None = None
    best_step: int | None = None
    stale: int = 0
    figures: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0
    log_rows: int = 0
    finished: bool = False

    def next_epoch(self) -> None:
        self.epoch, self.batches, self.epoch_best = self.epoch + 1, 0, None


def identity(
    settings: argparse.Namespace, sizes: Mapping[str, Any], files: Mapping[str, str | None], process: Process
) -> dict[str, Any]:
    """What must be equal for a run to go on: flags that matter, the model's sizes, input files by sha256, processes."""
    flags = {f"--{name}": v for name, v in vars(settings).items() if name not in MAY_DIFFER and name[0] != "_"}
    contents = {f"the content of --{role}": digest for role, digest in files.items()}
    machine = {"the number of processes": process.world, "the device": process.device.type}
    return {**flags, **sizes, **contents, **machine}


def save_state(
    work_dir: Path, progress: Progress, train: TrainStep, meter: Meter, process: Process, who: dict[str, Any]
) -> None:
    """Writes ``training_state.pt`` atomically; all processes must call this after the same step."""
    unfinished = progress.step % train.grad_acc != 0
    own = {
        "torch_rng": torch.get_rng_state(),
        "cuda_rng": torch.cuda.get_rng_state(process.device) if process.device.type == "cuda" else None,
        "python_rng": random.getstate(),
        "meter": meter.state_dict(),
        "gradients": train.gradients() if unfinished else None,
    }
    processes = gather_objects(own, process)
    if process.is_first:
        content = {"identity": who, "progress": asdict(progress), "train": train.state_dict(), "processes": processes}
        write_tensors(work_dir / STATE_NAME, content)


def load_state(
    work_dir: Path, train: TrainStep, meter: Meter, process: Process, who: dict[str, Any]
) -> Progress | None:
    """Puts a saved state into a freshly built run.

    Returns:
        Where that run stood; None where ``work_dir`` has no saved state.

    Raises:
        UserError: the file is damaged, or belongs to a run that differs; the message names the first differences.
    """
    path = work_dir / STATE_NAME
    if not path.exists():
        return None
    damaged = f"{path} is damaged or not a training state; move it away, or give another --work_dir"
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        saved = {**state["identity"]}
        known = {field.name for field in fields(Progress)}
        progress = Progress(**{name: value for name, value in state["progress"].items() if name in known})
        progress.step = state["progress"]["step"]  # must be there, unlike a field that an older program did not know
    except OSError:
        raise
    except Exception:  # unpickling arbitrary bytes raises almost anything
        raise UserError(damaged) from None
    differences = {
        name: f"{name} was {saved.get(name)}, is {who.get(name)}"
        for name in [*saved, *(who.keys() - saved.keys())]
        if (saved.get(name) or None) != (who.get(name) or None)  # an older program knew fewer flags, all off
        and name.removeprefix("--") not in MAY_DIFFER
    }
    longer = [differences.pop(name) for name in LENGTH if name in differences and _grows(saved.get(name), who[name])]
    if differences:
        raise UserError(f"--resume: {path} belongs to another run: {'; '.join([*differences.values()][:5])}")
    if longer and process.is_first:
        warn(f"--resume: {'; '.join(longer)}: training goes on longer, from here at the rates of that length")
    try:
        train.load_state_dict(state["train"])
        own = state["processes"][process.rank]
        meter.load_state_dict(own["meter"])
        if own["gradients"] is not None:
            train.load_gradients(own["gradients"])
        torch.set_rng_state(own["torch_rng"])
        if own["cuda_rng"] is not None:
            torch.cuda.set_rng_state(own["cuda_rng"], process.device)
        random.setstate(own["python_rng"])
    except (LookupError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise UserError(f"{damaged} ({error})") from error
    return progress


def _grows(before: int | None, now: int | None) -> bool:
    return now is None or (before is not None and now > before)
