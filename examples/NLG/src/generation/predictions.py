"""Predictions on disk: the finished file, written atomically, and beside it what an unfinished run has found so far.

``<output>.partial`` (``<output>.partial.1`` ... of further processes) holds a header line with a hash of everything
that the results depend on, then one line for each prompt. A run with the same hash takes them over; it may have
another number of processes. The files go when the output is written. ``.<output>.lock`` keeps others from decoding to
the same output meanwhile; it stays.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from train.distributed import Process, barrier

from examples.common.errors import UserError, warn
from examples.common.files import atomic_write, remove_leftovers
from examples.common.lock import locked


def settings_hash(settings: Mapping[str, Any]) -> str:
    """Hex digest of JSON values; the order of the keys does not matter."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()


def write_predictions(path: Path, predictions: Mapping[int, Sequence[int]], order: Iterable[int], length: int) -> None:
    """One line ``{"id": 17, "predict": [...]}`` for each id of ``order``, atomically.

    Args:
        predictions: generated tokens by id.
        length: T; shorter predictions are filled up with id 0, as released.
    """
    with atomic_write(path) as stream:
        for row in order:
            tokens = list(predictions[row])
            stream.write(json.dumps({"id": row, "predict": tokens + [0] * (length - len(tokens))}) + "\n")


class PartialPredictions:
    """The part of this process of an unfinished run's results; use as a context manager, which closes the file.

    Attributes:
        done: tokens by row, found by earlier runs with the same ``key``; equal in all processes.

    Raises:
        UserError, OSError: the folder cannot be written to, or another process decodes to this output.
    """

    def __init__(self, output: Path, key: str, process: Process) -> None:
        if output.is_dir():
            raise UserError(f"{output} is a folder; the name of a file to write was expected")
        self.output, self.process = output, process
        self.path = output.with_name(f"{output.name}.partial" + (f".{process.rank}" if process.rank else ""))
        self.done: dict[int, list[int]] = {}
        self._lock = contextlib.ExitStack()
        if process.is_first:
            self._lock.enter_context(locked(output.with_name(f".{output.name}.lock")))
        for path in self._files():
            self.done |= self._read(path, key)
        barrier(process)  # everybody has read before anybody writes
        if process.is_first:
            remove_leftovers(output.parent, rf"{re.escape(output.name)}(\.partial|\.run\.json)?")
            self._rewrite(key)
        barrier(process)
        if not process.is_first:
            self.path.write_text(_header(key), encoding="utf-8")
        self._stream: IO[str] = self.path.open("a", encoding="utf-8")

    def __enter__(self) -> PartialPredictions:
        return self

    def __exit__(self, *error: object) -> None:
        self._stream.close()
        self._lock.close()

    def add(self, found: Mapping[int, Sequence[int]]) -> None:
        """Appends results by row; after a crash they are there."""
        for row, tokens in found.items():
            self._stream.write(json.dumps({"id": row, "predict": list(tokens)}) + "\n")
        self._stream.flush()

    def remove(self) -> None:
        """Deletes the files of all processes; the first process calls it when the output is written."""
        self._stream.close()
        for path in self._files():
            path.unlink()

    def _files(self) -> list[Path]:
        name = re.compile(re.escape(self.output.name) + r"\.partial(\.\d+)?")
        return sorted(path for path in self.output.parent.iterdir() if name.fullmatch(path.name) and path.is_file())

    def _rewrite(self, key: str) -> None:
        for path in self._files():
            if path != self.path:
                path.unlink()
        with atomic_write(self.path) as stream:
            stream.write(_header(key))
            for row, tokens in self.done.items():
                stream.write(json.dumps({"id": row, "predict": tokens}) + "\n")

    def _read(self, path: Path, key: str) -> dict[int, list[int]]:
        header, *lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
        if header + "\n" != _header(key):
            if self.process.is_first:
                warn(f"{path} belongs to other settings, data or weights; starting from the beginning")
            return {}
        found = {}
        for line in lines[:-1]:  # what follows the last line end was cut off while it was written
            try:
                row = json.loads(line)
                if {type(row["id"]), *map(type, row["predict"])} - {int}:
                    raise TypeError("whole numbers were expected")
                found[row["id"]] = row["predict"]
            except (ValueError, LookupError, TypeError, RecursionError):
                warn(f"{path} has a damaged line, {line[:40]!r}; what it held is decoded again")
        return found


def _header(key: str) -> str:
    return json.dumps({"settings_sha256": key}) + "\n"
