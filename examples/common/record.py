"""What a run leaves of itself: the command, the code, the versions, the machine, its data, its time and memory."""

from __future__ import annotations

import importlib.metadata
import platform
import resource
import shlex
import subprocess
import sys
import time
from collections.abc import Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch
from torch.backends.cpu import get_cpu_capability

from examples.common.files import sha256_of, write_json

PACKAGES = (
    *("torch", "loralib", "transformers", "accelerate", "datasets", "tokenizers", "safetensors", "numpy", "scipy"),
    *("scikit-learn", "sacrebleu", "pycocoevalcap"),
)


class Run:
    """Clock and record of one program run; create it first, ``write`` it last.

    Args:
        device: where the run computes; decides whose peak memory counts.
        seed: of all random draws.
        files: see ``add_files``.
    """

    def __init__(self, device: torch.device, seed: int, files: Mapping[str, str | Path | None]) -> None:
        self.device = device
        self.seed = seed
        self.started = time.perf_counter()
        self.began = datetime.now(timezone.utc).isoformat(timespec="seconds")
        self.files: dict[str, dict[str, str]] = {}
        self.add_files(files)

    def add_files(self, files: Mapping[str, str | Path | None]) -> None:
        """Hashes input files: role (``train_data``, ``init_checkpoint`` ...) to path, or to None for one not given."""
        for role, path in files.items():
            if path is not None:
                self.files[role] = {"path": str(path), "sha256": sha256_of(path)}

    def record(self) -> dict[str, Any]:
        """The record so far; wall time in seconds, memory in bytes."""
        return {
            "command": shlex.join([Path(sys.executable).name, *sys.argv]),
            "began": self.began,
            "wall_seconds": round(time.perf_counter() - self.started, 3),
            "commit": git_commit(),
            "versions": versions(),
            "device": device_name(self.device),
            "seed": self.seed,
            "files": self.files,
            "peak_memory_bytes": peak_memory_bytes(self.device),
        }

    def write(self, path: str | Path, **more: object) -> None:
        """Writes the record and ``more`` as JSON, atomically."""
        write_json(path, {**self.record(), **more})


def peak_memory_bytes(device: torch.device) -> int:
    """Most memory held at once: allocated on the GPU, or resident in this process for a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # macOS counts bytes, Linux KiB


def versions() -> dict[str, str]:
    """Versions of Python and of those of ``PACKAGES`` that are installed."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


SLOW_BFLOAT16 = "this processor has no instructions for bfloat16 and computes it several times more slowly"


def computes_bfloat16() -> bool:
    """Whether this machine computes bfloat16 as fast as float32: with a GPU, or a processor newer than AVX2."""
    return torch.accelerator.is_available() or get_cpu_capability() != "AVX2"


def device_name(device: torch.device) -> str:
    """``cuda:0 (NVIDIA H100)``, or ``cpu (x86_64, 4 threads)``."""
    if device.type == "cuda":
        return f"{device} ({torch.cuda.get_device_name(device)})"
    return f"{device} ({platform.machine()}, {torch.get_num_threads()} threads)"


def git_commit() -> str | None:
    """Commit of this source tree, with ``-dirty`` where tracked files differ; None outside a repository."""
    folder = Path(__file__).resolve().parent
    try:
        described = subprocess.run(
            ["git", "-C", str(folder), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],
            capture_output=True,
            text=True,
            check=True,
            timeout=20,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return described.stdout.strip()
