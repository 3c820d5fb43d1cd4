"""Language-model loss of hidden states without their logits: a few rows at a time, each row's gradient at once."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

# Bytes of the float32 logits that exist at once. On a CPU 32 MiB are 166 rows of 50,257: from 128 rows on a product
# with the embedding runs at the machine's full rate (below 64 it loses a quarter and more), and what is written stays
# in a large cache. A GPU needs more rows to be busy.
CHUNK_BYTES = {"cpu": 32 * 2**20, "cuda": 256 * 2**20}
# Rows of logits begin at multiples of so many numbers: 50,257 of them side by side make the product a quarter slower.
ROW_ALIGNMENT = 16
# Gradients of logits lie within [-1, 1], and float16 rounds those below 6e-8 to 0; so they are kept times this factor,
# far below the largest float16, 65504.
HALF_SCALE = 1024.0


def chunked_loss(hidden: Tensor, weight: Tensor, target: Tensor, row_weights: Tensor, label_smooth: float) -> Tensor:
    """Weighted sum of the cross-entropies of ``hidden @ weight.T``, equal to ``token_losses`` up to rounding.

    The logits of a chunk of rows are turned into its losses and, in the same memory, into the gradient of its hidden
    states: what is kept for the backward pass is (n, C) instead of (n, V), and no product is computed twice. The
    gradient of ``weight`` is computed only where it is trainable. The result is linear in the losses of the
    tokens, so that the backward pass has only to scale these gradients.

    Args:
        hidden: (n, C).
        weight: (V, C), the token embedding.
        target: (n,) token ids. Without smoothing, an id of -1 has loss 0.
        row_weights: (n,) float32, what the loss of each row counts; no gradient goes there.
        label_smooth: s in [0, 1), 0 for none; see ``losses.token_losses``.

    Returns:
        Scalar float32.
    """
    if torch.is_grad_enabled() and (hidden.requires_grad or weight.requires_grad):
        return _ChunkedLoss.apply(hidden, weight, target, row_weights, label_smooth)
    return _Chunks(hidden, weight, target, row_weights, label_smooth).run(need_hidden=False, need_weight=False)[0]


class _ChunkedLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, target: Tensor, row_weights: Tensor, label_smooth: float
    ) -> Tensor:
        chunks = _Chunks(hidden, weight, target, row_weights, label_smooth)
        need_hidden, need_weight = ctx.needs_input_grad[:2]
        loss, *gradients = chunks.run(need_hidden=need_hidden, need_weight=need_weight)
        ctx.save_for_backward(*gradients)
        return loss

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_loss: Tensor) -> tuple[Tensor | None, ...]:
        d_hidden, d_weight = ctx.saved_tensors
        # not in place: the graph may be gone through twice
        scaled = [None if d is None else (d * grad_loss).to(d.dtype) for d in (d_hidden, d_weight)]
        return (*scaled, None, None, None)


class _Chunks:
    """One pass over the rows; the arguments are those of ``chunked_loss``."""

    def __init__(
        self, hidden: Tensor, weight: Tensor, target: Tensor, row_weights: Tensor, label_smooth: float
    ) -> None:
        self.out_dtypes = hidden.dtype, weight.dtype
        dtype = _product_dtype(hidden)
        self.hidden, self.weight = hidden.to(dtype), weight.to(dtype)
        self.smooth = label_smooth
        self.row_weights = row_weights.float()
        self.target = target
        if label_smooth == 0.0:  # as F.cross_entropy(ignore_index=-1)
            self.row_weights = self.row_weights * (target >= 0)
            self.target = target.clamp(min=0)
        self.scale = HALF_SCALE if dtype == torch.float16 else 1.0

    def run(self, *, need_hidden: bool, need_weight: bool) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Loss, and gradients of hidden (n, C) and weight (V, C) where they are needed."""
        (n, C), V = self.hidden.shape, self.weight.size(0)
        device = self.hidden.device
        d_hidden = torch.empty(n, C, dtype=self.out_dtypes[0], device=device) if need_hidden else None
        d_weight = torch.zeros(V, C, dtype=torch.float32, device=device) if need_weight else None
        losses = torch.empty(n, dtype=torch.float32, device=device)
        rows = rows_per_chunk(n, V, device)
        chunk = self.hidden.new_empty(rows, -(-V // ROW_ALIGNMENT) * ROW_ALIGNMENT)[:, :V]
        with torch.autocast(device.type, enabled=False):
            for start in range(0, n, max(rows, 1)):
                at = slice(start, min(start + rows, n))
                logits = torch.mm(self.hidden[at], self.weight.t(), out=chunk[: at.stop - start])  # (m, V)
                losses[at], d_logits = self._losses(logits, self.target[at], need_hidden or need_weight)
                if d_hidden is not None:
                    d_hidden[at] = (d_logits @ self.weight) * (self.row_weights[at, None] / self.scale)
                if d_weight is not None:
                    weighted = self.hidden[at] * self.row_weights[at, None].to(self.hidden.dtype)
                    d_weight.add_(d_logits.t() @ weighted, alpha=1 / self.scale)
        loss = (losses * self.row_weights).sum()
        return loss, d_hidden, None if d_weight is None else d_weight.to(self.out_dtypes[1])

    def _losses(self, logits: Tensor, target: Tensor, need_gradient: bool) -> tuple[Tensor, Tensor]:
        """Losses (m,) and, in the memory of the logits, their gradients (m, V) times ``scale``.

        With p = softmax(logits): loss = -(1 - s) log p[target] - s mean(log p), gradient p - (1 - s) 1[target] - s / V.
        """
        V, s = logits.size(1), self.smooth
        at_target = logits.gather(1, target[:, None]).squeeze(1).float()
        mean = logits.mean(dim=1, dtype=torch.float32) if s else 0.0
        highest = logits.amax(dim=1, keepdim=True).float()
        p = logits if logits.dtype == torch.float32 else logits.float()
        p.sub_(highest).exp_()
        total = p.sum(dim=1, keepdim=True)
        losses = (highest + total.log()).squeeze(1) - (1.0 - s) * at_target - s * mean
        if need_gradient:
            torch.addcmul(p.new_tensor(-s / V), p, total.reciprocal(), out=p)
            p.scatter_add_(1, target[:, None], p.new_full((p.size(0), 1), s - 1.0))
            if self.scale != 1.0:
                p.mul_(self.scale)
        return losses, p if p.dtype == logits.dtype else logits.copy_(p)


def rows_per_chunk(n: int, vocab_size: int, device: torch.device) -> int:
    """Rows of a chunk: as many as ``CHUNK_BYTES`` allow, evened out so that the last one is not small."""
    limit = max(1, CHUNK_BYTES.get(device.type, CHUNK_BYTES["cuda"]) // (4 * vocab_size))
    chunks = -(-n // limit)
    return -(-n // max(1, chunks))


def _product_dtype(hidden: Tensor) -> torch.dtype:
    device = hidden.device.type
    if torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device):
        return torch.get_autocast_dtype(device)
    return hidden.dtype
