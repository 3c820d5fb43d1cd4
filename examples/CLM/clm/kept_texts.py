"""Texts of a long ``generate.py`` run beside its output, so that the same command goes on where it was stopped."""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from clm.generation import Prompt
from examples.common.errors import UserError, warn
from examples.common.files import remove_leftovers
from examples.common.journal import add_line, whole_lines
from examples.common.lock import locked


class KeptTexts:
    """Finished prompts of a run, by index; in ``OUTPUT.partial`` until the output is whole. Use as a context manager,
    which keeps other runs from the same output.

    Texts of another command, other prompts or other weights are thrown away, and said so.

    Args:
        settings: what the texts depend on beside prompts and weights.
        folders: of base and adapters, or names on the hub.

    Raises:
        UserError: another run writes to this output.
    """

    def __init__(
        self, output: Path, settings: dict[str, Any], prompts: Sequence[Prompt], folders: Sequence[str]
    ) -> None:
        if not output.parent.is_dir():
            raise UserError(f"cannot write {output}: the folder {output.parent} does not exist")
        self.output, self.path = output, output.with_name(f"{output.name}.partial")
        self.found: dict[int, list[str]] = {}
        facts = (
            sorted(settings.items()),
            list(map(_files, folders)),
            [(prompt.ids, prompt.adapter) for prompt in prompts],
        )
        self._header = {"digest": hashlib.sha256(repr(facts).encode()).hexdigest()}
        self._n = len(prompts)
        self._lock = contextlib.ExitStack()

    def __enter__(self) -> KeptTexts:
        self._lock.enter_context(locked(self.output.with_name(f".{self.output.name}.lock")))
        remove_leftovers(self.output.parent, re.escape(self.output.name))
        header, *lines = whole_lines(self.path) or [""]
        try:
            if json.loads(header) == self._header:
                self.found = {int(index): _texts(value) for line in lines for index, value in json.loads(line).items()}
                print(f"going on after {len(self.found)} of {self._n} prompts: {self.path}", flush=True)
                return self
        except (ValueError, AttributeError, RecursionError):
            self.found = {}
        if header:
            warn(f"{self.path} is damaged or of another run; its texts are made again")
        self.path.unlink(missing_ok=True)
        add_line(self.path, self._header)
        return self

    def __exit__(self, *error: object) -> None:
        self._lock.close()

    def add(self, batch: dict[int, list[str]]) -> None:
        """Keeps the texts of a batch."""
        self.found |= batch
        add_line(self.path, batch)

    def remove(self) -> None:
        """To be called when the output is written."""
        self.path.unlink()


def _files(folder: str) -> tuple[str, list[tuple[str, int, int]]]:
    """A folder with name, size and time of its files, which tell other weights; of the hub the name alone."""
    found = [path for path in Path(folder).glob("*") if path.is_file()]
    return folder, sorted((path.name, (stat := path.stat()).st_size, stat.st_mtime_ns) for path in found)


def _texts(value: object) -> list[str]:
    if not (isinstance(value, list) and all(isinstance(text, str) for text in value)):
        raise ValueError
    return value
