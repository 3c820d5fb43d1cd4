"""One program at a time in a folder: a lock that the system frees when its holder ends, however it ends."""

from __future__ import annotations

import contextlib
import fcntl
from collections.abc import Iterator
from pathlib import Path

from examples.common.errors import UserError, is_first_process, warn
from examples.common.files import make_folder, remove_leftovers


class InUseError(UserError):
    """Another process holds the lock."""


LOCK_NAME = "training.lock"
WRITTEN = r".*\.(json|bin|txt)"


@contextlib.contextmanager
def locked_run(folder: Path) -> Iterator[None]:
    """Makes the folder of a Trainer's run, locks it, and removes what a killed run left in it and its checkpoints.

    Raises:
        InUseError: another run holds it.
    """
    make_folder(folder)
    with contextlib.ExitStack() as held:
        if is_first_process():
            held.enter_context(locked(folder / LOCK_NAME))
            for part in (folder, *folder.glob("checkpoint-*/")):
                remove_leftovers(part, WRITTEN)
        yield


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Locks a file, which stays, while the block runs.

    Raises:
        InUseError: another process holds it.
    """
    with path.open("a") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InUseError(f"{path.parent} is in use: another process holds {path}") from None
        except OSError as error:  # some network folders have no locks
            warn(f"{path} cannot be locked ({error.strerror}): see that nothing else writes to {path.parent}")
        yield
