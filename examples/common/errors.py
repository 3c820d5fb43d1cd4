"""What every command line shares: a user's mistake ends in one line and exit code 2, never in a traceback."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from typing import NoReturn

EXIT_USER_ERROR = 2
EXIT_INTERRUPTED = 130  # 128 + SIGINT, as shells report it


class UserError(Exception):
    """Bad input. The message is one line: what came, what was expected, what to do."""


def run_main(main: Callable[[], None]) -> NoReturn:
    """Runs an entry point and turns its end into an exit code.

    0 after success; 2 after a ``UserError`` or an error of the operating system (missing file, unwritable
    folder, full disk), printed as one line on stderr; 130 after Ctrl-C. Anything else is a bug and keeps its
    traceback.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a terminal or locale that cannot show a name, say of a file
    try:
        main()
        sys.stdout.flush()
    except UserError as error:
        _fail(str(error))
    except BrokenPipeError:  # `... | head` closed our output: not a mistake, but nothing more can be printed
        sys.stderr.close()
        sys.exit(EXIT_USER_ERROR)
    except OSError as error:
        name = "" if error.filename is None else f"{error.filename}: "
        _fail(f"{name}{error.strerror or error}")
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(EXIT_INTERRUPTED)
    sys.exit(0)


def warn(message: str) -> None:
    """One line on stderr that does not stop the program."""
    print(f"warning: {message}", file=sys.stderr, flush=True)


def _fail(message: str) -> NoReturn:
    print(f"error: {' '.join(message.split())}", file=sys.stderr, flush=True)
    sys.exit(EXIT_USER_ERROR)
