"""The training loop of the released code: epochs of micro-batches, with logs, checkpoints and evaluations between."""

from __future__ import annotations

import argparse
import math
import time
from pathlib import Path
from typing import Any

from examples.common.errors import UserError
from train.distributed import Process
from train.log import THIN_RULER, Meter, TrainLog
from train.sampler import bucketed_batches, global_batches, num_batches, shard
from train.signals import StopRequest
from train.state import Progress, load_state, save_state
from train.step import TrainStep
from train.task import Task

BEST_NAME = "model.best.pt"


class Trainer:
    """A training run: ``run`` goes from where it stands to its end.

    Args:
        settings: the flags of ``gpt2_ft.py``, checked, and what follows from them (``setup.settle``).
        who: what a run that this one resumes must share, see ``state.identity``.

    Raises:
        UserError: ``settings.resume`` finds the state of another run.
    """

    def __init__(
        self, settings: argparse.Namespace, process: Process, task: Task, train: TrainStep, who: dict[str, Any]
    ) -> None:
        self.settings = settings
        self.process = process
        self.task = task
        self.train = train
        self.identity = who
        self.work_dir = Path(settings.work_dir)
        self.meter = Meter(process.device)
        saved = load_state(self.work_dir, train, self.meter, process, who) if settings.resume else None
        self.resumed = saved is not None
        self.progress = saved or Progress()
        self.batch_size = process.world * settings.train_batch_size
        if self.progress.finished and not self._is_over:  # the flags now ask for a longer training
            self.progress.finished = False
            if self.progress.batches == num_batches(task.n_rows, self.batch_size):
                self.progress.next_epoch()
        self.log = TrainLog(
            self.work_dir,
            process,
            tensorboard=settings.tensorboard,
            total=settings.max_step,
            step=self.progress.step,
            rows=self.progress.log_rows,
        )
        self._mark = 0.0

    def run(self) -> int | None:
        """Trains to the end, or until a signal asks to stop; then the state is saved first.

        Returns:
            The number of the signal that ended training early, None after a complete run.

        Raises:
            UserError: the loss or a weight is no longer finite. What was saved before stays.
        """
        self.train.model.train()
        with StopRequest() as stop:
            try:
                while not self.progress.finished and self._train_epoch(stop):
                    pass
            finally:
                self.log.close()
        self.log.say(THIN_RULER)
        self.log.say("End of training" if self.progress.finished else "Exiting from training early")
        return None if self.progress.finished else stop.signum

    def _train_epoch(self, stop: StopRequest) -> bool:
        """The rest of the current epoch; False where it was left because of a signal."""
        settings, progress = self.settings, self.progress
        self.log.clear_bar()
        print(f"start to train the model................ {progress.epoch}", flush=True)
        draw = {"seed": settings.random_seed, "epoch": progress.epoch}
        if settings.bucket_by_length:
            epoch_batches = bucketed_batches(self.task.lengths, self.batch_size, **draw)
        else:
            epoch_batches = global_batches(self.task.n_rows, self.batch_size, **draw)
        self._mark = time.perf_counter()
        for rows in epoch_batches[progress.batches :]:
            if 0 < progress.step == settings.max_step or self._is_out_of_patience:
                break
            self._train_batch(rows)
            if self._should_stop(stop):
                self._save_state()
                return False
        self._end_epoch()
        return True

    def _train_batch(self, rows: list[int]) -> None:
        settings, progress = self.settings, self.progress
        batch = self.task.batch(shard(rows, self.process.rank, self.process.world))
        lr = self._lr
        loss, tokens = self.train(batch, progress.step + 1)
        self.meter.add(loss, tokens)
        progress.step += 1
        progress.batches += 1
        self.log.advance()
        if progress.step % settings.log_interval == 0:
            self._log_training(lr)
        if progress.step % settings.save_interval == 0:
            self._save_checkpoint(complete=False)
        if progress.step % settings.eval_interval == 0:
            self._evaluate()
        if progress.step % settings.save_interval == 0:  # after the evaluation, which a resumed run must not repeat
            self._save_state()

    def _end_epoch(self) -> None:
        """Complete checkpoint; then the state stands at the beginning of the next epoch, or at the end."""
        settings, progress = self.settings, self.progress
        if settings.eval_each_epoch and progress.step % settings.eval_interval:
            self._evaluate()
        self._save_checkpoint(complete=not settings.lora_only_checkpoints)
        self._lap()
        progress.finished = self._is_over
        if self._is_out_of_patience:
            self.log.say(f"no new best in {progress.stale} evaluations: the best was at step {progress.best_step}")
        if not progress.finished:
            progress.next_epoch()
        self.meter.reset()
        self._save_state()

    @property
    def _is_over(self) -> bool:
        settings, progress = self.settings, self.progress
        is_last_epoch = settings.max_epoch is not None and progress.epoch >= settings.max_epoch
        return progress.step >= settings.max_step or is_last_epoch or self._is_out_of_patience

    @property
    def _is_out_of_patience(self) -> bool:
        patience = self.settings.patience
        return patience is not None and self.progress.stale >= patience

    @property
    def _lr(self) -> float:
        return self.train.optimizer.param_groups[0]["lr"]

    def _log_training(self, lr: float) -> None:
        loss = self._finite_loss()
        self._lap()
        self.log.training(
            epoch=self.progress.epoch,
            step=self.progress.step,
            batches=self.progress.batches,
            lr=lr,
            next_lr=self._lr,
            meter=self.meter,
            loss=loss,
            described=self.task.describe_loss(loss[1]),
        )
        self.meter.reset()

    def _evaluate(self) -> None:
        settings, progress = self.settings, self.progress
        self._finite_loss()
        self._lap()
        began = time.perf_counter()
        self.log.clear_bar()
        found = self.task.evaluate(self.process, self.train.autocast())
        progress.figures = found.figures
        if progress.epoch_best is None or self._is_better(found.primary, progress.epoch_best):
            progress.epoch_best = found.primary
        self.log.evaluation(
            found,
            step=progress.step,
            number=progress.step // settings.eval_interval,
            seconds=time.perf_counter() - began,
            described=self.task.describe(found, progress.epoch_best),
        )
        self._keep_best(found.primary)
        self._mark = time.perf_counter()

    def _is_better(self, figure: float, than: float) -> bool:
        return figure > than if self.task.higher_is_better else figure < than

    def _keep_best(self, figure: float) -> None:
        progress = self.progress
        progress.stale += 1
        if progress.best is None or self._is_better(figure, progress.best):
            progress.best, progress.best_step, progress.stale = figure, progress.step, 0
            self._write_checkpoint(BEST_NAME, complete=False)

    def _save_checkpoint(self, *, complete: bool) -> None:
        self._finite_loss()
        self._lap()
        name = f"model.{self.progress.step}.pt"
        self.log.say(f"saving checkpoint {self.settings.work_dir}/{name}")
        self._write_checkpoint(name, complete=complete)
        self._mark = time.perf_counter()

    def _write_checkpoint(self, name: str, *, complete: bool) -> None:
        if self.process.is_first:
            self.task.save(self.work_dir / name, self.progress.step, complete=complete)

    def _save_state(self) -> None:
        self._finite_loss()
        self._lap()
        self.progress.log_rows = self.log.rows
        save_state(self.work_dir, self.progress, self.train, self.meter, self.process, self.identity)
        self._mark = time.perf_counter()

    def _should_stop(self, stop: StopRequest) -> bool:
        """Checked after each micro-batch; several GPUs, which have to wait to agree, check at log lines only."""
        several_gpus = self.process.world > 1 and self.process.device.type == "cuda"
        if several_gpus and self.progress.step % self.settings.log_interval:
            return False
        return stop.agreed(self.process)

    def _finite_loss(self) -> tuple[float, float]:
        """Last and average loss since the last log line; nothing is written once they or a weight are not finite."""
        loss = self.meter.read(self.process)
        if not all(map(math.isfinite, loss)) or not self.train.weights_are_finite():
            raise UserError(
                f"training broke down by step {self.progress.step}: the loss or a weight is not finite "
                f"(average loss {loss[1]}); what was saved before is intact. Try a lower --lr, --clip 1.0, or no --fp16"
            )
        return loss

    def _lap(self) -> None:
        """Counts the time since the last mark as training time."""
        now = time.perf_counter()
        self.meter.seconds += now - self._mark
        self.progress.seconds += now - self._mark
        self._mark = now
