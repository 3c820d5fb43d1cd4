"""Transformers' Trainer with a two-pass loss, files of what is trained, strict resuming, both halves of MNLI."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from accelerate.utils import save_fsdp_optimizer
from torch import Tensor, nn
from transformers import Trainer
from transformers.trainer import OPTIMIZER_NAME, OPTIMIZER_NAME_BIN, SCHEDULER_NAME

from glue.checkpoint import file_name, read_trained, save_trained
from glue.cli import UserError, atomic_write
from glue.features import Features
from glue.losses import Consistency, consistency_loss
from glue.metrics import overall_accuracy
from glue.model import Built
from glue.settings import check_settings, write_settings
from glue.sharded import LAYERS, whole_state_dict
from glue.trainable import trained_state_dict
from glue.weights import check_same_run, load_trained
from glue.whole_run import WholeRun


class GlueTrainer(Trainer):
    """Trains a ``Built`` model.

    Args:
        built: the model with its description and what is trained of it.
        settings: of this run (``glue.settings``), kept in each checkpoint; None where nothing is trained.
        consistency: settings of R-Drop or cutoff, or None.
        save_full_model: also write base + LoRA + head (unmerged) as ``pytorch_model.bin``.
        mismatched: MNLI's second half, evaluated during training beside ``eval_dataset``.
        **options: of ``Trainer``.
    """

    def __init__(
        self,
        built: Built,
        *,
        settings: dict[str, Any] | None = None,
        consistency: Consistency | None = None,
        save_full_model: bool = False,
        mismatched: Features | None = None,
        **options: Any,
    ) -> None:
        self.built = built
        self.settings = settings
        self.consistency = consistency
        self.save_full_model = save_full_model
        self.mismatched = mismatched
        layers = LAYERS.get(built.model.config.model_type)
        if layers is not None:
            built.model._no_split_modules = layers  # read by accelerate for FSDP
        super().__init__(model=built.model, **options)
        self.whole_run = WholeRun(self)
        self.add_callback(self.whole_run)
        if self.args.fsdp and not self.is_fsdp_enabled:
            raise UserError("--fsdp: accelerate shards on accelerators alone; on CPUs leave it out (DDP does the same)")

    # --- loss ------------------------------------------------------------------------------------------------------

    def get_batch_samples(self, epoch_iterator: Any, num_batches: int, device: torch.device) -> Any:
        """Batches of one optimiser step, and how many examples they are over all processes."""
        batches, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        examples = torch.tensor([sum(len(batch["labels"]) for batch in batches)], device=device)
        return batches, self.accelerator.gather(examples).sum()

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """Mean loss of a batch; with ``consistency`` that of two passes, in evaluation too (as released).

        Both passes run as one batch of twice the size. The outputs are those of the first. In training the loss is
        weighted so that the Trainer's mean over accumulated batches and processes is that over all examples of the
        step, where the last ones of an epoch are of different sizes.

        Args:
            num_items_in_batch: examples of the optimiser step; None in evaluation.
        """
        weight: Tensor | float = 1.0
        if model.training and num_items_in_batch is not None:
            parts = self.current_gradient_accumulation_steps * self.args.world_size
            weight = len(inputs["labels"]) * parts / num_items_in_batch
        if self.consistency is None or "labels" not in inputs:
            loss, outputs = super().compute_loss(model, inputs, return_outputs=True)
            return (loss * weight, outputs) if return_outputs else loss * weight
        inputs = dict(inputs)
        labels = inputs.pop("labels")
        if not model.training and self.consistency.masking_prob == 0:
            first = second = model(**inputs)["logits"]  # without dropout the passes are equal
        else:
            again = self.consistency.second_input(inputs["input_ids"], inputs["attention_mask"])
            both = {name: torch.cat([value, value]) for name, value in inputs.items()}
            both["input_ids"] = torch.cat([inputs["input_ids"], again])
            first, second = model(**both)["logits"].chunk(2)
        loss = consistency_loss(first, second, labels, self.consistency.weight) * weight
        return (loss, {"logits": first}) if return_outputs else loss

    # --- evaluation ------------------------------------------------------------------------------------------------

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: list[str] | None = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """Scores of a data set; during training (without one) those of both halves of MNLI and over both.

        The released Trainer saw the matched half alone, but published figures are the best epoch's over both.
        """
        scores = super().evaluate(eval_dataset, ignore_keys, metric_key_prefix)
        if eval_dataset is None and self.mismatched is not None:
            scores |= super().evaluate(self.mismatched, ignore_keys, f"{metric_key_prefix}_mm")
            counts = len(self.eval_dataset), len(self.mismatched)  # type: ignore[arg-type]
            overall = {f"{metric_key_prefix}_overall_accuracy": overall_accuracy(scores, counts, metric_key_prefix)}
            self.log(overall)
            scores |= overall
        return scores

    # --- files -----------------------------------------------------------------------------------------------------

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Writes what was trained; of a sharded model only that is gathered, not the whole model as by the parent."""
        if not (self.built.tags and self.is_fsdp_enabled):
            super().save_model(output_dir, _internal_call)
            return
        self._save(output_dir)
        if self.args.push_to_hub and not _internal_call:
            self.push_to_hub(commit_message="Model save", revision=self.args.hub_revision)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        self.whole_run.keep()
        super()._save_checkpoint(model, trial)

    def _finalize_training(self, trial: Any, num_train_samples: int, start_time: float) -> Any:
        return super()._finalize_training(trial, num_train_samples, start_time - self.whole_run.earlier)

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        folder = Path(output_dir or self.args.output_dir or ".")
        if self.settings is not None and self.args.should_save:
            write_settings(folder, self.settings)
        if not self.built.tags:
            if self.args.should_save:
                super()._save(str(folder), state_dict)
            return
        trained = trained_state_dict(self.built.model)  # of shards, which every process must send
        whole = whole_state_dict(self.built.model, trained_only=False) if self.save_full_model else None
        if not self.args.should_save:
            return
        folder.mkdir(parents=True, exist_ok=True)
        save_trained(folder / file_name(self.built.tags), trained, self.built.description)
        if whole is not None:
            self.built.model.config.save_pretrained(folder)
            if self.processing_class is not None:
                self.processing_class.save_pretrained(folder)
            with atomic_write(folder / "pytorch_model.bin", binary=True) as stream:
                torch.save(whole, stream)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        if not (self.built.tags and self.is_fsdp_enabled):
            super()._save_optimizer_and_scheduler(output_dir)
            return
        # the parent would add the whole base model to each checkpoint
        plugin = self.accelerator.state.fsdp_plugin
        save_fsdp_optimizer(plugin, self.accelerator, self.optimizer, self.model, output_dir)
        if self.args.should_save:
            assert self.lr_scheduler is not None, "created before training, and checkpoints are written in it"
            torch.save(self.lr_scheduler.state_dict(), Path(output_dir) / SCHEDULER_NAME)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is not None:
            names = {True: OPTIMIZER_NAME_BIN, False: OPTIMIZER_NAME}  # with FSDP or without
            sharded = self.is_fsdp_enabled
            if (Path(checkpoint) / names[not sharded]).is_file() and not (Path(checkpoint) / names[sharded]).is_file():
                raise UserError(
                    f"{checkpoint} was saved {'without' if sharded else 'with'} --fsdp and goes on only that way; "
                    "or start anew from its weights with --lora_path and another --output_dir"
                )
        super()._load_optimizer_and_scheduler(checkpoint)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        if self.settings is not None:
            check_settings(resume_from_checkpoint, self.settings)
        self._restore(resume_from_checkpoint)

    def _load_best_model(self) -> None:
        self._restore(str(self.state.best_model_checkpoint))

    def _restore(self, folder: str) -> None:
        """Trained weights of a checkpoint of this very run into the model; a ``UserError`` where it is another's."""
        if not self.built.tags:
            super()._load_from_checkpoint(folder)
            return
        file = read_trained(folder, self.built.tags)
        check_same_run(file, self.built.description)
        load_trained(self.built.model, file.tensors, tags=self.built.tags, source=str(file.path))
