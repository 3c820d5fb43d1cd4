"""What a run leaves beside its weights: ``metrics.json`` (scores) and ``run.json`` (how they came about)."""

from __future__ import annotations

import importlib.metadata
import platform
import resource
import shlex
import subprocess
import sys
import time
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch

from glue.cli import sha256_of, write_json

PACKAGES = ("torch", "transformers", "accelerate", "tokenizers", "datasets", "numpy", "scipy", "scikit-learn")


class Run:
    """Clock and record of one program run; create it first, ``write`` it last."""

    def __init__(self) -> None:
        self.started = time.perf_counter()
        self.began = datetime.now(timezone.utc).isoformat(timespec="seconds")

    def write(
        self, folder: str | Path, *, device: torch.device, seed: int, files: dict[str, Path], **more: Any
    ) -> None:
        """Writes ``run.json``: command, commit, versions, device, seed, hashes of data, time in seconds, memory."""
        record = {
            "command": shlex.join([Path(sys.executable).name, *sys.argv]),
            "began": self.began,
            "wall_seconds": round(time.perf_counter() - self.started, 3),
            "commit": _commit(),
            "versions": _versions(),
            "device": torch.cuda.get_device_name(device) if device.type == "cuda" else f"{device} {platform.machine()}",
            "seed": seed,
            "files": {role: {"path": str(path), "sha256": sha256_of(path)} for role, path in files.items()},
            "peak_memory_bytes": _peak_memory(device),
        }
        write_json(Path(folder) / "run.json", {**record, **more})


def _peak_memory(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # macOS counts bytes, Linux KiB


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _commit() -> str | None:
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=20).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
