"""The end of a run in several processes: no thread of theirs is left when the interpreter ends."""

from __future__ import annotations

import gc

import torch.distributed as dist

# Its functions keep the process group of the moment of import as a default. Left to DistributedDataParallel, which
# imports it later, they would keep the run's group beyond its end, and with it threads that may abort the exit.
import torch.distributed.nn.functional  # noqa: F401


def leave_process_group() -> None:
    """Ends the group of this run, if there is one; call it when the model is gone."""
    if dist.is_initialized():
        gc.collect()  # a model in a cycle of references would keep the group
        dist.destroy_process_group()
