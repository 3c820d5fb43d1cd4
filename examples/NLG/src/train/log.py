"""What training says while it runs: the released code's lines, ``log.jsonl``, and on request TensorBoard."""

from __future__ import annotations

import json
import os
import sys
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from examples.common.errors import UserError
from examples.common.files import atomic_write
from train.distributed import Process, all_reduce_sum
from train.task import Evaluation

LOG_NAME = "log.jsonl"
THIN_RULER = "-" * 100


class Meter:
    """Training losses since the last log line, summed on the device so that no step waits for it.

    Args:
        device: where the losses are.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.tokens = torch.zeros((), dtype=torch.float64, device=device)  # weight of all batches of the run
        self.reset()

    def reset(self) -> None:
        """Back to zero, but for ``tokens``."""
        self.sums = torch.zeros(2, dtype=torch.float64, device=self.device)  # last loss, sum of losses
        self.count = 0
        self.seconds = 0.0  # of training alone

    def add(self, loss: Tensor, tokens: Tensor) -> None:
        self.sums[0] = loss
        self.sums[1] += loss
        self.count += 1
        self.tokens += tokens

    def read(self, process: Process) -> tuple[float, float]:
        """Last and average loss over all processes; all of them must call this in the same step."""
        last, total = (all_reduce_sum(self.sums.clone(), process) / process.world).tolist()
        return last, total / max(self.count, 1)

    def state_dict(self) -> dict[str, Any]:
        return {"sums": self.sums.cpu(), "count": self.count, "tokens": self.tokens.cpu()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.sums = state["sums"].to(self.device)
        self.count = state["count"]
        self.tokens = state["tokens"].to(self.device)


class TrainLog:
    """Lines on stdout, rows in ``log.jsonl`` and a progress bar; silent on all processes but the first.

    Args:
        work_dir: where ``log.jsonl`` lies.
        tensorboard: also write TensorBoard events to ``work_dir``.
        total: micro-batches of the run, for the bar on stderr (only on a terminal).
        step: micro-batches already trained on.
        rows: lines of ``log.jsonl`` to keep from the run that this one resumes.

    Raises:
        UserError: TensorBoard is asked for and not installed, or the log has fewer than ``rows`` lines.
    """

    def __init__(
        self, work_dir: Path, process: Process, *, tensorboard: bool, total: int | None, step: int, rows: int
    ) -> None:
        self.path = work_dir / LOG_NAME
        self.is_first = process.is_first
        self.rows = rows
        self.total, self._began_at, self._began = total, step, time.perf_counter()
        self._events = _open_tensorboard(work_dir, step) if tensorboard and self.is_first else None
        self._bar = None
        if self.is_first:
            self._keep_rows(rows)
            if sys.stderr.isatty():
                from tqdm import tqdm

                self._bar = tqdm(total=total, initial=step, unit="batch", file=sys.stderr, dynamic_ncols=True)

    def say(self, line: str) -> None:
        """Prints a line on the first process."""
        if not self.is_first:
            return
        if self._bar is not None:
            self._bar.write(line, file=sys.stdout)
        else:
            print(line, flush=True)

    def clear_bar(self) -> None:
        """Takes the bar off the terminal until the next micro-batch, for lines that others print."""
        if self._bar is not None:
            self._bar.clear()

    def advance(self) -> None:
        if self._bar is not None:
            self._bar.update()

    def training(
        self,
        *,
        epoch: int,
        step: int,
        batches: int,
        lr: float,
        next_lr: float,
        meter: Meter,
        loss: tuple[float, float],
        described: str,
    ) -> None:
        """The released line of a log interval, and how far the run is.

        Args:
            lr: what this step used; the released line shows ``next_lr``.
            described: what the task says of the average loss.
        """
        last, average = loss
        ms = 1000.0 * meter.seconds / max(meter.count, 1)
        self.say(
            f"| epoch {epoch:3d} step {step:>8d} | {batches:>6d} batches | lr {next_lr:.3g} | ms/batch {ms:5.2f} | "
            f"loss {last:5.2f} | avg loss {average:5.2f} | {described}"
        )
        if self.total is not None and step < self.total:
            each = (time.perf_counter() - self._began) / (step - self._began_at)
            left = timedelta(seconds=round(each * (self.total - step)))
            self.say(f"  step {step} of {self.total}, {1 / each:.3g} a second, about {left} left")
        self._write({"step": step, "epoch": epoch, "lr": lr, "train_loss": average})

    def evaluation(self, found: Evaluation, *, step: int, number: int, seconds: float, described: str) -> None:
        """The lines of an evaluation."""
        self.say(THIN_RULER)
        self.say(f"| Eval {number:3d} at step {step:>8d} | time: {seconds:5.2f}s | {described}")
        self.say(THIN_RULER)
        self._write({"step": step, **found.figures})

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()
        if self._events is not None:
            self._events.close()

    def _write(self, row: dict[str, Any]) -> None:
        self.rows += 1
        if not self.is_first:
            return
        with self.path.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(row) + "\n")
            stream.flush()
            os.fsync(stream.fileno())  # the state that counts these rows is as lasting
        if self._events is not None:
            for name in row.keys() - {"step", "epoch"}:
                self._events.add_scalar(name, row[name], row["step"])

    def _keep_rows(self, rows: int) -> None:
        """A run that was killed may have logged more than its saved state knows; those steps come again."""
        known = rows > 0 and self.path.exists()
        kept = self.path.read_text(encoding="utf-8").splitlines(keepends=True)[:rows] if known else []
        if len(kept) < rows:
            raise UserError(
                f"--resume: {self.path} has {len(kept)} rows, but the saved state was written after row {rows}; "
                "they do not belong together. Put the complete log back"
            )
        with atomic_write(self.path) as stream:
            stream.writelines(kept)


def _open_tensorboard(work_dir: Path, step: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise UserError("--tensorboard needs the package tensorboard; install it or leave the flag out") from None
    return SummaryWriter(log_dir=str(work_dir), purge_step=step + 1)
