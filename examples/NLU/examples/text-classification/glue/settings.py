"""What a training depends on: a checkpoint keeps it, and goes on under the same settings and examples alone."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from examples.common.errors import UserError
from examples.common.files import read_json, write_json
from glue.arguments import DataArguments, GlueTrainingArguments, ModelArguments
from glue.sources import Rows

FILE = "settings.json"
# flags of the training that change its weights; method, rank, base and labels are in the file of weights itself
TRAINING = (
    *("learning_rate", "num_train_epochs", "max_steps", "warmup_steps", "lr_scheduler_type", "lr_scheduler_kwargs"),
    *("weight_decay", "optim", "optim_args", "adam_beta1", "adam_beta2", "adam_epsilon", "max_grad_norm"),
    *("fp16", "bf16"),
    *("label_smoothing_factor", "train_sampling_strategy", "dataloader_drop_last", "seed", "data_seed", "cls_dropout"),
)
EXAMPLES = "training_examples_sha256"


def total_batch(args: GlueTrainingArguments) -> int:
    """Examples of one optimiser step, over all devices and accumulated steps."""
    return args.train_batch_size * args.world_size * args.gradient_accumulation_steps


def settings_of(
    model: ModelArguments, data: DataArguments, training: GlueTrainingArguments, rows: Rows
) -> dict[str, Any]:
    """Settings by flag and a digest of the training examples ``rows``, as JSON would give them back."""
    found = {
        **{name: getattr(training, name) for name in TRAINING},
        "total_train_batch_size": total_batch(training),
        "max_seq_length": data.max_seq_length,
        "reg_loss_wgt": model.reg_loss_wgt,
        "masking_prob": model.masking_prob,
        EXAMPLES: hashlib.sha256(json.dumps(rows).encode()).hexdigest(),
    }
    return json.loads(json.dumps(found))


def write_settings(folder: Path, settings: dict[str, Any]) -> None:
    """Leaves them in a checkpoint, for ``check_settings``."""
    write_json(folder / FILE, settings)


def check_settings(folder: str, settings: dict[str, Any]) -> None:
    """Refuses to go on from a checkpoint of other settings or examples.

    Raises:
        UserError: names the first setting that differs, with both values.
    """
    try:
        found = read_json(Path(folder) / FILE)
    except UserError:
        found = None
    if not isinstance(found, dict):
        raise UserError(f"{folder} does not say its settings ({FILE}); pass --overwrite_output_dir")
    advice = "choose another --output_dir or pass --overwrite_output_dir"
    for name, ours in settings.items():
        if found.get(name) != ours and name == EXAMPLES:
            raise UserError(f"{folder} was trained with other training examples; {advice}")
        if found.get(name) != ours:
            raise UserError(f"{folder} was trained with {name} {found.get(name)}, this run has {ours}; {advice}")
