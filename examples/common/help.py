"""Help texts of command lines: at most 100 columns, however wide the terminal is."""

from __future__ import annotations

import argparse
import shutil

COLUMNS = 100


class HelpFormatter(argparse.HelpFormatter):
    """``formatter_class`` of a parser."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=30, width=min(COLUMNS, shutil.get_terminal_size().columns - 2))
