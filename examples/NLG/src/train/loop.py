"""The training loop of the released code: epochs of micro-batches, with logs, checkpoints and evaluations between."""

from __future__ import annotations

import argparse
import math
import time
from pathlib import Path

from gpt2.checkpoint import BaseFile, save_full, save_lora

from examples.common.errors import UserError
from train.data import FT_Dataset
from train.distributed import Process
from train.evaluation import Validation, evaluate
from train.log import THIN_RULER, Meter, TrainLog
from train.sampler import bucketed_batches, global_batches, num_batches, shard
from train.signals import StopRequest
from train.state import Progress, identity, load_state, save_state
from train.step import TrainStep

BEST_NAME = "model.best.pt"


class Trainer:
    """A training run: ``run`` goes from where it stands to its end.

    Args:
        args: the flags of ``gpt2_ft.py``, checked, with ``max_step`` known.
        files: role to sha256 of the input files, which a resumed run must share.
        base: the pretrained file, recorded in the checkpoints.

    Raises:
        UserError: ``args.resume`` finds the state of another run.
    """

    def __init__(
        self,
        args: argparse.Namespace,
        process: Process,
        train: TrainStep,
        *,
        train_data: FT_Dataset,
        valid_data: FT_Dataset,
        files: dict[str, str | None],
        base: BaseFile | None,
    ) -> None:
        self.args = args
        self.process = process
        self.train = train
        self.train_data = train_data
        self.valid_data = valid_data
        self.base = base
        self.work_dir = Path(args.work_dir)
        self.meter = Meter(process.device)
        self.identity = identity(args, train.model.config, files, process)
        saved = load_state(self.work_dir, train, self.meter, process, self.identity) if args.resume else None
        self.resumed = saved is not None
        self.progress = saved or Progress()
        if self.progress.finished and not self._is_over:  # the flags now ask for a longer training
            self.progress.finished = False
            if self.progress.batches == num_batches(train_data.n_rows, process.world * args.train_batch_size):
                self.progress.next_epoch()
        self.log = TrainLog(
            self.work_dir,
            process,
            tensorboard=args.tensorboard,
            total=args.max_step,
            step=self.progress.step,
            rows=self.progress.log_rows,
        )
        self._mark = 0.0

    def run(self) -> int | None:
        """Trains to the end, or until a signal asks to stop; then the state is saved first.

        Returns:
            The number of the signal that ended training early, None after a whole run.

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
        args, progress, process = self.args, self.progress, self.process
        self.log.clear_bar()
        print(f"start to train the model................ {progress.epoch}", flush=True)
        size, draw = process.world * args.train_batch_size, {"seed": args.random_seed, "epoch": progress.epoch}
        if args.bucket_by_length:
            epoch_batches = bucketed_batches(self.train_data.lengths, size, **draw)
        else:
            epoch_batches = global_batches(self.train_data.n_rows, size, **draw)
        self._mark = time.perf_counter()
        for rows in epoch_batches[progress.batches :]:
            if 0 < progress.step == args.max_step:
                break
            self._train_batch(rows)
            if self._should_stop(stop):
                self._save_state()
                return False
        self._end_epoch()
        return True

    def _train_batch(self, rows: list[int]) -> None:
        args, progress = self.args, self.progress
        batch = self.train_data.batch(shard(rows, self.process.rank, self.process.world))
        lr = self._lr
        loss, tokens = self.train(batch, progress.step + 1)
        self.meter.add(loss, tokens)
        progress.step += 1
        progress.batches += 1
        self.log.advance()
        if progress.step % args.log_interval == 0:
            self._log_training(lr)
        if progress.step % args.save_interval == 0:
            self._save_checkpoint(lora_only=True)
        if progress.step % args.eval_interval == 0:
            self._evaluate()
        if progress.step % args.save_interval == 0:  # after the evaluation, which a resumed run must not repeat
            self._save_state()

    def _end_epoch(self) -> None:
        """Complete checkpoint; then the state stands at the beginning of the next epoch, or at the end."""
        args, progress = self.args, self.progress
        if args.eval_each_epoch and progress.step % args.eval_interval:
            self._evaluate()
        self._save_checkpoint(lora_only=args.lora_only_checkpoints)
        self._lap()
        progress.finished = self._is_over
        if not progress.finished:
            progress.next_epoch()
        self.meter.reset()
        self._save_state()

    @property
    def _is_over(self) -> bool:
        args, progress = self.args, self.progress
        return progress.step >= args.max_step or (args.max_epoch is not None and progress.epoch >= args.max_epoch)

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
        )
        self.meter.reset()

    def _evaluate(self) -> None:
        args, progress = self.args, self.progress
        self._finite_loss()
        self._lap()
        began = time.perf_counter()
        self.log.clear_bar()
        found = evaluate(
            self.train.model,
            self.valid_data,
            self.process,
            batch_size=args.valid_batch_size,
            seed=args.random_seed,
            autocast=self.train.autocast(),
        )
        progress.valid, progress.valid_token = found.loss, found.token_loss
        progress.epoch_best = min(found.loss, math.inf if progress.epoch_best is None else progress.epoch_best)
        self.log.validation(
            found,
            step=progress.step,
            number=progress.step // args.eval_interval,
            seconds=time.perf_counter() - began,
            best=progress.epoch_best,
        )
        self._keep_best(found)
        self._mark = time.perf_counter()

    def _keep_best(self, found: Validation) -> None:
        if self.progress.best is None or found.loss < self.progress.best:
            self.progress.best, self.progress.best_step = found.loss, self.progress.step
            self._write_checkpoint(BEST_NAME, lora_only=True)

    def _save_checkpoint(self, *, lora_only: bool) -> None:
        self._finite_loss()
        self._lap()
        name = f"model.{self.progress.step}.pt"
        self.log.say(f"saving checkpoint {self.args.work_dir}/{name}")
        self._write_checkpoint(name, lora_only=lora_only)
        self._mark = time.perf_counter()

    def _write_checkpoint(self, name: str, *, lora_only: bool) -> None:
        """Only the first process writes. Without LoRA every checkpoint is complete."""
        if not self.process.is_first:
            return
        model = self.train.model
        save = save_lora if lora_only and model.lora_config.r > 0 else save_full
        save(self.work_dir / name, model, self.base, self.progress.step)

    def _save_state(self) -> None:
        self._finite_loss()
        self._lap()
        self.progress.log_rows = self.log.rows
        save_state(self.work_dir, self.progress, self.train, self.meter, self.process, self.identity)
        self._mark = time.perf_counter()

    def _should_stop(self, stop: StopRequest) -> bool:
        """Asked after each micro-batch, but between GPUs only now and then: the question makes them wait."""
        several_gpus = self.process.world > 1 and self.process.device.type == "cuda"
        if several_gpus and self.progress.step % self.args.log_interval:
            return False
        return stop.agreed(self.process)

    def _finite_loss(self) -> tuple[float, float]:
        """Last and average loss since the last log line; nothing is written once they or a weight are not finite."""
        loss = self.meter.read(self.process)
        if not all(map(math.isfinite, loss)) or not self.train.weights_are_finite():
            raise UserError(
                f"training broke down by step {self.progress.step}: the loss or a weight is not finite "
                f"(average loss {loss[1]}); what was saved before is whole. Try a lower --lr, --clip 1.0, or no --fp16"
            )
        return loss

    def _lap(self) -> None:
        """Counts the time since the last mark as training time."""
        now = time.perf_counter()
        self.meter.seconds += now - self._mark
        self.progress.seconds += now - self._mark
        self._mark = now
