"""The folder that a training run writes to: for one trainer at a time, and for one run only.

A run does not start in the folder of an earlier one: of its files some would be replaced and some would stay, and a
later ``--resume`` could not tell whose they are. Nothing is deleted to make room; the user moves the files or names
another folder.
"""

from __future__ import annotations

import argparse
import contextlib
import re
from collections.abc import Iterator
from pathlib import Path

from examples.common.errors import UserError
from examples.common.files import make_folder, refuse_overwriting, remove_leftovers
from examples.common.lock import LOCK_NAME, locked
from train.distributed import Process, barrier

INPUTS = ("train_data", "valid_data", "init_checkpoint", "base_checkpoint", "model_card")
CHECKPOINT = re.compile(r"model\.(\d+|best)\.pt|training_state\.pt")
WRITTEN = re.compile(rf"{CHECKPOINT.pattern}|log\.jsonl|metrics\.json|run\.json")


@contextlib.contextmanager
def work_folder(args: argparse.Namespace, process: Process) -> Iterator[None]:
    """Makes ``--work_dir`` and holds it for this run while the block runs; the first process acts for all.

    Raises:
        UserError: an input lies there under a name that the run writes, another trainer works there, or an earlier
            run left its checkpoints and ``--resume`` is not given.
    """
    with contextlib.ExitStack() as held:
        if process.is_first:
            folder = Path(args.work_dir)
            inputs = [getattr(args, role) for role in INPUTS if getattr(args, role) is not None]
            written = [folder / Path(path).name for path in inputs if WRITTEN.fullmatch(Path(path).name)]
            refuse_overwriting(dict.fromkeys(written), inputs)
            make_folder(folder)
            print(f"Experiment dir : {folder}", flush=True)
            held.enter_context(locked(folder / LOCK_NAME))
            _refuse_an_earlier_run(folder, resume=args.resume)
            remove_leftovers(folder, WRITTEN.pattern)
        barrier(process)
        yield


def _refuse_an_earlier_run(folder: Path, *, resume: bool) -> None:
    earlier = sorted(path.name for path in folder.iterdir() if CHECKPOINT.fullmatch(path.name))
    if earlier and not resume:
        raise UserError(
            f"{folder} holds {len(earlier)} checkpoints of an earlier run, first {earlier[0]}: add --resume to go on "
            "with it, or give another --work_dir"
        )
