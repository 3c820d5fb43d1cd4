"""A file of JSON lines that is only ever added to: work of which every part is worth keeping."""

from __future__ import annotations

import json
import os
from pathlib import Path

from examples.common.errors import warn


def add_line(path: Path, value: object) -> None:
    """Adds a line; it is on the disk when this returns."""
    with path.open("a", encoding="utf-8") as stream:
        stream.write(json.dumps(value, ensure_ascii=False) + "\n")
        stream.flush()
        os.fsync(stream.fileno())


def whole_lines(path: Path) -> list[str]:
    """The lines of such a file, none without a file; a last one that a kill has cut off is removed, and said so."""
    if not path.exists():
        return []
    data = path.read_bytes()
    whole = data.rfind(b"\n") + 1
    if whole < len(data):
        warn(f"{path}: its last line was cut off and is made again")
        with path.open("r+b") as stream:
            stream.truncate(whole)
    return data[:whole].decode("utf-8", "replace").split("\n")[:-1]  # not splitlines: a text may have other line ends
