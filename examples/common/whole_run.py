"""A resumed run reports what the uninterrupted one would: its losses are of all steps, no evaluation is lost."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_utils import IntervalStrategy, rotate_checkpoints

from examples.common.resume import check_settings, write_settings

KEY = "losses"  # in trainer_state.json, among the states of callbacks


class ResumableTrainer(Trainer):
    """A Trainer that goes on as if it had not been stopped, from checkpoints of the same settings alone.

    Args:
        settings: of this run (``resume.settings_of``), kept in each checkpoint; None where nothing is trained.
        **options: of ``Trainer``.
    """

    def __init__(self, *, settings: dict[str, Any] | None = None, **options: Any) -> None:
        self.settings = settings
        super().__init__(**options)
        self.whole_run = WholeRun(self)
        self.add_callback(self.whole_run)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        self.whole_run.keep()
        super()._save_checkpoint(model, trial)

    def _finalize_training(self, trial: Any, num_train_samples: int, start_time: float) -> Any:
        # transformers would report the first process's share alone
        self._tr_loss = self.accelerator.gather(self._tr_loss.reshape(1)).mean()
        return super()._finalize_training(trial, num_train_samples, start_time - self.whole_run.earlier)

    def _keep_settings(self, folder: Path) -> None:
        """Called by the ``_save`` of the subclass, in the process that writes."""
        if self.settings is not None:
            write_settings(folder, self.settings)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        if self.settings is not None:
            check_settings(resume_from_checkpoint, self.settings)
        self._restore(resume_from_checkpoint)

    def _load_best_model(self) -> None:
        self._restore(str(self.state.best_model_checkpoint))

    def _restore(self, folder: str) -> None:
        """Trained weights of a checkpoint of this very run into the model; the subclass knows its own files."""
        super()._load_from_checkpoint(folder)


class WholeRun(TrainerCallback):
    """Keeps the Trainer's sums in its checkpoints; transformers counts them from the last start on."""

    def __init__(self, trainer: Trainer) -> None:
        self.trainer = trainer
        self.earlier = 0.0  # seconds of training before this start
        self.save_is_due = False

    def keep(self) -> None:
        """Puts the sums into the state that a checkpoint is about to write. All processes must call it."""
        trainer = self.trainer
        unlogged = trainer.accelerator.gather(trainer._tr_loss.reshape(1)).tolist()  # of each process
        states: Any = trainer.state.stateful_callbacks  # a dict by now, whatever its annotation says
        states[KEY] = {
            "logged": trainer._total_loss_scalar,
            "unlogged": unlogged,
            "step_logged": trainer._globalstep_last_logged,
            "seconds": self.earlier + time.time() - self.started,
        }

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.started = time.time()
        states: Any = state.stateful_callbacks
        kept = states.get(KEY)
        if not kept:
            return
        self.earlier = kept["seconds"]
        trainer = self.trainer
        trainer._total_loss_scalar = kept["logged"]
        parts = kept["unlogged"]
        own = parts[args.process_index] if len(parts) == args.world_size else sum(parts) / len(parts)
        trainer._tr_loss += torch.tensor(own, device=args.device)
        trainer._globalstep_last_logged = kept["step_logged"]
        trainer._initial_global_step = 0

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """A checkpoint that falls on the end of an epoch waits for what is evaluated and logged there."""
        ends = state.epoch == int(state.epoch or 0) or control.should_training_stop
        if ends and control.should_save and IntervalStrategy.EPOCH in (args.eval_strategy, args.logging_strategy):
            control.should_save, self.save_is_due = False, True

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if self.save_is_due:
            control.should_save, self.save_is_due = True, False

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Removes a checkpoint whose removal a kill has cut off when no other was to follow."""
        if args.should_save:
            rotate_checkpoints(str(args.output_dir), args.save_total_limit, state.best_model_checkpoint)
