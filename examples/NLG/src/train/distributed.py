"""Start and end of a run in one process or several; every helper is a no-op where there is one process.

Processes are found through the environment of ``torchrun`` / ``torch.distributed.launch`` (RANK, WORLD_SIZE,
LOCAL_RANK, MASTER_ADDR, MASTER_PORT) or of OpenMPI (OMPI_COMM_WORLD_*); without either the run has one process.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist

from examples.common.errors import LostProcessError, ProcessError, UserError
from examples.common.processes import leave_process_group
from train.flags import PLATFORMS

# Longest wait for another process: far above one evaluation between two collective calls, far below a forgotten job
TIMEOUT = timedelta(minutes=20)

T = TypeVar("T")


@dataclass(frozen=True)
class Process:
    """This process among those of the run. ``local_rank`` counts on this machine and picks the GPU."""

    rank: int = 0
    local_rank: int = 0
    world: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    @property
    def backend(self) -> str:
        """What carries the messages: nccl between GPUs, gloo between CPUs, none in one process."""
        if self.world == 1:
            return "none"
        return "nccl" if self.device.type == "cuda" else "gloo"

    def found(self) -> dict[str, object]:
        """Under the names of the flags that the released programs print."""
        where = {"local_rank": self.local_rank, "rank": self.rank, "device": str(self.device)}
        return {**where, "world_size": self.world, "dist": self.backend}


def find_process(
    platform: str, local_rank: int = 0, device: str = "auto", environ: Mapping[str, str] | None = None
) -> Process:
    """Reads rank, local rank, world size and device from the environment; starts nothing.

    Args:
        platform: one of ``PLATFORMS``. They differ only in where they look first: k8s for OpenMPI, the others for
            torchrun.
        local_rank: used where the environment has none.
        device: ``auto``, ``cpu`` or ``cuda``; a number counts as ``auto``.

    Raises:
        UserError: unknown platform or device, incomplete environment, or no such GPU.
    """
    environ = os.environ if environ is None else environ
    if platform == "azure":
        raise UserError(
            f"--platform azure needed Horovod, which is not supported; use one of {', '.join(PLATFORMS)} with torchrun"
        )
    if platform not in PLATFORMS:
        raise UserError(f"--platform {platform}: expected one of {', '.join(PLATFORMS)}")
    launchers = [("RANK", "WORLD_SIZE", "LOCAL_RANK")]
    mpi = ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK")
    launchers.insert(0 if platform == "k8s" else 1, mpi)
    rank, world = 0, 1
    for rank_name, world_name, local_name in launchers:
        if rank_name in environ and world_name in environ:
            rank, world = _integer(environ, rank_name), _integer(environ, world_name)
            local_rank = _integer(environ, local_name) if local_name in environ else local_rank
            break
    if not 0 <= rank < world:
        raise UserError(f"rank {rank} does not exist among {world} processes; check the launcher's environment")
    if world > 1:
        for name in ("MASTER_ADDR", "MASTER_PORT"):
            if name not in environ:
                raise UserError(f"{world} processes, but the variable {name} is not set; start them with torchrun")
    return Process(rank, local_rank, world, _find_device(device, local_rank))


@contextlib.contextmanager
def distributed_run(args: argparse.Namespace, timeout: timedelta = TIMEOUT) -> Iterator[Process]:
    """Joins the processes of the run, prints who is who, seeds, and leaves in good order whatever happens.

    Reads ``args.platform``, ``local_rank``, ``device`` and ``random_seed``.

    Raises:
        UserError: see ``find_process``; also where another process ended or fell silent, instead of a hang.
    """
    process = find_process(args.platform, args.local_rank, args.device)
    print(
        f"myrank: {process.rank} local_rank: {process.local_rank} "
        f"device_count: {torch.cuda.device_count()} world_size: {process.world}",
        flush=True,
    )
    if process.device.type == "cuda":
        torch.cuda.set_device(process.device)
    try:
        if process.world > 1:
            dist.init_process_group(process.backend, rank=process.rank, world_size=process.world, timeout=timeout)
        seed_everything(args.random_seed)
        yield process
        print("cleanup dist ...", flush=True)
    except RuntimeError as error:
        if process.world > 1 and _is_lost_peer(error):
            reason = re.sub(r"^\[\S+\] *", "", str(error).strip().splitlines()[0]).split(". ")[0]
            said = f"process {process.rank}: another process ended or fell silent ({reason})"
            raise LostProcessError(said) from error
        raise
    finally:
        leave_process_group()


def seed_everything(seed: int) -> None:
    """Seeds Python's and torch's default generators, those of all GPUs included."""
    random.seed(seed)
    torch.manual_seed(seed)


def barrier(process: Process) -> None:
    """Waits until every process is here."""
    if process.world > 1:
        all_reduce_sum(torch.zeros(1, device=process.device), process).item()  # nccl only waits when read


def all_reduce_sum(tensor: torch.Tensor, process: Process) -> torch.Tensor:
    """Sum over all processes, written into ``tensor`` and returned."""
    if process.world > 1:
        dist.all_reduce(tensor)
    return tensor


def patient_group(process: Process) -> dist.ProcessGroup | None:
    """A group for ``gather_objects`` in which a process waits for slower ones as long as they live.

    Gloo sees at once when a peer dies, so no time limit is needed. All processes must call this together.
    """
    return None if process.world == 1 else dist.new_group(backend="gloo", timeout=timedelta(days=365))


def gather_objects(value: T, process: Process, group: dist.ProcessGroup | None = None) -> list[T]:
    """The value of every process, by rank, on all of them."""
    if process.world == 1:
        return [value]
    values: list[T | None] = [None] * process.world
    dist.all_gather_object(values, value, group=group)
    return values  # type: ignore[return-value]


def _find_device(device: str, local_rank: int) -> torch.device:
    if device not in ("auto", "cpu", "cuda") and not device.isdigit():
        raise UserError(f"--device {device}: expected auto, cpu or cuda")
    if device == "cpu" or (device != "cuda" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise UserError("--device cuda: torch finds no CUDA device here; use --device cpu")
    if local_rank >= torch.cuda.device_count():
        raise ProcessError(f"local rank {local_rank} has no GPU: this machine has {torch.cuda.device_count()}")
    return torch.device("cuda", local_rank)


def _integer(environ: Mapping[str, str], name: str) -> int:
    try:
        return int(environ[name])
    except ValueError:
        raise UserError(f"the variable {name} should be a number, got {environ[name]!r}") from None


# What gloo, nccl and torch's store say when a peer is gone, in lower case. All else they say is an error of its own.
LOST_PEER = (
    "connection closed",
    "connection reset",
    "connection refused",
    "broken pipe",
    "timed out",
    "timeout",
    "remote process",
)


def _is_lost_peer(error: RuntimeError) -> bool:
    text = str(error).lower()
    return (isinstance(error, dist.DistError) or "gloo" in text) and any(sign in text for sign in LOST_PEER)
