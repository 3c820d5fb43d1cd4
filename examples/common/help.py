"""Help of command lines, at most 100 columns wide, and wrong flags refused before anything large is imported."""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Callable
from typing import Any, NoReturn

from examples.common.errors import UserError, mistakes_in_one_line, need_docstrings

COLUMNS = 100


class HelpFormatter(argparse.HelpFormatter):
    """``formatter_class`` of a parser."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=30, width=min(COLUMNS, shutil.get_terminal_size().columns - 2))


class RawHelpFormatter(HelpFormatter, argparse.RawDescriptionHelpFormatter):
    """The same for a description whose lines are to stay as they are."""


class Parser(argparse.ArgumentParser):
    """A wrong flag is a ``UserError``."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"formatter_class": RawHelpFormatter, **options})

    def error(self, message: str) -> NoReturn:
        raise UserError(message)


def answer_early(build_parser: Callable[[], argparse.ArgumentParser]) -> None:
    """Prints the help or refuses a wrong flag, and ends the program; returns where all flags are right.

    For programs that import transformers: called before that, which takes seconds.
    """
    with mistakes_in_one_line():
        build_parser().parse_args()
        need_docstrings()
