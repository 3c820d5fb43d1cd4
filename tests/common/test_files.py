"""Files are read with errors that name the line, and written whole or not at all."""

from __future__ import annotations

import gzip
import json
import math
from pathlib import Path

import pytest

from examples.common import files
from examples.common.errors import UserError
from examples.common.files import (
    atomic_folder,
    read_json,
    read_lines,
    read_sha256,
    read_text,
    sha256_of,
    write_json,
)
from examples.common.lock import locked


def test_numbers_that_are_not_finite_are_written_as_null_and_old_files_with_them_are_read(tmp_path):
    value = {"a": math.nan, "b": [math.inf, 1.5, (-math.inf, 2)], "c": {"d": None, "e": "NaN"}}
    write_json(tmp_path / "x.json", value)
    text = (tmp_path / "x.json").read_text()
    assert json.loads(text, parse_constant=pytest.fail) == {
        "a": None,
        "b": [None, 1.5, [None, 2]],
        "c": {"d": None, "e": "NaN"},
    }
    (tmp_path / "old.json").write_text('{"best_valid_loss": Infinity, "x": NaN}')
    assert read_json(tmp_path / "old.json")["best_valid_loss"] == math.inf


def test_a_folder_takes_its_name_when_it_is_complete(tmp_path):
    with atomic_folder(tmp_path / "a" / "out") as folder:
        (folder / "x").write_text("1")
        assert not (tmp_path / "a" / "out").exists()
    assert (tmp_path / "a" / "out" / "x").read_text() == "1"
    with pytest.raises(KeyboardInterrupt), atomic_folder(tmp_path / "b"):
        raise KeyboardInterrupt
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    with pytest.raises(OSError), atomic_folder(tmp_path / "a" / "out"):  # of someone else by now
        pass
    assert (tmp_path / "a" / "out" / "x").read_text() == "1"


def test_packed_files_are_read_as_plain_ones(tmp_path):
    text = "\ufeffa\r\n\u4e2d\n\nlast"
    (tmp_path / "x.txt").write_text(text, encoding="utf-8", newline="")
    (tmp_path / "x.txt.gz").write_bytes(gzip.compress(text.encode()))
    lines = [(1, "\ufeffa\r"), (2, "\u4e2d"), (3, ""), (4, "last")]
    for name in ("x.txt", "x.txt.gz"):
        assert list(read_lines(tmp_path / name)) == lines
        assert read_text(tmp_path / name) == text[1:]


@pytest.mark.slow
def test_bombs_and_endless_lines_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "MOST_BYTES", 1 << 16)
    (tmp_path / "bomb.gz").write_bytes(gzip.compress(b"a\n" * (4 << 20)))
    (tmp_path / "text.gz").write_bytes(gzip.compress(b"a word and more\n" * (1 << 13), 0))
    (tmp_path / "line").write_bytes(b"a" * ((1 << 16) + 1))
    for read in (lambda path: list(read_lines(path)), read_text):
        with pytest.raises(UserError, match=r"bomb\.gz unpacks to more than 200 times its size"):
            read(tmp_path / "bomb.gz")
        assert len(read(tmp_path / "text.gz")) >= 1 << 13
    with pytest.raises(UserError, match=r"line line 1: more than 65,536 bytes in one line"):
        list(read_lines(tmp_path / "line"))


@pytest.mark.skipif(not Path("/dev/zero").is_char_device(), reason="reads devices")
@pytest.mark.parametrize("read", [read_text, read_json, read_sha256, sha256_of])
@pytest.mark.parametrize("device", ["/dev/zero", "/dev/urandom", "link"])
def test_a_file_without_end_is_refused(read, device, tmp_path):
    (tmp_path / "link").symlink_to("/dev/zero")
    with pytest.raises(UserError, match="has no end"):
        read(tmp_path / device)


@pytest.mark.parametrize("end", [10, -3])
def test_a_damaged_archive_is_named(tmp_path, end):
    (tmp_path / "x.gz").write_bytes(gzip.compress(b"a\nb\n" * 1000)[:end])
    for read in (lambda path: list(read_lines(path)), read_text):
        with pytest.raises(UserError, match=r"x\.gz: cannot be read as text"):
            read(tmp_path / "x.gz")


def test_a_lock_is_held_by_one(tmp_path):
    busy = pytest.raises(UserError, match="is in use: another process holds")
    with locked(tmp_path / "lock"), busy, locked(tmp_path / "lock"):
        pass
    with locked(tmp_path / "lock"):
        pass
