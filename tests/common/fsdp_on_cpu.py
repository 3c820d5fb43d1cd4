"""A program of transformers' Trainer with FSDP between processes on CPUs, as tests have them.

    fsdp_on_cpu.py PROGRAM FLAGS...

torch shards over gloo as over nccl, but accelerate, where it finds no accelerator, leaves ``--fsdp`` out. Here it does
as on GPUs, and each unit that is sharded is printed. Everything else is the program as it is.
"""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import torch.distributed.fsdp
from accelerate.state import AcceleratorState, PartialState
from accelerate.utils import DistributedType


def shard_on_cpus() -> None:
    """Makes accelerate take a run of several processes on CPUs for one that FSDP is possible in."""
    original = AcceleratorState.__init__

    def init(self, *args, fsdp_plugin=None, **kwargs):
        original(self, *args, fsdp_plugin=fsdp_plugin, **kwargs)
        if fsdp_plugin is not None and self.distributed_type == DistributedType.MULTI_CPU:
            if self._mixed_precision != "no":
                fsdp_plugin.set_mixed_precision(self._mixed_precision)
            self.fsdp_plugin = fsdp_plugin
            self.distributed_type = PartialState._shared_state["distributed_type"] = DistributedType.FSDP

    AcceleratorState.__init__ = init


def print_units() -> None:
    """Makes ``fully_shard`` say what it shards."""
    original = torch.distributed.fsdp.fully_shard

    def fully_shard(module, **options):
        print(f"sharded {type(module).__name__}\n", end="", flush=True)
        return original(module, **options)

    torch.distributed.fsdp.fully_shard = fully_shard


if __name__ == "__main__":
    shard_on_cpus()
    print_units()
    del sys.argv[0]
    sys.path.insert(0, str(Path(sys.argv[0]).parent))
    runpy.run_path(sys.argv[0], run_name="__main__")
