"""Costs that do not depend on the clock: counted FLOPs, bytes kept for the backward pass, highest memory."""

from __future__ import annotations

import math
import os
import resource
import sys
import time
from collections.abc import Callable, Iterable
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode, flop_registry, register_flop_formula

MIB = 2**20


def _linear_pointwise_flops(x: Any, *args: Any, out_shape: Any = None, **kwargs: Any) -> int:
    """oneDNN's linear layer: (..., in) -> (..., out)."""
    return 2 * math.prod(out_shape) * x[-1]


_ONEDNN_LINEAR = getattr(torch.ops.mkldnn, "_linear_pointwise", None)
if _ONEDNN_LINEAR is not None and _ONEDNN_LINEAR not in flop_registry:
    register_flop_formula(_ONEDNN_LINEAR)(_linear_pointwise_flops)


def counted_flops(work: Callable[[], object]) -> int:
    """FLOPs of the matrix products, convolutions and attentions inside ``work`` (a multiply-add counts two)."""
    with FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops()


def saved_bytes(forward: Callable[[], object], parameters: Iterable[Tensor] = ()) -> int:
    """Bytes that autograd keeps for the backward pass, each piece of memory counted once.

    Args:
        forward: builds the graph; what it returns is kept until the count is done.
        parameters: tensors that exist anyway and are not counted (weights, inputs).
    """
    known = {tensor.untyped_storage().data_ptr() for tensor in parameters}
    sizes: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            sizes[storage.data_ptr()] = storage.nbytes()
        return tensor.detach()  # with its grad_fn, the tensor would keep the graph alive in a circle

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        result = forward()
    del result
    return sum(sizes.values())


def peak_bytes(work: Callable[..., object], *args: Any, device: str = "cpu", threads: int | None = None) -> int:
    """Highest memory of ``work(*args)``: of a new process without what torch itself takes, or allocated on the GPU.

    Args:
        work: a function of a module, which the new process imports.
    """
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        work(*args)
        return torch.cuda.max_memory_allocated(device) - before
    context = get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_measured, args=(sender, work, args, threads))
    process.start()
    sender.close()
    try:
        return int(receiver.recv())
    except EOFError:
        process.join()
        raise RuntimeError(f"measuring the memory of {work.__name__} ended with code {process.exitcode}") from None
    finally:
        process.join()


def _measured(sender: Any, work: Callable[..., object], args: tuple[Any, ...], threads: int | None) -> None:
    if threads is not None:
        torch.set_num_threads(threads)
    torch.ones(8, 8) @ torch.ones(8, 8)  # the libraries behind torch are loaded
    before = _resident(highest=False)
    work(*args)
    sender.send(max(0, _resident(highest=True) - before))


def _resident(*, highest: bool) -> int:
    """Bytes of this process in memory: now, from where the highest is looked for, or the highest since then."""
    status = Path("/proc/self/status")
    if not status.exists():  # macOS counts bytes, and other systems have no way to start again
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    # not ru_maxrss: Linux hands the parent's on to the process that it starts
    if not highest:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # forgets the highest so far
    key = "VmHWM:" if highest else "VmRSS:"
    (line,) = (line for line in status.read_text(encoding="ascii").splitlines() if line.startswith(key))
    return int(line.split()[1]) * 1024


def matmul_flops_per_second(
    dtype: torch.dtype, device: torch.device | str, *, size: int = 0, seconds: float = 1
) -> float:
    """Measured rate of square matrix products, the machine's peak for our purposes.

    Args:
        size: rows and columns; by default 2048 on a CPU, 8192 on a GPU.
        seconds: how long to measure; the fastest product counts.
    """
    on_gpu = torch.device(device).type == "cuda"
    size = size or (8192 if on_gpu else 2048)
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    products: list[Callable[[], object]] = [lambda: a @ b]
    # Where oneDNN is the faster library, it is the peak. bfloat16 goes there by itself.
    if not on_gpu and dtype == torch.float32 and torch.backends.mkldnn.is_available():
        packed = torch.ops.mkldnn._reorder_linear_weight(b)
        products.append(lambda: torch.ops.mkldnn._linear_pointwise(a, packed, None, "none", [], ""))
    best = float("inf")
    for product in products:
        deadline = time.perf_counter() + seconds / len(products)
        while time.perf_counter() < deadline:
            start = time.perf_counter()
            product()
            if on_gpu:
                torch.cuda.synchronize(device)
            best = min(best, time.perf_counter() - start)
    return 2 * size**3 / best


def cpu_count() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
