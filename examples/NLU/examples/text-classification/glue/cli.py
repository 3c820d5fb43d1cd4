"""A user's mistake ends in one line and exit code 2; a file is written whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import math
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, NoReturn

EXIT_USER_ERROR = 2
EXIT_INTERRUPTED = 130  # 128 + SIGINT, as shells report it


class UserError(Exception):
    """Bad input. The message is one line: what came, what was expected, what to do."""


def run_main(main: Callable[[], None], at_end: Callable[[], None] = lambda: None) -> NoReturn:
    """Runs an entry point: exit 0 after success, 2 after a ``UserError`` or ``OSError`` (one line), 130 after Ctrl-C.

    A full disk is an ``OSError`` too, under whichever name a library passes it on.

    ``at_end`` follows a success, when nothing that ``main`` built is in use any more.

    Anything else is a bug and keeps its traceback.
    """
    try:
        main()
        at_end()
        sys.stdout.flush()
    except UserError as error:
        _fail(str(error))
    except OSError as error:
        _fail(f"{error.filename}: {error.strerror}" if error.filename else str(error))
    except Exception as error:
        reason = _full_disk(error)
        if reason is None:
            raise
        _fail(reason)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(EXIT_INTERRUPTED)
    sys.exit(0)


def _full_disk(error: BaseException) -> str | None:
    """What to say where a failed write is behind an error of torch or safetensors; None where it is not."""
    cause = error.__context__
    if isinstance(cause, OSError) and cause.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return str(cause)
    if type(error).__name__ == "SafetensorError" and "os error" in str(error):
        return str(error)
    if "inline_container" in str(error) and "unexpected pos" in str(error):  # torch's writer of zip files
        return "a file of weights cannot be written: is the disk full?"
    return None


def is_first_process() -> bool:
    """Whether this process prints and writes; ``RANK`` is set by torchrun."""
    return os.environ.get("RANK", "0") == "0"


def warn(message: str) -> None:
    """One line on stderr, from the first process only, that does not stop the program."""
    if is_first_process():
        print(f"warning: {message}", file=sys.stderr, flush=True)


def _fail(message: str) -> NoReturn:
    if is_first_process():  # the others fail for the same reason
        print(f"error: {' '.join(message.split())}", file=sys.stderr, flush=True)
    sys.exit(EXIT_USER_ERROR)


@contextlib.contextmanager
def atomic_write(path: str | Path, binary: bool = False) -> Iterator[IO[Any]]:
    """Opens a file beside ``path`` that takes its name when the block ends without an error, and vanishes otherwise."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with open(temporary, "wb" if binary else "w", encoding=None if binary else "utf-8") as stream:
            yield stream
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_json(path: str | Path, value: object) -> None:
    """Writes indented JSON atomically; numbers that are not finite become null, which JSON can say."""
    with atomic_write(path) as stream:
        json.dump(_finite(value), stream, indent=1, ensure_ascii=False)
        stream.write("\n")


def _finite(value: object) -> object:
    if isinstance(value, dict):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def sha256_of(path: str | Path) -> str:
    """Hex digest of a file's bytes."""
    digest = hashlib.sha256()
    with Path(path).open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
