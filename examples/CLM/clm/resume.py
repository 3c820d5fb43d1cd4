"""Going on where a run was stopped: the last complete checkpoint, of the same settings and examples alone."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from clm.features import Feature
from clm.flags import ClmTrainingArguments, DataArguments, ModelArguments
from examples.common.errors import UserError, warn
from examples.common.files import read_json
from examples.common.lock import LOCK_NAME

FILE = "settings.json"
STATE = "trainer_state.json"  # the last file of a checkpoint that the Trainer writes
EXAMPLES = "training_examples_sha256"
# flags of the Trainer that change what is trained; of model and data all do, but for names of files
TRAINING = (
    *("learning_rate", "num_train_epochs", "max_steps", "warmup_steps", "lr_scheduler_type", "lr_scheduler_kwargs"),
    *("weight_decay", "optim", "optim_args", "adam_beta1", "adam_beta2", "adam_epsilon", "max_grad_norm"),
    *("fp16", "bf16", "label_smoothing_factor", "train_sampling_strategy", "dataloader_drop_last", "seed", "data_seed"),
)
NAMES = ("train_file", "validation_file", "test_file", "max_train_samples", "max_eval_samples", "cache_dir")


def settings_of(
    model: ModelArguments, data: DataArguments, training: ClmTrainingArguments, features: Sequence[Feature]
) -> dict[str, Any]:
    """Settings by flag and a digest of the training examples' token ids, as JSON would give them back."""
    found = {name: value for name, value in {**vars(model), **vars(data)}.items() if name not in NAMES}
    found |= {name: getattr(training, name) for name in TRAINING}
    found["total_train_batch_size"] = (
        training.train_batch_size * training.world_size * training.gradient_accumulation_steps
    )
    found[EXAMPLES] = hashlib.sha256(json.dumps(features).encode()).hexdigest()
    loaded: dict[str, Any] = json.loads(json.dumps(found))
    return loaded


def check_settings(folder: str, settings: dict[str, Any]) -> None:
    """Refuses to go on from a checkpoint of other settings or examples.

    Raises:
        UserError: names the first setting that differs, with both values.
    """
    try:
        found: dict[str, Any] = dict(read_json(Path(folder) / FILE))
    except (UserError, OSError, ValueError, TypeError):
        raise UserError(f"{folder} does not say its settings ({FILE}); pass --overwrite_output_dir") from None
    advice = "choose another --output_dir or pass --overwrite_output_dir"
    for name, ours in settings.items():
        if found.get(name) != ours and name == EXAMPLES:
            raise UserError(f"{folder} was trained with other training examples; {advice}")
        if found.get(name) != ours:
            raise UserError(f"{folder} was trained with {name} {found.get(name)}, this run has {ours}; {advice}")


def find_checkpoint(args: ClmTrainingArguments) -> str | None:
    """The checkpoint to go on from: the one that was asked for, else the last complete one in the output folder.

    Raises:
        UserError: the folder holds something else and ``--overwrite_output_dir`` was not given.
    """
    if not args.do_train:
        return None
    output_dir = Path(str(args.output_dir))
    if output_dir.exists() and not output_dir.is_dir():
        raise UserError(f"--output_dir {output_dir} is a file")
    if args.resume_from_checkpoint:
        wanted = args.resume_from_checkpoint
        folder = last_checkpoint(output_dir) if wanted.lower() == "true" else Path(wanted)
        if folder is None or not _is_complete(folder):
            raise UserError(f"--resume_from_checkpoint {wanted}: no complete checkpoint there")
        return str(folder)
    if args.overwrite_output_dir or not output_dir.is_dir():
        return None
    names = [path.name for path in output_dir.iterdir() if path.name != LOCK_NAME and not path.name.startswith(".")]
    if not names:
        return None
    found = last_checkpoint(output_dir)
    if found is None and all(name.startswith("checkpoint-") for name in names):
        warn(f"{output_dir} holds no complete checkpoint: that run was stopped before its first; starting anew")
        return None
    if found is None:
        raise UserError(f"--output_dir {output_dir} is not empty; pass --overwrite_output_dir to start anew in it")
    warn(f"going on from {found}; pass --overwrite_output_dir to start anew")
    return str(found)


def last_checkpoint(output_dir: str | Path) -> Path | None:
    """The newest complete ``checkpoint-<step>`` folder."""
    steps = [
        (int(folder.name.removeprefix("checkpoint-")), folder)
        for folder in Path(output_dir).glob("checkpoint-*")
        if folder.name.removeprefix("checkpoint-").isdigit() and _is_complete(folder)
    ]
    return max(steps)[1] if steps else None


def _is_complete(folder: Path) -> bool:
    try:
        read_json(folder / STATE)
    except (UserError, OSError):
        return False
    return True
