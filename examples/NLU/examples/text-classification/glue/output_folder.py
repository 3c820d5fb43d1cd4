"""The folder that a run writes to: for one run at a time, which goes on from the last complete checkpoint there."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

from examples.common.errors import UserError, warn
from examples.common.lock import LOCK_NAME, locked_run
from glue.arguments import GlueTrainingArguments
from glue.checkpoint import last_checkpoint


@contextlib.contextmanager
def output_folder(args: GlueTrainingArguments) -> Iterator[str | None]:
    """Makes ``--output_dir`` and holds it while the block runs; gives what ``find_checkpoint`` finds there.

    Raises:
        UserError: another run holds it, or it holds something else.
    """
    folder = Path(str(args.output_dir))
    find_checkpoint(args, folder, say=lambda message: None)  # a folder of other things is refused before it is changed
    with locked_run(folder):
        yield find_checkpoint(args, folder)


def find_checkpoint(args: GlueTrainingArguments, folder: Path, say: Callable[[str], None] = warn) -> str | None:
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
        if chosen is None or not chosen.is_dir():
            raise UserError(f"--resume_from_checkpoint {wanted}: no complete checkpoint there")
        return str(chosen)
    if not folder.is_dir():
        return None
    names = [path.name for path in folder.iterdir() if path.name != LOCK_NAME and not path.name.startswith(".")]
    if args.overwrite_output_dir or not names:
        return None
    found = last_checkpoint(folder)
    if found is None and all(name.startswith("checkpoint-") for name in names):
        say(f"{folder} holds no complete checkpoint: that run was stopped before its first; starting anew")
        return None
    if found is None:
        raise UserError(f"--output_dir {folder} is not empty; pass --overwrite_output_dir to start anew in it")
    say(f"going on from {found}; pass --overwrite_output_dir to start anew")
    return str(found)
