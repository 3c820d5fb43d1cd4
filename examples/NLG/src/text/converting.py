"""What the converters share: their two arguments, checked access to nested JSON, and rows of the common format."""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from examples.common.errors import UserError
from examples.common.files import atomic_write, refuse_overwriting, remove_leftovers
from examples.common.files import read_json as read_json
from examples.common.help import HelpFormatter

KINDS: dict[type, str] = {dict: "an object", list: "a list", str: "a text"}


def parse_paths(argv: Sequence[str] | None, description: str) -> tuple[Path, Path]:
    """The input and output file of a converter's command line, which must differ."""
    parser = argparse.ArgumentParser(description=description, formatter_class=HelpFormatter)
    parser.add_argument("input", type=Path, help="raw file, UTF-8; XML also as a folder of files")
    parser.add_argument("output", type=Path, help="JSON lines with context and completion, for gpt2_encode.py")
    args = parser.parse_args(argv)
    refuse_overwriting([args.output], args.input.rglob("*.xml") if args.input.is_dir() else [args.input])
    return args.input, args.output


def example(context: str, completion: str, **more: object) -> dict[str, Any]:
    """One row of the common format."""
    return {"context": context, "completion": completion, **more}


def write_examples(path: Path, examples: Iterable[dict[str, Any]], source: Path) -> int:
    """Writes one JSON object per line, non-ASCII escaped, all or nothing.

    Returns:
        Number of rows.

    Raises:
        UserError: nothing to write.
    """
    count = 0
    remove_leftovers(path.parent, re.escape(path.name))
    with atomic_write(path) as stream:
        for row in examples:
            stream.write(json.dumps(row) + "\n")
            count += 1
        if count == 0:
            raise UserError(f"{source} holds no example")
    return count


def checked(value: object, kind: type, where: str) -> Any:
    """``value`` if it is a ``kind``; otherwise a ``UserError`` that begins with ``where``."""
    if not isinstance(value, kind):
        raise UserError(f"{where}: expected {KINDS[kind]}, got {value!r:.60}")
    return value


def field(entry: object, key: str, kind: type, where: str) -> Any:
    """``entry[key]`` if ``entry`` is an object that has it, of type ``kind``; otherwise a ``UserError``."""
    checked(entry, dict, where)
    if key not in entry:  # type: ignore[operator]
        raise UserError(f"{where}: key {key!r} is missing")
    return checked(entry[key], kind, f"{where}, {key!r}")  # type: ignore[index]
