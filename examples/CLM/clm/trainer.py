"""Transformers' Trainer with sums for losses, adapter folders as checkpoints, and strict resuming."""

from __future__ import annotations

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
from examples.common.whole_run import ResumableTrainer


class ClmTrainer(ResumableTrainer):
    """Trains a model on one of the four tasks.

    The loss of a step is the mean over all tokens (``sft``, ``lm``) or examples (``cls``, ``cloze``) of the step,
    however they are spread over batches and processes; that of an evaluation is the mean over the whole data set.

    Args:
        model: prepared by ``apply_method``.
        facts: of the run; ``word_ids`` are the labels' tokens in ``cloze``.
        no_decay: parameters without weight decay.
        **options: of ``ResumableTrainer``.
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
        super().__init__(model=model, compute_metrics=self._scores, **options)
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
        if self.facts.method == "lora":
            if not self.args.should_save:
                return
            folder.mkdir(parents=True, exist_ok=True)
            loralib.save_adapter(self.model, folder)  # type: ignore[arg-type]
            if self.processing_class is not None:
                self.processing_class.save_pretrained(folder)
        else:
            super()._save(str(folder), state_dict)
        if self.args.should_save:
            write_facts(folder, self.facts)
            self._keep_settings(folder)

    def _restore(self, folder: str) -> None:
        if self.facts.method != "lora":
            super()._restore(folder)
            return
        try:
            loralib.load_adapter(self.model, folder)  # type: ignore[type-var]
        except (ValueError, FileNotFoundError) as error:
            raise UserError(str(error)) from None
