"""A model with loralib's LoRA and its twin with PEFT's: how far apart they are, measured."""

from __future__ import annotations

import copy
from collections import Counter
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import loralib
from loralib.utils import lora_layers
from tests.loralib.architectures import ROWS, base

R, ALPHA = 4, 6
CLOSE = 1e-5  # in float64; but some models compute attention or norms in float32


class Pair:
    """Row ``name`` of ``ROWS`` twice: ``ours`` has random factors, and ``theirs`` is what PEFT reads of our folder."""

    def __init__(self, name: str, folder: Path):
        import peft

        self.name, self.row, self.folder = name, ROWS[name], folder
        self.ours = random_adapter(loralib.apply_lora(base(name), self.row.targets, R, ALPHA, **self.row.fused))
        loralib.save_adapter(self.ours, folder / "ours")
        plain, ours = base(name), str(folder / "ours")
        theirs = peft.PeftModel.from_pretrained(plain, ours, is_trainable=True, autocast_adapter_dtype=False)
        self.theirs: Any = theirs.eval()

    def new_theirs(self) -> Any:
        """A model to whose targets PEFT has given LoRA of the same rank and alpha; factors random."""
        import peft

        targets, transposed = list(self.row.targets), self.row.fan_in_fan_out
        config = peft.LoraConfig(r=R, lora_alpha=ALPHA, target_modules=targets, fan_in_fan_out=transposed)
        return random_adapter(peft.get_peft_model(base(self.name), config, autocast_adapter_dtype=False).eval(), seed=2)

    def kinds(self) -> str:
        """Number and class of the layers as they were without LoRA."""
        plain = base(self.name)
        return ", ".join(
            f"{n} {kind}"
            for kind, n in Counter(type(plain.get_submodule(path)).__name__ for path in lora_layers(self.ours)).items()
        )

    def counts(self) -> tuple[int, int]:
        """Trainable parameters of ours, and of PEFT's LoRA on the same targets, or of its form of our fused blocks."""
        theirs = self.theirs if self.row.fused else self.new_theirs()
        return number_trainable(self.ours), number_trainable(theirs)

    def effect(self) -> float:
        """What the update changes: distance to the logits of the base model."""
        return distance(self.our_logits, self.base_logits)

    def eval_distance(self) -> float:
        """Of the logits in eval mode, PEFT's model being read from our folder."""
        return distance(self.our_logits, self.logits(self.theirs))

    def train_distance(self) -> float:
        """Of the logits in train mode; all dropout is 0."""
        return distance(*(self.logits(copy.deepcopy(model).train()) for model in (self.ours, self.theirs)))

    def reading_distance(self) -> float:
        """Of the logits of another adapter, which PEFT wrote and ``load_adapter`` reads."""
        theirs = self.new_theirs()
        theirs.save_pretrained(str(self.folder / "theirs"))
        ours = loralib.load_adapter(base(self.name), self.folder / "theirs")
        return distance(self.logits(ours), self.logits(theirs))

    def returning_distance(self) -> float:
        """Of the logits of our adapter and its copy that PEFT read and wrote again."""
        self.theirs.save_pretrained(str(self.folder / "returned"))
        ours = loralib.apply_lora(base(self.name), self.row.targets, R, ALPHA, **self.row.fused)
        loralib.load_adapter(ours, self.folder / "returned")
        return distance(self.logits(ours), self.our_logits)

    def merged_distances(self) -> tuple[float, float | None]:
        """Of our logits after merging to those before, and to those of PEFT's ``merge_and_unload``.

        None for PEFT with an embedding whose table the output head shares, because PEFT merges into both.
        """
        merged = loralib.remove_lora(copy.deepcopy(self.ours), merge=True, untie=self.row.tied)
        assert not lora_layers(merged)
        logits = self.logits(merged)
        before = distance(logits, self.our_logits)
        if self.row.tied:
            return before, None
        return before, distance(logits, self.logits(copy.deepcopy(self.theirs).merge_and_unload()))

    def disabled_is_base(self) -> bool:
        """Whether the logits without the update have the very bits of the base model's."""
        with loralib.disabled(self.ours):
            logits = self.logits(self.ours)
        return torch.equal(logits, self.base_logits)

    def generates_the_same(self) -> bool | None:
        """Whether greedy decoding with a cache gives PEFT's tokens; None for models that do not generate."""
        if not self.row.generates:
            return None
        prompt = {key: value for key, value in self.row.inputs().items() if not key.startswith("decoder_")}
        options = {"max_new_tokens": 6, "do_sample": False, "use_cache": True}
        return torch.equal(*(model.generate(**prompt, **options) for model in (self.ours, self.theirs)))

    def gradient_distance(self) -> float | None:
        """Of the gradients of the factors to PEFT's; None for fused blocks, whose factors have other shapes."""
        if self.row.fused:
            return None
        return relative_distance(self.our_gradients, self.gradients(self.theirs))

    def checkpointing_distance(self, use_reentrant: bool) -> float | None:
        """Of the gradients with and without checkpointing; None if the model has no checkpointing.

        The inputs of the frozen layers are made to require gradients, as PEFT does (``enable_input_require_grads``).
        """
        if not self.ours.supports_gradient_checkpointing:
            return None
        model = copy.deepcopy(self.ours)
        model.gradient_checkpointing_enable({"use_reentrant": use_reentrant})
        model.enable_input_require_grads()
        assert model.is_gradient_checkpointing
        return relative_distance(self.gradients(model), self.our_gradients)

    @cached_property
    def base_logits(self) -> Tensor:
        return self.logits(base(self.name))

    @cached_property
    def our_logits(self) -> Tensor:
        return self.logits(self.ours)

    @cached_property
    def our_gradients(self) -> list[Tensor | None]:
        return self.gradients(self.ours)

    def logits(self, model: nn.Module) -> Tensor:
        """Logits of the model for the row's inputs, without gradients."""
        with torch.no_grad():
            return self._logits(model)

    def gradients(self, model: nn.Module) -> list[Tensor | None]:
        """Of the trainable parameters, in train mode, for the sum of the squares of the logits."""
        model = copy.deepcopy(model).train()
        self._logits(model).square().sum().backward()
        return [parameter.grad for parameter in trainable(model)]

    def _logits(self, model: nn.Module) -> Tensor:
        result = model(**self.row.inputs())
        return result.logits_per_image if "logits_per_image" in result else result.logits


