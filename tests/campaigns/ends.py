"""Compares what two runs left, bit for bit but for times, and finds processes that are still at work in a folder."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

# Of records: times, rates, memory, process ids, and what says that a run went on from a checkpoint
OTHERWISE = re.compile(
    r"second|time|date|began|ended|^resume$|^commit$|per_sec|wall|memory|_mb$|pid|resumed|flos|host|when|hour|load"
)
UNFINISHED = re.compile(r"\.partial$|\.tmp$|^tmp|\.incomplete|\.new$")


def differences(whole: Path, parts: Path, ignored: str = r"^$") -> list[str]:
    """What differs between two folders of results, in a few words each; ``ignored``: pattern of files' names."""
    names = [
        {str(p.relative_to(f)) for p in f.rglob("*") if p.is_file() and not re.search(ignored, p.name)}
        for f in (whole, parts)
    ]
    found = [
        f"only {'uninterrupted' if name in names[0] else 'killed'}: {name}" for name in sorted(names[0] ^ names[1])
    ]
    for name in sorted(names[0] & names[1]):
        if (whole / name).read_bytes() != (parts / name).read_bytes():
            try:
                found += different(name, content(whole / name), content(parts / name))
            except Exception as error:
                found.append(f"{name}: cannot be read: {error!r:.200}")
    return found


def content(path: Path) -> Any:
    """Tensors, JSON, or the bytes."""
    if path.suffix in (".pt", ".bin", ".pth"):
        return torch.load(path, weights_only=path.name != "training_args.bin")
    if path.suffix == ".safetensors":
        return load_file(path)
    if path.suffix == ".json":
        return json.loads(path.read_text(encoding="utf-8"))
    if path.suffix == ".jsonl":
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return path.read_bytes()


def different(name: str, a: Any, b: Any) -> list[str]:
    """Places where two values differ."""
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        same = a.dtype == b.dtype and a.shape == b.shape and torch.equal(a.nan_to_num(7), b.nan_to_num(7))
        return [] if same else [f"{name}: another tensor"]
    if isinstance(a, dict) and isinstance(b, dict):
        keys = [key for key in {**a, **b} if not OTHERWISE.search(str(key))]
        lost = [f"{name}: {key} in one only" for key in keys if key not in a or key not in b]
        return lost + [x for key in keys if key in a and key in b for x in different(f"{name}/{key}", a[key], b[key])]
    if isinstance(a, list | tuple) and isinstance(b, list | tuple) and len(a) == len(b):
        return [x for number, pair in enumerate(zip(a, b)) for x in different(f"{name}/{number}", *pair)]
    if hasattr(a, "__dict__") and type(a) is type(b) and type(a).__eq__ is object.__eq__:
        return different(name, vars(a), vars(b))
    if isinstance(a, str) and isinstance(b, str):
        a, b = a.replace(" --resume", ""), b.replace(" --resume", "")  # of the recorded command
    same = a == b or (a != a and b != b)
    return [] if same else [f"{name}: {a!r:.60} and {b!r:.60}"]


def unfinished(folder: Path) -> list[str]:
    """Files and folders that only a write that was cut off leaves."""
    return [f"left over: {p.relative_to(folder)}" for p in folder.rglob("*") if UNFINISHED.search(p.name)]


def processes(folder: Path) -> Iterator[int]:
    """Those whose working folder is this one or in it, zombies aside."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                where = (entry / "cwd").readlink()
            except OSError:
                continue
            if where.is_relative_to(folder.resolve()):
                yield int(entry.name)


def orphans(folder: Path, patience_s: float) -> list[int]:
    """Processes that are still there after this time; none means that all have ended by then."""
    end = time.monotonic() + patience_s
    while (found := list(processes(folder))) and time.monotonic() < end:
        time.sleep(0.05)
    return found
