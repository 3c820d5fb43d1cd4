"""Reading with errors that name the line, writing that never leaves half a file."""

from __future__ import annotations

import contextlib
import functools
import gzip
import hashlib
import json
import math
import os
import re
import shutil
import tempfile
import time
import zlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any

from examples.common.errors import UserError

MOST_BYTES = 1 << 26  # of a line; also what any archive may hold
MOST_RATIO = 200  # of unpacked to packed bytes, in larger archives; text reaches a tenth of it
ENDLESS = ("/dev/zero", "/dev/full", "/dev/random", "/dev/urandom")
CLOCK_TICK_NS = 2 * 10**9  # coarsest time stamps of files in use, those of FAT


@contextlib.contextmanager
def atomic_write(path: str | Path, binary: bool = False) -> Iterator[IO[Any]]:
    """Opens a file beside ``path`` and renames it to ``path`` when the block ends without an error.

    A reader sees the old content or the new one, never a part; after an error (full disk, Ctrl-C) the old file
    is untouched and the temporary one is gone. Text is UTF-8 with ``\\n`` line ends.
    """
    path = Path(path)
    if path.is_dir():
        raise UserError(f"{path} is a folder; a file name was expected")
    try:
        descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".partial")
    except FileNotFoundError:
        raise UserError(f"cannot write {path}: the folder {path.parent} does not exist") from None
    try:
        # mkstemp makes files private; the result gets the permissions that an ordinary open() would give
        os.chmod(temporary, 0o666 & ~_umask())
        options: dict[str, Any] = {} if binary else {"encoding": "utf-8", "newline": "\n"}
        with os.fdopen(descriptor, "wb" if binary else "w", **options) as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        if isinstance(error, OSError) and error.filename is None:
            error.filename = str(path)  # a failed write does not say of which file
        raise


@contextlib.contextmanager
def atomic_folder(path: str | Path) -> Iterator[Path]:
    """A new folder beside ``path``, which takes its name when the block ends without an error and vanishes otherwise.

    A folder at ``path`` must be empty or absent. The parents are made.
    """
    path = Path(path)
    make_folder(path.parent)
    temporary = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}.", suffix=".partial"))
    try:
        os.chmod(temporary, 0o777 & ~_umask())  # mkdtemp makes folders private
        yield temporary
        os.replace(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)  # not there after success


def remove_leftovers(folder: Path, name: str) -> None:
    """Removes what killed processes left of unfinished writes, and says so; none may be writing these files now.

    Args:
        name: regular expression of the names of the files that ``atomic_write`` was to write in ``folder``.
    """
    if not folder.is_dir():
        return
    left = [p for p in folder.iterdir() if re.fullmatch(rf"\.({name})\.[a-z0-9_]{{8}}\.partial", p.name)]
    for path in left:
        path.unlink()
    if left:
        print(f"removed {len(left)} unfinished files of a killed run from {folder}", flush=True)


def write_json(path: str | Path, value: object) -> None:
    """Writes ``value`` as indented JSON, atomically; numbers that are not finite become null, as JSON has none."""
    with atomic_write(path) as stream:
        stream.reconfigure(errors="backslashreplace")  # type: ignore[attr-defined]  # names of files that are not UTF-8, as escapes of JSON
        json.dump(_finite(value), stream, indent=1, ensure_ascii=False)
        stream.write("\n")


