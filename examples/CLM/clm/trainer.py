"""Transformers' Trainer with sums for losses, adapter folders as checkpoints, and strict resuming."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import EarlyStoppingCallback, EvalPrediction, PreTrainedModel

import loralib
from clm.features import IGNORED
from clm.heads import pick
from clm.losses import class_scores, language_scores, row_figures, token_losses
from clm.run_folder import Facts, write_facts
from examples.common.errors import UserError
from examples.common.fsdp import ShardableTrainer, copy_into, is_sharded, tied_again, trained_state_dict


class ClmTrainer(ShardableTrainer):
    """Trains a model on one of the four tasks.

    The loss of a step is the mean over all tokens (``sft``, ``lm``) or examples (``cls``, ``cloze``) of the step,
    however they are spread over batches and processes; that of an evaluation is the mean over the whole data set.

    Args:
        model: prepared by ``apply_method``.
        facts: of the run; ``word_ids`` are the labels' tokens in ``cloze``.
        no_decay: parameters without weight decay.
        **options: of ``ShardableTrainer``.
    """

    loss_is_scaled_for_ga = True

    def __init__(
        self,
        model: PreTrainedModel,
        facts: Facts,
        *,
        no_decay: frozenset[str] = frozenset(),
        **options: Any,
    ) -> None:
        self.facts = facts
        self.no_decay = no_decay
        self.is_lora = facts.method == "lora"
        self.whole: PreTrainedModel | None = model
        if self.is_lora and options["args"].fsdp:  # an adapter's file knows all of its base, which shards do not
            self.whole = copy.deepcopy(model) if options["args"].process_index == 0 else None
        super().__init__(model=model, trains_part=self.is_lora, compute_metrics=self._scores, **options)
        self.model_accepts_loss_kwargs = True  # so that the Trainer counts what a step's mean is over
        patience = getattr(self.args, "early_stopping_patience", None)
        if patience is not None:
            self.add_callback(EarlyStoppingCallback(patience, self.args.early_stopping_threshold))  # type: ignore[attr-defined]

    # --- loss ------------------------------------------------------------------------------------------------------

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """Sum of the batch's losses over the number of items in the whole step (``num_items_in_batch``)."""
        inputs = dict(inputs)
        labels = inputs.pop("labels")
        outputs = self._outputs(model, inputs)
        if self.facts.task in ("sft", "lm"):
            losses = token_losses(outputs, labels, self.args.label_smoothing_factor)
        else:
            losses = nn.functional.cross_entropy(
                outputs.float(), labels[:, 1], reduction="none", label_smoothing=self.args.label_smoothing_factor
            )
        items = max(losses.numel(), 1) if num_items_in_batch is None else num_items_in_batch
        loss = losses.sum() / items * (1 if num_items_in_batch is None else self.accelerator.num_processes)
        return (loss, {"logits": outputs}) if return_outputs else loss

    def _outputs(self, model: nn.Module, inputs: dict[str, Any]) -> Tensor:
        """Logits: (B, T, V) of a language model, (B, labels) of the two tasks with labels."""
        logits: Tensor = model(**inputs).logits
        if self.facts.task == "cloze":
            return pick(logits, inputs["attention_mask"])[:, list(self.facts.word_ids)]
        return logits

    def _get_num_items_in_batch(self, batch_samples: list[Any], device: torch.device) -> Tensor | int | None:
        # the first label of a row never counts, shifted or not
        self._loss_shifts_labels = True
        return super()._get_num_items_in_batch(batch_samples, device)

    def get_decay_parameter_names(self, model: nn.Module) -> list[str]:
        return [name for name in super().get_decay_parameter_names(model) if name not in self.no_decay]

    # --- evaluation ------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def prediction_step(
        self, model: nn.Module, inputs: dict[str, Any], prediction_loss_only: bool, ignore_keys: Any = None
    ) -> tuple[None, Tensor, Tensor]:
        """Sums for each row instead of its logits over the vocabulary; the loss is made of them at the end."""
        inputs = self._prepare_inputs(inputs)
        labels = inputs.pop("labels", None)
        with self.compute_loss_context_manager():
            outputs = self._outputs(model, inputs)
        if self.facts.task in ("sft", "lm"):
            assert labels is not None, "language models are evaluated on examples with labels alone"
            return None, row_figures(outputs, labels), torch.zeros(len(labels), device=labels.device)
        unknown = torch.full((len(outputs),), IGNORED, device=outputs.device)
        return None, outputs.float(), unknown if labels is None else labels[:, 1].contiguous()

    def _scores(self, result: EvalPrediction) -> dict[str, float]:
        predictions: Any = result.predictions
        labels: Any = result.label_ids
        if self.facts.task in ("sft", "lm"):
            return language_scores(predictions)
        return {} if (labels == IGNORED).any() else class_scores(predictions, labels)

    # --- files -----------------------------------------------------------------------------------------------------

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        folder = Path(output_dir or str(self.args.output_dir))
        model: Any = self.model
        shards = self.is_lora and is_sharded(model)
        trained = trained_state_dict(model) if shards else {}  # which every process must send
        if not self.args.should_save:
            return
        if self.is_lora:
            assert self.whole is not None, "the process that saves has the whole model"
            folder.mkdir(parents=True, exist_ok=True)
            copy_into(self.whole, trained)
            loralib.save_adapter(self.whole, folder)
            if self.processing_class is not None:
                self.processing_class.save_pretrained(folder)
        else:
            super()._save(str(folder), None if state_dict is None else tied_again(model, state_dict))
        write_facts(folder, self.facts)
        self._keep_settings(folder)

    def _restore(self, folder: str) -> None:
        if not self.is_lora:
            super()._restore(folder)
            return
        if self.whole is not None:
            try:
                loralib.load_adapter(self.whole, folder)
            except (ValueError, FileNotFoundError) as error:
                raise UserError(str(error)) from None
        model: Any = self.model
        if is_sharded(model):
            copy_into(model, trained_state_dict(self.whole) if self.whole is not None else {})
