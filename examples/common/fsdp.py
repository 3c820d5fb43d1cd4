"""FSDP of a transformers Trainer that trains a part of a model: sharded runs leave the files of unsharded ones.

Transformers would write the whole base model into each checkpoint. Here only what is trained is gathered, under its
own names, so that files start or evaluate runs with and without FSDP.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from accelerate.utils import save_fsdp_optimizer
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict, set_model_state_dict
from torch.distributed.tensor import DTensor
from transformers import TrainingArguments
from transformers.trainer import OPTIMIZER_NAME, OPTIMIZER_NAME_BIN, SCHEDULER_NAME
from transformers.training_args import ParallelMode

from examples.common.errors import UserError
from examples.common.whole_run import ResumableTrainer

# What is gathered, used and let go together, by kind of model; transformers names none for some of them
LAYERS = {
    "bert": ["BertLayer"],
    "roberta": ["RobertaLayer"],
    "distilbert": ["TransformerBlock"],
    "electra": ["ElectraLayer"],
    "deberta": ["DebertaLayer"],
    "deberta-v2": ["DebertaV2Layer"],
    "gpt2": ["GPT2Block"],
}


class ShardableTrainer(ResumableTrainer):
    """A Trainer whose model may be sharded.

    Args:
        trains_part: whether frozen weights stay out of the files; ``_save`` of the subclass writes the rest
            (``trained_state_dict``). Full fine-tuning is left to the parent.
        **options: of ``ResumableTrainer``.

    Raises:
        UserError: ``--fsdp`` where accelerate would leave it out without a word.
    """

    def __init__(self, *, model: nn.Module, trains_part: bool, **options: Any) -> None:
        self.trains_part = trains_part
        layers = LAYERS.get(getattr(model.config, "model_type", ""))
        if layers is not None:
            model._no_split_modules = layers  # type: ignore[assignment]  # read by accelerate
        super().__init__(model=model, **options)
        if self.args.fsdp and not self.is_fsdp_enabled:
            raise UserError("--fsdp: accelerate shards on accelerators alone; on CPUs leave it out (DDP does the same)")

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Writes what was trained; of a sharded model only that is gathered, not the whole model as by the parent."""
        if not (self.trains_part and self.is_fsdp_enabled):
            super().save_model(output_dir, _internal_call)
            return
        self._save(output_dir)
        if self.args.push_to_hub and not _internal_call:
            self.push_to_hub(commit_message="Model save", revision=self.args.hub_revision)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        if not (self.trains_part and self.is_fsdp_enabled):
            super()._save_optimizer_and_scheduler(output_dir)
            return
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


def check_flags(args: TrainingArguments) -> None:
    """Refuses ``--fsdp`` where it cannot do anything."""
    if args.fsdp and args.parallel_mode != ParallelMode.DISTRIBUTED:
        raise UserError("--fsdp spreads the weights over processes: start them with torchrun")
    if args.fsdp and not args.do_train:
        raise UserError("--fsdp is for training; evaluate what it saved without it")


def is_sharded(model: nn.Module) -> bool:
    """Whether this process holds only a part of the weights."""
    return any(isinstance(parameter, DTensor) for parameter in model.parameters())


def full_state_dict(model: nn.Module, *, trained_only: bool) -> Mapping[str, Tensor]:
    """State dict of a model, sharded or not; of a sharded one all processes must call this.

    Args:
        trained_only: whether a sharded model's frozen weights, nearly all of them, may stay where they are.

    Returns:
        Of a plain model all of its own tensors. Of a sharded one full tensors on the CPU in the first process, and
        nothing in the others.
    """
    if not is_sharded(model):
        return model.state_dict()
    options = StateDictOptions(full_state_dict=True, cpu_offload=True, ignore_frozen_params=trained_only)
    return cast(dict[str, Tensor], get_model_state_dict(model, options=options))


def tied_again(model: nn.Module, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict whose tied weights, gathered one by one, are one tensor again, which is then written once."""
    first: dict[int, str] = {}
    names = {name: first.setdefault(id(p), name) for name, p in model.named_parameters(remove_duplicate=False)}
    return {name: state[names.get(name, name)] for name in state}


def trained_state_dict(model: nn.Module) -> OrderedDict[str, Tensor]:
    """Trained parameters on the CPU, in the model's order. Of a sharded model all processes must call this, and only
    the first gets them."""
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    state = full_state_dict(model, trained_only=True)
    return OrderedDict((name, value.detach().cpu().clone()) for name, value in state.items() if name in trained)


@torch.no_grad()
def copy_into(model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Copies full tensors into a model that has these names; into a sharded one those that the first process has."""
    if is_sharded(model):
        options = StateDictOptions(full_state_dict=True, broadcast_from_rank0=True, strict=False)
        set_model_state_dict(model, dict(tensors), options=options)
        return
    own = model.state_dict()
    for name, value in tensors.items():
        own[name].copy_(value)
