"""How the programs of this folder end: a user's mistake in one line, a file or folder whole or not at all."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn


def fail(message: str) -> NoReturn:
    """One line, exit code 2."""
    print(f"error: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(2)


@contextlib.contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A place beside ``path`` for a file or folder that takes its name when the block ends without an error.

    What lies at ``path`` until then is replaced if it is a file; a folder there must be empty or absent. Ends the
    program where the system refuses.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield partial
        os.replace(partial, path)
    except OSError as error:
        fail(f"{error.filename or path}: {error.strerror or error}")
    finally:  # nothing is there after success
        if partial.is_dir():
            shutil.rmtree(partial)
        else:
            partial.unlink(missing_ok=True)
