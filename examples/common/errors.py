"""What every command line shares: a user's mistake ends in one line and exit code 2, never in a traceback."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import io
import itertools
import os
import re
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NoReturn

EXIT_USER_ERROR = 2
EXIT_INTERRUPTED = 130  # 128 + SIGINT, as shells report it
PATIENCE_S = 5.0  # how long a process leaves a mistake to the first one, see UserError


class UserError(Exception):
    """Bad input. The message is one line: what came, what was expected, what to do.

    Of several processes the first prints it. The others, which mostly fail for the same reason, wait until torchrun
    ends them for that; one that still lives then has a mistake of its own, and prints it.
    """


class ProcessError(UserError):
    """A ``UserError`` of one process alone, which prints it at once, whatever its rank: its GPU, say."""


class LostProcessError(ProcessError):
    """Another process of the run is gone.

    The program then ends without tidying up: ``DistributedDataParallel``, freed amid a collective call, waits for a
    thread of gloo that waits for Python's lock.
    """


def run_main(main: Callable[[], None], at_end: Callable[[], None] = lambda: None) -> NoReturn:
    """Runs an entry point and turns its end into an exit code.

    0 after success; 2 after a ``UserError`` or an error of the operating system (missing file, unwritable
    folder, full disk, under whichever name a library passes it on), printed as one line on stderr; 130 after
    Ctrl-C. Anything else is a bug and keeps its traceback.

    Args:
        main: the program.
        at_end: what follows a success, when nothing that ``main`` built is in use any more.
    """
    with mistakes_in_one_line():
        _end_with_torchrun()
        main()
        at_end()
        sys.stdout.flush()
    sys.exit(0)


@contextlib.contextmanager
def mistakes_in_one_line() -> Iterator[None]:
    """Ends the program after an error in the block as ``run_main`` says."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a locale that cannot show a name, say of a file
    try:
        _refuse_lost_values(sys.argv[1:])
        yield
    except LostProcessError as error:
        _print_error(str(error))
        sys.stdout.flush()
        os._exit(EXIT_USER_ERROR)
    except UserError as error:
        _fail(str(error), is_first_process() or isinstance(error, ProcessError))
    except BrokenPipeError:  # `... | head` closed our output: not a mistake, but nothing more can be printed
        sys.stderr.close()
        sys.exit(EXIT_USER_ERROR)
    except OSError as error:
        name = "" if error.filename is None else f"{error.filename}: "
        _fail(f"{name}{error.strerror or error}")
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(EXIT_INTERRUPTED)
    except Exception as error:
        reason = _full_disk(error)
        if reason is None:
            raise
        _fail(reason)


def _refuse_lost_values(words: Sequence[str]) -> None:
    """Refuses ``--flag=--``, whose value argparse of Python 3.11 takes for the end of the flags and drops."""
    flags = itertools.takewhile(lambda word: word != "--", words)
    if lost := next((word for word in flags if re.fullmatch(r"--[^=]+=--|-[^-]=?--", word)), None):
        raise UserError(f"{lost}: -- cannot be the value of a flag")


def _end_with_torchrun() -> None:
    """Has the kernel stop this worker when its torchrun is killed, which can then not do so itself."""
    if "TORCHELASTIC_RUN_ID" in os.environ and sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG
        if os.getppid() == 1 and b"python" not in Path("/proc/1/cmdline").read_bytes():  # it may be process 1 itself
            raise ProcessError("torchrun was killed before this worker had started")


def is_first_process() -> bool:
    """Whether this process prints and writes; ``RANK`` is set by torchrun."""
    return os.environ.get("RANK", "0") == "0"


def need_docstrings() -> None:
    """Refuses Python without docstrings, which transformers reads when it is imported."""
    if sys.flags.optimize > 1:
        raise UserError("transformers cannot be imported without docstrings: leave out -OO and PYTHONOPTIMIZE=2")


def warn(message: str) -> None:
    """One line on stderr, from the first process only, that does not stop the program."""
    if is_first_process():
        print(f"warning: {_one_line(message)}", file=sys.stderr, flush=True)


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


def _fail(message: str, at_once: bool = True) -> NoReturn:
    if not at_once:
        time.sleep(PATIENCE_S)
    _print_error(message)
    sys.exit(EXIT_USER_ERROR)


def _print_error(message: str) -> None:
    with contextlib.suppress(BrokenPipeError):
        print(f"error: {_one_line(message)}", file=sys.stderr, flush=True)


def _one_line(message: str) -> str:
    return " ".join(message.split())