def all_linear(name: str) -> tuple[list[str], list[str] | None]:
    """What ``targets="all-linear"`` chooses of a model in ours and in PEFT; None where PEFT refuses the model."""
    import peft

    ours = lora_layers(loralib.apply_lora(base(name), "all-linear", R, ALPHA))
    task = "SEQ_CLS" if "Classification" in ROWS[name].model else None  # so that PEFT leaves the classifier out
    try:
        theirs = peft.get_peft_model(base(name), peft.LoraConfig(target_modules="all-linear", task_type=task))
    except ValueError as error:
        assert "incompatible with Mamba-based models" in str(error)
        return sorted(ours), None
    return sorted(ours), sorted(theirs.targeted_module_names)


def random_adapter(model: nn.Module, seed: int = 1) -> Any:
    """The model with normal numbers in all parameters that train."""
    torch.manual_seed(seed)
    for parameter in trainable(model):
        nn.init.normal_(parameter)
    return model


def trainable(model: nn.Module) -> list[nn.Parameter]:
    """Parameters that train, in their order."""
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def number_trainable(model: nn.Module) -> int:
    """Number of parameters that train."""
    return sum(parameter.numel() for parameter in trainable(model))


def distance(a: Tensor, b: Tensor) -> float:
    """Largest absolute difference."""
    assert a.shape == b.shape, f"shapes {tuple(a.shape)} and {tuple(b.shape)}"
    return (a.double() - b.double()).abs().max().item()


def relative_distance(some: list[Tensor | None], others: list[Tensor | None]) -> float:
    """Largest difference of two lists of gradients over the largest entry; an unused expert has None in both."""
    assert [a is None for a in some] == [b is None for b in others], "different parameters have gradients"
    pairs = [(a, b) for a, b in zip(some, others, strict=True) if a is not None and b is not None]
    return max(distance(a, b) for a, b in pairs) / max(b.abs().max().item() for _, b in pairs)
