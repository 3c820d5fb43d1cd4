"""The low-rank branch of a linear layer as a function of tensors, and the choice between its two implementations."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import forward_ad

from loralib.lowrank_autograd import LowRankLinear, linear_plus_update


def lowrank_linear(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    lora_A: Tensor,
    lora_B: Tensor,
    *,
    scaling: float,
    enabled: Sequence[bool],
    dropout: Callable[[Tensor], Tensor],
) -> Tensor:
    """Frozen linear map plus a low-rank update of each enabled block of its output.

    With n = len(enabled) output blocks of out/n features, of which g are enabled, for the j-th enabled block::

        z   = D(x) A^T            (..., g*r)     all enabled blocks in one thin product
        y_i = (x W^T + b)_i       (..., out/n)   for every block i
        y_i += s * z_j B_j^T      (..., out/n)   for the j-th enabled block i; z_j = z[..., j*r:(j+1)*r]

    The (out, in) update is never built, and nothing is padded with zeros: beside the frozen layer, the forward pass
    costs r*g*(in + out/n) multiply-adds a row, where the dense update would cost in*out.
    Source: Hu et al. 2021 (arXiv:2106.09685), Section 4.1, Eq. 3, applied to each block.

    Two implementations agree to rounding and draw the same dropout mask. Training in eager mode uses the fast one,
    ``LowRankLinear``; compilers, function transforms and everything else unusual get the reference, ``by_autograd``.

    Factors in another dtype than x compute in their own dtype, unless autocast decides.

    Args:
        x: (..., in).
        weight: (out, in).
        bias: (out,) or None.
        lora_A: (g*r, in); rows j*r to (j+1)*r belong to the j-th enabled block.
        lora_B: (g*out/n, r); rows j*out/n to (j+1)*out/n belong to the j-th enabled block.
        scaling: s = alpha / r.
        enabled: for each block, whether it has an update; at least one has.
        dropout: D; called once, on x in its own shape, so that all blocks share one mask. In place of a plain
            ``nn.Dropout`` its mask may be drawn here, from the same random numbers.

    Returns:
        (..., out), in the dtype of the frozen branch.
    """
    p = _probability(dropout, x.device)
    if p is None or not _is_usual(x, weight, bias, lora_A, lora_B):
        return by_autograd(x, weight, bias, lora_A, lora_B, scaling=scaling, enabled=enabled, dropout=dropout)
    dropped, mask = _drop(x.detach(), p) if p > 0 else (None, None)
    if _autocast_decides(x.device):
        dtype = torch.get_autocast_dtype(x.device.type)
        x, weight, lora_A, lora_B = (tensor.to(dtype) for tensor in (x, weight, lora_A, lora_B))
        bias = None if bias is None else bias.to(dtype)
        dropped = None if dropped is None else dropped.to(dtype)
    if torch.is_grad_enabled() and lora_A.requires_grad:
        return LowRankLinear.apply(x, weight, bias, lora_A, lora_B, dropped, mask, 1 - p, scaling, enabled)
    return linear_plus_update(x, weight, bias, lora_A, lora_B, dropped, scaling, enabled)[0]


def by_autograd(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    lora_A: Tensor,
    lora_B: Tensor,
    *,
    scaling: float,
    enabled: Sequence[bool],
    dropout: Callable[[Tensor], Tensor],
) -> Tensor:
    """``lowrank_linear`` by torch's own differentiable operations: the reference, for every mode that torch has."""
    leading = x.shape[:-1]
    y = F.linear(x, weight, bias).reshape(leading.numel(), weight.shape[0])  # (rows, out)
    x = dropout(x).reshape(leading.numel(), weight.shape[1])  # (rows, in)
    if x.dtype != lora_A.dtype and not _autocast_decides(x.device):
        x = x.to(lora_A.dtype)
    z = F.linear(x, lora_A)  # (rows, g*r)

    g = sum(enabled)
    blocks = list(y.chunk(len(enabled), dim=1))  # n of (rows, out/n), views of y
    positions = [i for i, on in enumerate(enabled) if on]
    for i, z_j, B_j in zip(positions, z.chunk(g, dim=1), lora_B.chunk(g, dim=0)):
        blocks[i] = _add_product(blocks[i], z_j, B_j, scaling)
    y = torch.cat(blocks, dim=1) if len(blocks) > 1 else blocks[0]
    return y.reshape(*leading, y.shape[1])


def _add_product(y: Tensor, z: Tensor, lora_B: Tensor, scaling: float) -> Tensor:
    """``y + scaling * z B^T``; y (rows, block), z (rows, r), lora_B (block, r)."""
    if y.dtype == z.dtype:
        return torch.addmm(y, z, lora_B.T, alpha=scaling)
    return y + (scaling * F.linear(z, lora_B)).to(y.dtype)


# --- whether the fast implementation applies -------------------------------------------------------------------------


def _is_usual(x: Tensor, weight: Tensor, bias: Tensor | None, lora_A: Tensor, lora_B: Tensor) -> bool:
    """Whether ``LowRankLinear`` gives all that autograd would: eager mode, plain tensors, reverse mode, one dtype."""
    if torch.compiler.is_compiling() or torch.jit.is_tracing() or torch._C._are_functorch_transforms_active():
        return False
    tensors = [tensor for tensor in (x, weight, bias, lora_A, lora_B) if tensor is not None]
    if x.numel() == 0 or any(type(tensor) not in (Tensor, nn.Parameter) for tensor in tensors):
        return False
    if any(forward_ad.unpack_dual(tensor).tangent is not None for tensor in tensors):
        return False
    trains = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)
    if trains and not (lora_A.requires_grad and lora_B.requires_grad):
        return False  # a frozen factor spares autograd x or z, which the Function would keep
    dtypes = {tensor.dtype for tensor in tensors}
    if _autocast_decides(x.device):
        return dtypes <= {torch.float32, torch.bfloat16, torch.float16}  # what autocast casts
    return len(dtypes) == 1 and x.is_floating_point()


def _autocast_decides(device: torch.device) -> bool:
    return torch.amp.is_autocast_available(device.type) and torch.is_autocast_enabled(device.type)


# --- dropout ---------------------------------------------------------------------------------------------------------


def _probability(dropout: Callable[[Tensor], Tensor], device: torch.device) -> float | None:
    """p where ``dropout`` is torch's own, so that its mask can be drawn here; None where it must be called.

    Zero without dropout. A subclass or other callable has a meaning of its own; hooks want the call; and the random
    numbers of other devices than these are not known to be those of ``_drop``.
    """
    if type(dropout) is nn.Identity:
        return 0.0 if not _has_hooks(dropout) else None
    if type(dropout) is not nn.Dropout or dropout.inplace or _has_hooks(dropout):
        return None
    if not dropout.training or dropout.p == 0:
        return 0.0
    return dropout.p if dropout.p < 1 and device.type in ("cpu", "cuda") else None


def _has_hooks(module: nn.Module) -> bool:
    hooks = (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks)
    return any(hooks) or "forward" in vars(module)


def _drop(x: Tensor, p: float) -> tuple[Tensor, Tensor]:
    """D(x) and its mask in a byte an element, from the random numbers that ``F.dropout(x, p)`` would take."""
    if x.device.type == "cpu":
        # As F.dropout does, which however keeps the mask in the dtype of x; native_dropout is slower by its bool mask.
        kept = torch.empty_like(x).bernoulli_(1 - p)
        mask = kept.to(torch.uint8)
        return kept.mul_(x).mul_(1 / (1 - p)), mask
    return torch.native_dropout(x, p, True)
