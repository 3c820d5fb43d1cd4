"""A resumed run reports what the uninterrupted one would: its losses are of all steps, no evaluation is lost."""

from __future__ import annotations

import time
from typing import Any

import torch
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_utils import IntervalStrategy, rotate_checkpoints

KEY = "losses"  # in trainer_state.json, among the states of callbacks


class WholeRun(TrainerCallback):
    """Keeps the Trainer's sums in its checkpoints; transformers counts them from the last start on."""

    def __init__(self, trainer: Trainer) -> None:
        self.trainer = trainer
        self.earlier = 0.0  # seconds of training before this start
        self.save_is_due = False

    def keep(self) -> None:
        """Puts the sums into the state that a checkpoint is about to write. All processes must call it."""
        trainer = self.trainer
        unlogged = trainer.accelerator.gather(trainer._tr_loss.reshape(1)).mean().item()
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
        trainer._tr_loss += torch.tensor(kept["unlogged"], device=args.device)
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
