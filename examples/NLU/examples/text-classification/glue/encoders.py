"""What differs between encoders: names of query and value by kind of model, and the head of any model by rule.

The head is what stands outside the base model, and the base model's pooler, which belongs to no sub-layer and is random
in many checkpoints, or was trained for something else. It is trained whole and saved beside the update. Where a file's
head is for another number of labels, the module with the last layer starts fresh and the rest of the head stays: all of
RoBERTa's and ELECTRA's ``classifier``, of BERT, DistilBERT and DeBERTa the last layer alone, as released.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn
from transformers import PreTrainedModel

from examples.common.errors import UserError


@dataclass(frozen=True)
class Encoder:
    """Query and value projections of a kind of model (Hu et al. 2021, Section 4.2), and how A starts; B is zero.

    ``enable_lora`` says which blocks of a fused projection are adapted: query and value, not key.
    """

    query_value: tuple[str, ...]
    lora_init: str = "released"  # U(-1/sqrt(hidden), 1/sqrt(hidden))
    enable_lora: tuple[bool, ...] | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """Last parts of the names, which files of trained weights record."""
        return tuple(name.rsplit(".", 1)[-1] for name in self.query_value)


ENCODERS = {
    "bert": Encoder(("self.query", "self.value")),
    "roberta": Encoder(("self.query", "self.value")),
    "distilbert": Encoder(("q_lin", "v_lin")),
    "electra": Encoder(("self.query", "self.value")),
    "deberta": Encoder(("in_proj",), "paper", (True, False, True)),
    "deberta-v2": Encoder(("query_proj", "value_proj"), "paper"),  # N(0, 0.02²), as the released code has it; v3 too
    "gpt2": Encoder(("attn.c_attn",), "released", (True, False, True)),
}


def in_head(model: PreTrainedModel, name: str) -> bool:
    """Whether a parameter of this name, or all of a module if the name ends with a dot, belongs to the head."""
    base = f"{model.base_model_prefix}."
    return not name.startswith(base) or name.startswith(f"{base}pooler.")


def last_layer(model: PreTrainedModel) -> str:
    """Name of the head's last linear layer, which has an output for each label.

    Raises:
        UserError: the head cannot be told from the base model.
    """
    if model.base_model is not model:
        for name, module in reversed(list(model.named_modules())):
            is_last = isinstance(module, nn.Linear) and module.out_features == model.config.num_labels
            if is_last and in_head(model, f"{name}."):
                return name
    raise UserError(
        f"a {model.config.model_type} model: expected a module {model.base_model_prefix!r} and outside of it a linear "
        f"layer with {model.config.num_labels} outputs; without them its head cannot be told"
    )


def starts_fresh(model: PreTrainedModel) -> str:
    """Name of the module of the head that starts fresh where the labels are other ones: that with the last layer."""
    return last_layer(model).partition(".")[0]


def renew_head(model: PreTrainedModel) -> None:
    """Draws anew what ``starts_fresh`` names; a last layer of its own is fresh already, by ``from_pretrained``.

    Raises:
        UserError: a head that is not made from the model's config alone.
    """
    name = starts_fresh(model)
    old: nn.Module = getattr(model, name)
    if type(old) is nn.Linear:
        return
    try:
        new = type(old)(model.config)
    except TypeError:
        raise UserError(f"a {type(old).__name__} for other labels cannot be made; give a base without a head") from None
    new.apply(model._init_weights)
    setattr(model, name, new)
