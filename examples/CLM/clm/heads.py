"""Class logits: of a linear layer on the hidden state of the last real token, or of one word a label."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.modeling_outputs import SequenceClassifierOutput

from examples.common.errors import UserError

HEAD = "score"  # transformers' name for it in all its decoders


def last_real(attention_mask: Tensor) -> Tensor:
    """Index (B,) of the last token that is no padding, on whichever side the padding is.

    Args:
        attention_mask: (B, T), 1 for real tokens.
    """
    T = attention_mask.shape[1]
    return (attention_mask.long() * torch.arange(T, device=attention_mask.device)).argmax(-1)


def pick(states: Tensor, attention_mask: Tensor) -> Tensor:
    """(B, D) of (B, T, D): the rows of the last real tokens."""
    return states[torch.arange(len(states), device=states.device), last_real(attention_mask)]


class LastTokenClassification:
    """What a stock ``...ForSequenceClassification`` becomes: one that goes by the attention mask, and has dropout.

    The stock one looks for the padding id, which takes a text's own end token for padding where both are equal. Keys
    are the stock ones.
    """

    base_model: nn.Module
    score: nn.Linear

    def __init__(self, config: PreTrainedConfig, *args: Any, **kwargs: Any) -> None:
        super().__init__(config, *args, **kwargs)  # type: ignore[call-arg]
        self.dropout = nn.Dropout(getattr(config, "last_token_dropout", 0.0))
        if getattr(config, "last_token_bias", False):
            self.score = nn.Linear(self.score.in_features, self.score.out_features)

    def forward(self, input_ids: Tensor, attention_mask: Tensor, **inputs: Any) -> SequenceClassifierOutput:
        hidden = self.base_model(input_ids, attention_mask=attention_mask, use_cache=False, **inputs)[0]
        return SequenceClassifierOutput(logits=self.score(self.dropout(pick(hidden, attention_mask))))


def classifier_class(config: PreTrainedConfig) -> type[PreTrainedModel]:
    """The stock class for a config, with the forward pass above.

    Raises:
        UserError: there is none, or none that puts one linear layer on the last hidden state.
    """
    stock: Any = MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING.get(type(config), None)
    with torch.device("meta"):
        if stock is None or not isinstance(getattr(stock(config), HEAD, None), nn.Linear):
            raise UserError(f"--task cls: {config.model_type} models have no linear layer {HEAD!r}; use --task cloze")
    return type(stock.__name__, (LastTokenClassification, stock), {"__module__": stock.__module__})


def word_ids(tokenizer: PreTrainedTokenizerBase, labels: Sequence[str], words: Sequence[str] | None) -> tuple[int, ...]:
    """The token that stands for each label in ``--task cloze``.

    Args:
        words: ``LABEL=WORD`` for labels that are not said as they are called. A word's leading blank counts.

    Raises:
        UserError: a word of several tokens, two labels of one token, or an unknown label.
    """
    said = {label: label for label in labels}
    for pair in words or ():
        label, equals, word = pair.partition("=")
        if not equals or label not in said:
            raise UserError(f"--label_words {pair}: expected LABEL=WORD with one of {', '.join(labels)}")
        said[label] = word
    ids: list[int] = []
    for label, word in said.items():
        tokens = tokenizer(word, add_special_tokens=False)["input_ids"]
        if len(tokens) != 1:
            pieces = ", ".join(map(repr, tokenizer.convert_ids_to_tokens(tokens)))
            raise UserError(f"--task cloze needs one token a label; {word!r} is {pieces or 'none'}; use --label_words")
        if tokens[0] in ids:
            raise UserError(
                f"--task cloze: the labels {label!r} and {labels[ids.index(tokens[0])]!r} are the same token"
            )
        ids += tokens
    return tuple(ids)
