"""Costs that do not depend on the clock: counted FLOPs and bytes kept for the backward pass."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterable
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
    """FLOPs of the matrix products, convolutions and attentions inside ``work`` (a multiply-add counts two).

    Products that ``gpt2.fast_linear`` would give to oneDNN, whose tensors torch does not count, are ``F.linear`` here.
    """
    with torch.backends.mkldnn.flags(enabled=False), FlopCounterMode(display=False) as counter:
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
