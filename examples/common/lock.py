"""One program at a time in a folder: a lock that the system frees when its holder ends, however it ends."""

from __future__ import annotations

import contextlib
import fcntl
from collections.abc import Iterator
from pathlib import Path

from examples.common.errors import UserError, warn

LOCK_NAME = "training.lock"


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Locks a file, which stays, while the block runs.

    Raises:
        UserError: another process holds it.
    """
    with path.open("a") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"{path.parent} is in use: another process holds {path}") from None
        except OSError as error:  # some network folders have no locks
            warn(f"{path} cannot be locked ({error.strerror}): see that nothing else writes to {path.parent}")
        yield
