"""Going on where a Trainer's run was stopped: its folder and last complete checkpoint, with the same settings."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from examples.common.errors import UserError, warn
from examples.common.files import read_json, write_json
from examples.common.lock import LOCK_NAME, locked_run

if TYPE_CHECKING:  # which takes seconds to import, and --help need not wait for
    from transformers import TrainingArguments

FILE = "settings.json"
STATE = "trainer_state.json"  # the last file of a checkpoint that the Trainer writes
EXAMPLES = "training_examples_sha256"
# flags of the Trainer that change what is trained
TRAINING = (
    *("learning_rate", "num_train_epochs", "max_steps", "warmup_steps", "lr_scheduler_type", "lr_scheduler_kwargs"),
    *("weight_decay", "optim", "optim_args", "adam_beta1", "adam_beta2", "adam_epsilon", "max_grad_norm"),
    *("fp16", "bf16", "label_smoothing_factor", "train_sampling_strategy", "dataloader_drop_last", "seed", "data_seed"),
)


def total_batch(args: TrainingArguments) -> int:
    """Examples of one optimiser step, over all devices and accumulated steps."""
    return args.train_batch_size * args.world_size * args.gradient_accumulation_steps


def settings_of(args: TrainingArguments, examples: Sequence[Any], **more: Any) -> dict[str, Any]:
    """What a training depends on, as JSON would give it back.

    Args:
        args: flags of the Trainer, of which those that change weights are kept.
        examples: of the training, as JSON values; a digest of them is kept.
        **more: settings of the program.
    """
    found = {
        **{name: getattr(args, name) for name in TRAINING},
        "total_train_batch_size": total_batch(args),
        **more,
        EXAMPLES: hashlib.sha256(json.dumps(examples).encode()).hexdigest(),
    }
    return dict(json.loads(json.dumps(found)))


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


@contextlib.contextmanager
def output_folder(args: TrainingArguments) -> Iterator[str | None]:
    """Makes ``--output_dir`` and holds it while the block runs; gives what ``find_checkpoint`` finds there.

    Raises:
        UserError: another run holds it, or it holds something else.
    """
    folder = Path(str(args.output_dir))
    find_checkpoint(args, folder, say=lambda message: None)  # a folder of other things is refused before it is changed
    with locked_run(folder):
        yield find_checkpoint(args, folder)


def find_checkpoint(args: TrainingArguments, folder: Path, say: Callable[[str], None] = warn) -> str | None:
    """The checkpoint to go on from: the one that was asked for, else the last complete one in the output folder.

    Raises:
        UserError: the folder holds something else and ``--overwrite_output_dir`` was not given.
    """
    if not args.do_train:
        return None
    if args.resume_from_checkpoint:
        # `--resume_from_checkpoint true` means: the last one
        wanted = args.resume_from_checkpoint
        chosen = last_checkpoint(folder) if wanted.lower() == "true" else Path(wanted)
        if chosen is None or not _is_complete(chosen):
            raise UserError(f"--resume_from_checkpoint {wanted}: no complete checkpoint there")
        return str(chosen)
    overwrite = getattr(args, "overwrite_output_dir", False)  # a flag that our programs keep
    if overwrite or not folder.is_dir():
        return None
    names = [path.name for path in folder.iterdir() if path.name != LOCK_NAME and not path.name.startswith(".")]
    if not names:
        return None
    found = last_checkpoint(folder)
    if found is None and all(name.startswith("checkpoint-") for name in names):
        say(f"{folder} holds no complete checkpoint: that run was stopped before its first; starting anew")
        return None
    if found is None:
        raise UserError(f"--output_dir {folder} is not empty; pass --overwrite_output_dir to start anew in it")
    say(f"going on from {found}; pass --overwrite_output_dir to start anew")
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