def write_jsonl(path: str | Path, rows: Iterable[object]) -> None:
    """Writes a line of JSON for each row, atomically."""
    with atomic_write(path) as stream:
        stream.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def make_folder(path: str | Path) -> Path:
    """Creates a folder and its parents; a ``UserError`` names the path where that is impossible."""
    path = Path(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot create the folder {path}: {error.strerror}") from None
    return path


def refuse_overwriting(outputs: Iterable[str | Path], inputs: Iterable[str | Path | None]) -> None:
    """Refuses to start where an output would replace an input or another output, by whatever path or link.

    Raises:
        UserError: names the output.
    """
    taken = {os.path.realpath(path): "an input" for path in inputs if path is not None}
    for path in outputs:
        real = os.path.realpath(path)
        if real in taken:
            raise UserError(f"{path} would be written, but it is {taken[real]} too; give another file name")
        taken[real] = "another output"


def sha256_of(path: str | Path) -> str:
    """Hex digest of a file's bytes.

    A run names the same file in several records (its own, that of a checkpoint), and the weights of a model are many
    bytes: a file that has not changed since it was read for its digest is not read for it again.
    """
    if Path(path).is_fifo():
        raise UserError(f"{path} is a pipe, which can be read only once; a file was expected")
    state = Path(path).stat()
    if time.time_ns() - state.st_mtime_ns < CLOCK_TICK_NS:
        return read_sha256(path)  # another change could leave the same times
    return _remembered_sha256(Path(path).absolute(), state.st_ino, state.st_size, state.st_mtime_ns)


@functools.lru_cache(maxsize=64)
def _remembered_sha256(path: Path, inode: int, size: int, mtime_ns: int) -> str:
    return read_sha256(path)


def read_sha256(path: str | Path) -> str:
    """Hex digest of a file, which is read for it."""
    digest = hashlib.sha256()
    with open_binary(path) as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def open_binary(path: str | Path) -> IO[bytes]:
    """Opens a file for reading; a ``UserError`` says which file is missing, is a folder or a named pipe."""
    path = Path(path)
    if path.is_fifo() and path.parts[:2] != ("/", "dev"):  # would wait for a writer; /dev/stdin has one
        raise UserError(f"{path} is a named pipe; a file was expected")
    if path.is_char_device() and os.path.realpath(path) in ENDLESS:
        raise UserError(f"{path} has no end; a file was expected")
    try:
        return path.open("rb")
    except FileNotFoundError:
        raise UserError(f"{path} does not exist") from None
    except IsADirectoryError:
        raise UserError(f"{path} is a folder; a file was expected") from None


def read_lines(path: str | Path) -> Iterator[tuple[int, str]]:
    """Yields (line number from 1, line without its line end) of a UTF-8 file, plain or ``.gz``.

    Raises:
        UserError: missing file, a broken archive or one that unpacks to far more than text does, a line of more than
            ``MOST_BYTES``, or bytes that are not UTF-8.
    """
    number = 0
    with _unpacked(path) as stream:
        while line := stream.readline(MOST_BYTES + 1):
            number += 1
            if len(line) > MOST_BYTES:
                raise UserError(f"{path} line {number}: more than {MOST_BYTES:,} bytes in one line")
            _check_ratio(path, stream)
            try:
                text = line.decode("utf-8")
            except UnicodeDecodeError as error:
                raise UserError(
                    f"{path} line {number}: not UTF-8 text ({error.reason} at byte {error.start + 1} of the line)"
                ) from None
            yield number, text.rstrip("\n")


def read_text(path: str | Path) -> str:
    """Content of a UTF-8 file, plain or ``.gz``, without a byte order mark; a ``UserError`` names a mistake's line."""
    content = bytearray()
    with _unpacked(path) as stream:
        while block := stream.read(1 << 20):
            content += block
            _check_ratio(path, stream)
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path} line {content.count(10, 0, error.start) + 1}: not UTF-8 text ({error.reason})"
        ) from None


@contextlib.contextmanager
def _unpacked(path: str | Path) -> Iterator[IO[bytes]]:
    with open_binary(path) as stream:
        if Path(path).suffix != ".gz":
            yield stream
            return
        try:
            with gzip.GzipFile(fileobj=stream) as unpacked:
                yield unpacked  # type: ignore[misc]
        except (gzip.BadGzipFile, EOFError, zlib.error) as error:
            raise UserError(f"{path}: cannot be read as text ({error})") from None


def _check_ratio(path: str | Path, stream: IO[bytes]) -> None:
    if isinstance(stream, gzip.GzipFile) and stream.tell() > max(MOST_BYTES, MOST_RATIO * Path(path).stat().st_size):
        raise UserError(f"{path} unpacks to more than {MOST_RATIO} times its size; it is no packed text")


def read_json(path: str | Path) -> Any:
    """Parses a UTF-8 JSON file; a ``UserError`` names line and column of a mistake."""
    text = read_text(path)
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise UserError(f"{path} line {error.lineno}: not JSON ({error.msg} at column {error.colno})") from None
    except (ValueError, RecursionError) as error:  # a number of thousands of digits, thousands of brackets
        raise UserError(f"{path}: not JSON that can be read ({error})") from None


def read_jsonl(path: str | Path, keys: Sequence[str] = ()) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yields (line number from 1, object) of a JSON-lines file whose objects all have ``keys``.

    Raises:
        UserError: names file and line where a line is no JSON object or lacks a key, or where the file is empty.
    """
    number = 0
    for number, line in read_lines(path):
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise UserError(f"{path} line {number}: not JSON ({error.msg} at column {error.colno})") from None
        except (ValueError, RecursionError) as error:  # a number of thousands of digits, thousands of brackets
            raise UserError(f"{path} line {number}: not JSON that can be read ({error})") from None
        if not isinstance(row, dict):
            raise UserError(f"{path} line {number}: expected a JSON object, got {type(row).__name__}")
        for key in keys:
            if key not in row:
                raise UserError(f"{path} line {number}: key {key!r} is missing, found {sorted(row)}")
        yield number, row
    if number == 0:
        raise UserError(f"{path} is empty")


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
