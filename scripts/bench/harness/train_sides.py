"""Training steps side by side: ours, transformers + peft, full fine-tuning and the bound, on equal rows and weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from gpt2.chunked_loss import chunked_loss
from gpt2.config import GPT2Config, LoRAConfig
from gpt2.losses import DENOMINATOR_EPSILON
from gpt2.model import GPT2LMModel
from torch import Tensor
from train.data import Batch, FT_Dataset
from train.optimizer import AdamW

import loralib as lora
from harness.peers import seeded_model, set_peft_like_ours, transformers_gpt2, with_peft

LR = 1e-6  # small enough that the weights of all sides stay equal for what is compared


@dataclass
class Side:
    """One implementation: ``loss`` builds the graph, ``step`` trains once; ``autocast`` is None for plain dtypes."""

    model: Any
    loss_of: Callable[[Any], Tensor]
    optimizer: torch.optim.Optimizer | None
    autocast: torch.dtype | None = None
    device: str = "cpu"

    def loss(self, batch: Any) -> Tensor:
        device = torch.device(self.device).type
        with torch.autocast(device, dtype=self.autocast, enabled=self.autocast is not None):
            return self.loss_of(batch)

    def step(self, batch: Any) -> None:
        self.loss(batch).backward()
        if self.optimizer is not None:
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)

    def known(self) -> list[Tensor]:
        """What exists without the graph."""
        return [*self.model.parameters(), *self.model.buffers()]


def ours(
    config: GPT2Config,
    r: int,
    *,
    device: str,
    alpha: float = 32,
    dropout: float = 0.0,
    checkpointing: bool = False,
) -> Side:
    """Our step with LoRA of rank r on query and value, or full fine-tuning for r = 0; no smoothing."""
    model = seeded_model(config, LoRAConfig(r=r, alpha=alpha, dropout=dropout)).to(device).train()
    if r:
        lora.mark_only_lora_as_trainable(model)
    else:
        model.requires_grad_(True)
    model.transformer.gradient_checkpointing = checkpointing
    optimizer = AdamW([p for p in model.parameters() if p.requires_grad], lr=LR)
    return Side(model, lambda batch: model.loss(batch.input, batch.target, batch.mask), optimizer, device=device)


def bound(model: GPT2LMModel) -> Side:
    """The frozen model's forward pass and the gradient of the first block's input, the loss where ours looks.

    Nothing is trainable and nothing optimised: no step that trains below the first block can do less matrix work.
    """
    frozen = seeded_like(model)

    def loss(batch: Batch) -> Tensor:
        counted = batch.mask.flatten().nonzero().squeeze(1)
        transformer = frozen.transformer
        x = transformer.wte(batch.input) + transformer.wpe.weight[: batch.input.size(1)]
        x.requires_grad_()
        for block in transformer.h:
            x = block(x)
        mask, target = (t.flatten()[counted] for t in (batch.mask, batch.target))
        weights = mask / (mask.sum() + DENOMINATOR_EPSILON)
        hidden = transformer.ln_f(x).flatten(0, 1)[counted]
        return chunked_loss(hidden, frozen.lm_head.decoder.weight, target, weights, 0.0)

    return Side(frozen, loss, None, device=str(frozen.lm_head.decoder.weight.device))


def seeded_like(model: GPT2LMModel) -> GPT2LMModel:
    """The same base weights in the same memory, without LoRA, frozen."""
    with torch.device("meta"):
        frozen = GPT2LMModel(model.config, LoRAConfig())
    base = {name: t for name, t in model.state_dict().items() if "lora_" not in name}
    frozen.load_state_dict(base, assign=True)
    frozen.lm_head.decoder.weight = frozen.transformer.wte.weight
    return frozen.requires_grad_(False).train()


@dataclass(frozen=True)
class TheirBatch:
    """What users of transformers pass: whole rows, padded on the right, labels -100 where no loss is wanted."""

    input_ids: Tensor
    attention_mask: Tensor
    labels: Tensor

    def to(self, device: torch.device | str) -> TheirBatch:
        return TheirBatch(*(tensor.to(device) for tensor in (self.input_ids, self.attention_mask, self.labels)))


def their_batch(data: FT_Dataset, rows: Sequence[int], length: int | None = None) -> TheirBatch:
    """Rows padded to ``length``, by default to the longest of them."""
    ids = [[*data.rows[row].context, *data.rows[row].completion] for row in rows]
    T = length or max(map(len, ids))
    labels = torch.full((len(ids), T), -100)
    input_ids, mask = torch.zeros(len(ids), T, dtype=torch.int64), torch.zeros(len(ids), T, dtype=torch.int64)
    for i, (row, tokens) in enumerate(zip(rows, ids)):
        input_ids[i, : len(tokens)] = torch.tensor(tokens)
        mask[i, : len(tokens)] = 1
        start = len(data.rows[row].context)
        labels[i, start : len(tokens)] = input_ids[i, start : len(tokens)]
    return TheirBatch(input_ids, mask, labels)


def peft_like(model: GPT2LMModel, r: int, *, device: str, alpha: float = 32, dropout: float = 0.0) -> Side:
    """transformers + peft with our weights: one update of rank 2r on the fused projection, which holds both of ours."""
    peer = with_peft(transformers_gpt2(model), r=2 * r, alpha=int(2 * alpha), dropout=dropout)
    set_peft_like_ours(peer, model)
    peer.to(device).train()
    optimizer = torch.optim.AdamW([p for p in peer.parameters() if p.requires_grad], lr=LR)

    def loss(batch: TheirBatch) -> Tensor:
        return peer(input_ids=batch.input_ids, attention_mask=batch.attention_mask, labels=batch.labels).loss

    return Side(peer, loss, optimizer, device=device)


def step_flops(config: GPT2Config, B: int, T: int, n: int, *, r: int, blocks: int = 2) -> int:
    """FLOPs of the matrix products of our step with LoRA of rank r on ``blocks`` of query, key and value.

    Attention itself is left out. Per position, in multiply-adds, with C = n_embd: the projection of queries, keys and
    values 3 C^2, the one after attention C^2, the MLP 8 C^2; the head has V C at the n counted positions only. Frozen
    products count twice (output and input gradient), but for the first block's projection, whose input has no gradient.
    An update of a block of the output costs 2 r C forward (A, then B) and 4 r C backward (both factors and both
    inputs), 3 r C in the first block.
    """
    C, L, V, rows = config.n_embd, config.n_layer, config.vocab_size, B * T
    projections = rows * 3 * C * C
    frozen = 2 * (L * (projections + rows * 9 * C * C) + n * V * C) - projections
    return 2 * (frozen + (6 * L - 1) * rows * blocks * r * C)
