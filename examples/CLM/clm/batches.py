"""Batches: rows padded to the longest, with the mask and the positions that keep padding and neighbours out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedModel

from clm.features import IGNORED, Feature
from examples.common.errors import UserError


@dataclass(frozen=True)
class Collator:
    """Makes tensors of features.

    Padding is known from lengths, never from its id, which may be that of the end token.

    Attributes:
        pad_token_id: any id that the model has an embedding for.
        side: on which side of a text the padding is.
        block_mask: give packed rows an attention mask of (B, 1, T, T), for models that do not tell them by positions.
    """

    pad_token_id: int
    side: str = "right"
    block_mask: bool = False

    def __call__(self, features: Sequence[Feature]) -> dict[str, Tensor]:
        """``input_ids`` (B, T); ``position_ids`` (B, T); ``attention_mask`` (B, T), absent where rows are packed;
        ``labels`` (B, T), or (B, 2) with a class number behind -100.
        """
        ids = [torch.tensor(feature["input_ids"]) for feature in features]
        batch = {"input_ids": self._pad(ids, self.pad_token_id)}
        if "position_ids" in features[0]:
            T = batch["input_ids"].shape[1]
            # padding counts on from 0, as one more example
            positions = [[*feature["position_ids"], *range(T - len(feature["input_ids"]))] for feature in features]
            batch["position_ids"] = torch.tensor(positions)
            if self.block_mask:
                batch["attention_mask"] = block_mask(batch["position_ids"])
        else:
            batch["attention_mask"] = self._pad([torch.ones_like(row) for row in ids], 0)
            batch["position_ids"] = (batch["attention_mask"].cumsum(-1) - 1).clamp(min=0)
        if "labels" in features[0]:
            batch["labels"] = self._pad([torch.tensor(feature["labels"]) for feature in features], IGNORED)
        return batch

    def _pad(self, rows: list[Tensor], value: int) -> Tensor:
        return pad_sequence(rows, batch_first=True, padding_value=value, padding_side=self.side)


def block_mask(position_ids: Tensor) -> Tensor:
    """(B, 1, T, T), added to attention scores: 0 where a token may see another of its example, else the least float.

    Args:
        position_ids: (B, T), from 0 for each example of a packed row.
    """
    example = (position_ids == 0).cumsum(-1)  # (B, T)
    same = example[:, :, None] == example[:, None, :]
    T = position_ids.shape[1]
    seen = same & torch.ones(T, T, dtype=torch.bool).tril()
    return torch.where(seen, 0.0, torch.finfo(torch.float32).min)[:, None]


@torch.no_grad()
def packing_collator(model: PreTrainedModel, pad_token_id: int) -> Collator:
    """The collator with which this model keeps packed examples apart, found by a trial of two tiny rows.

    Also switches its cache off, with which models do not look at positions.

    Raises:
        UserError: the model mixes them either way.
    """
    mode = model.training
    model.eval()
    model.config.use_cache = False
    tolerance = 1e-4 if model.dtype is torch.float32 else 3e-2
    texts = [[1, 2, 3], [4, 5, 6, 7]]
    features: list[Feature] = [{"input_ids": ids, "position_ids": list(range(len(ids)))} for ids in texts]
    packed: Feature = {name: features[0][name] + features[1][name] for name in features[0]}
    try:
        for collator in (Collator(pad_token_id), Collator(pad_token_id, block_mask=True)):
            outputs = []
            for feature in (features[1], packed):
                inputs = {name: value.to(model.device) for name, value in collator([feature]).items()}
                outputs.append(model(**inputs).logits[0, -4:].float())
            alone, packed_too = outputs
            if torch.allclose(alone, packed_too, rtol=tolerance, atol=tolerance * outputs[0].abs().max().item()):
                return collator
    finally:
        model.train(mode)
    raise UserError(f"--packing: a {model.config.model_type} model lets packed examples see each other; leave it out")
