"""Transformers' Trainer with a two-pass loss, files of what is trained, strict resuming, both halves of MNLI."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from examples.common.files import atomic_write, make_folder
from examples.common.fsdp import ShardableTrainer, full_state_dict, trained_state_dict
from glue.checkpoint import file_name, read_trained, save_trained
from glue.features import Features
from glue.losses import Consistency, consistency_loss
from glue.metrics import overall_accuracy
from glue.model import TaskModel
from glue.weights import check_same_run, load_trained


class GlueTrainer(ShardableTrainer):
    """Trains a ``TaskModel`` model.

    Args:
        built: the model with its description and what is trained of it.
        consistency: settings of R-Drop or cutoff, or None.
        save_full_model: also write base + LoRA + head (unmerged) as ``pytorch_model.bin``.
        mismatched: MNLI's second half, evaluated during training beside ``eval_dataset``.
        **options: of ``ShardableTrainer``.
    """

    def __init__(
        self,
        built: TaskModel,
        *,
        consistency: Consistency | None = None,
        save_full_model: bool = False,
        mismatched: Features | None = None,
        **options: Any,
    ) -> None:
        self.built = built
        self.consistency = consistency
        self.save_full_model = save_full_model
        self.mismatched = mismatched
        super().__init__(model=built.model, trains_part=bool(built.tags), **options)

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

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        folder = Path(output_dir or self.args.output_dir or ".")
        if self.args.should_save:
            make_folder(folder)
            self._keep_settings(folder)
        if not self.built.tags:
            if self.args.should_save:
                super()._save(str(folder), state_dict)
            return
        trained = trained_state_dict(self.built.model)  # of shards, which every process must send
        full = full_state_dict(self.built.model, trained_only=False) if self.save_full_model else None
        if not self.args.should_save:
            return
        save_trained(folder / file_name(self.built.tags), trained, self.built.description)
        if full is not None:
            self.built.model.config.save_pretrained(folder)
            if self.processing_class is not None:
                self.processing_class.save_pretrained(folder)
            with atomic_write(folder / "pytorch_model.bin", binary=True) as stream:
                torch.save(full, stream)

    def _restore(self, folder: str) -> None:
        """Trained weights of a checkpoint of this very run into the model; a ``UserError`` where it is another's."""
        if not self.built.tags:
            super()._restore(folder)
            return
        file = read_trained(folder, self.built.tags)
        check_same_run(file, self.built.description)
        load_trained(self.built.model, file.tensors, tags=self.built.tags, source=str(file.path))
