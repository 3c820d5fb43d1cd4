"""Runs a program that SIGKILL ends at its k-th operation on files of a folder.

    python killed_at.py K before|cut FOLDER LOG (PROGRAM | -m MODULE) ARGUMENTS...

Operations are those that change the folder: opening a file to write, renaming, removing, making folders; also the files
that torch and safetensors write without Python's ``open``. ``before`` kills before the operation, ``cut`` when the file
is open but empty, or, of torch and safetensors, half written. K = 0 kills nothing. Each operation is a line of LOG.
"""

from __future__ import annotations

import os
import runpy
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
CHANGES = ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "os.link", "os.symlink", "shutil.rmtree")
IN_FOLDERS = ("os.rename", "os.remove", "os.rmdir", "shutil.rmtree")  # whose path may be relative to an open folder


class Killer:
    """Counts the operations of this process, and ends it at one of them."""

    def __init__(self, number: int, kind: str, folder: str, log: str) -> None:
        self.number, self.kind, self.folder = number, kind, os.path.realpath(folder)
        self.log = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        self.count, self.owner, self.aside = 0, os.getpid(), False

    def hook(self, event: str, args: tuple[Any, ...]) -> None:
        """For ``sys.addaudithook``."""
        if self.aside or os.getpid() != self.owner:
            return
        if event == "open" and isinstance(args[0], str | bytes) and args[2] & WRITING:
            path = os.fsdecode(args[0])
            if self.inside(path):
                nameless = Path(path).is_dir()  # a temporary file without a name
                self.operation("open", path, lambda: nameless or os.open(path, args[2] & ~os.O_EXCL, 0o600))
        elif event in CHANGES:
            by_number = isinstance(args[0], int)
            path = str(Path(f"/proc/self/fd/{args[0]}").readlink()) if by_number else os.fsdecode(args[0])
            folder = args[-2] if event == "os.rename" else args[-1]
            if event in IN_FOLDERS and isinstance(folder, int) and folder >= 0:
                path = f"{Path(f'/proc/self/fd/{folder}').readlink()}/{path}"
            if self.inside(path):
                self.operation(event, path)

    def inside(self, path: str) -> bool:
        """Whether it is in the folder, by whatever link."""
        absolute = Path.cwd() / path
        return f"{absolute.parent.resolve()}/{absolute.name}".startswith(self.folder + os.sep)

    def operation(self, what: str, path: str, begin: Callable[[], object] | None = None) -> None:
        self.count += 1
        os.write(self.log, f"{what} {os.path.relpath(path, self.folder)}\n".encode())
        if self.count == self.number:
            self.aside = True
            if self.kind == "cut" and begin is not None:
                begin()
            os.kill(os.getpid(), signal.SIGKILL)

    def watch_writer(self, owner: Any, name: str, place: int) -> None:
        """Counts calls of a function that writes the file at this place of its arguments by itself."""
        write = getattr(owner, name)

        def watched(*args: Any, **options: Any) -> Any:
            def half() -> None:
                write(*args, **options)
                os.truncate(args[place], Path(args[place]).stat().st_size // 2)

            if len(args) > place and isinstance(args[place], str | os.PathLike) and self.inside(os.fspath(args[place])):
                self.operation("open", os.fspath(args[place]), half)
            return write(*args, **options)

        setattr(owner, name, watched)


def main() -> None:
    number, kind, folder, log, *words = sys.argv[1:]
    killer = Killer(int(number), kind, folder, log)
    import safetensors.torch
    import torch

    killer.watch_writer(torch, "save", 1)
    killer.watch_writer(safetensors.torch, "serialize_file", 1)
    sys.addaudithook(killer.hook)
    if words[0] == "-m":
        sys.argv = words[1:]
        sys.path[0] = str(Path.cwd())
        runpy.run_module(words[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv = words
        sys.path[0] = str(Path(words[0]).resolve().parent)
        runpy.run_path(words[0], run_name="__main__")


if __name__ == "__main__":
    main()
