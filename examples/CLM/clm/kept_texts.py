"""Texts of a long ``generate.py`` run beside its output, so that the same command goes on where it was stopped."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from clm.generation import Prompt
from clm.model import weight_files
from examples.common.errors import warn
from examples.common.files import remove_leftovers
from examples.common.journal import add_line, whole_lines


class KeptTexts:
    """Finished prompts of a run, by index; in ``OUTPUT.unfinished.jsonl`` until the output is whole.

    Texts of another command, other prompts or other weights are thrown away, and said so.

    Args:
        settings: what the texts depend on beside prompts and weights.
        folders: of base and adapters.
    """

    def __init__(
        self, output: Path, settings: dict[str, Any], prompts: Sequence[Prompt], folders: Sequence[str | None]
    ) -> None:
        self.path = output.with_name(f"{output.name}.unfinished.jsonl")
        self.found: dict[int, list[str]] = {}
        files = [
            (name, (stat := path.stat()).st_size, stat.st_mtime_ns) for name, path in weight_files(*folders).items()
        ]
        facts = (sorted(settings.items()), files, [(prompt.ids, prompt.adapter) for prompt in prompts])
        self._header = {"digest": hashlib.sha256(repr(facts).encode()).hexdigest()}
        remove_leftovers(output.parent, output.name)
        header, *lines = whole_lines(self.path) or [""]
        try:
            if json.loads(header) == self._header:
                self.found = {int(index): texts for line in lines for index, texts in json.loads(line).items()}
                print(f"going on after {len(self.found)} of {len(prompts)} prompts: {self.path}", flush=True)
                return
        except (ValueError, AttributeError, RecursionError):
            self.found = {}
        if header:
            warn(f"{self.path} is of another run; its texts are made again")
        self.path.unlink(missing_ok=True)
        add_line(self.path, self._header)

    def add(self, batch: dict[int, list[str]]) -> None:
        """Keeps the texts of a batch."""
        self.found |= batch
        add_line(self.path, batch)

    def remove(self) -> None:
        """To be called when the output is written."""
        self.path.unlink()
