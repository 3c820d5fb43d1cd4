"""What an adapter has in one layer: taken out of it, put into it, summed with others, added to the rows of a batch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from loralib.adopt import home, plain_again
from loralib.base import LoRALayer, mixed_class

_SETTINGS = ("r", "lora_alpha", "scaling", "use_rslora", "lora_init", "merge_weights", "enable_lora", "block_sizes")


@dataclass(frozen=True)
class Part:
    """Factors, and everything else that makes a module the LoRA layer of one adapter.

    Attributes:
        cls: class of the layer.
        state: its plain attributes, by name.
    """

    cls: type[LoRALayer]
    state: Mapping[str, Any]
    lora_A: nn.Parameter
    lora_B: nn.Parameter
    lora_dropout: nn.Module

    @classmethod
    def of(cls, layer: LoRALayer) -> Part:
        """What is in a layer now."""
        state, origin = vars(layer), vars(layer).get("_origin")
        names = _SETTINGS if origin is None else {*origin.added, "_origin"} - {"merged", "_merged_beside", "_snapshot"}
        lora_A, lora_B = layer._parameters["lora_A"], layer._parameters["lora_B"]
        assert lora_A is not None and lora_B is not None, type(layer)
        kept = {name: state[name] for name in names if name in state}
        return cls(type(layer), kept, lora_A, lora_B, layer.lora_dropout)

    def put_into(self, module: nn.Module) -> None:
        """Makes a module that ``take_out`` has left the layer of this part, with these very Parameters."""
        module.__class__ = self.cls
        for name in ("forward", *_SETTINGS):  # the former is kept in _origin
            vars(module).pop(name, None)
        vars(module).update(self.state)
        module._parameters.update(lora_A=self.lora_A, lora_B=self.lora_B)
        module._modules["lora_dropout"] = self.lora_dropout
        module.train(module.training)  # the dropout's mode, and merging if eval() is to merge

    def follow(self, module: nn.Module) -> None:
        """Moves the factors, in place, to the device of a module that they wait for; their dtype stays."""
        weight = module._parameters.get(self.cls.weight_name)
        device = self.lora_A.device if weight is None else home(module, weight)
        if device != self.lora_A.device and device.type != "meta":
            nn.ParameterList([self.lora_A, self.lora_B]).to(device)

    @property
    def blocks(self) -> tuple[tuple[bool, ...], tuple[int, ...]]:
        """Which blocks of the output have an update, and the sizes of all of them."""
        return self.state.get("enable_lora", (True,)), self.state.get("block_sizes", (len(self.lora_B),))

    def on_whole_output(self) -> tuple[Tensor, Tensor]:
        """A (g*r, in) and ``scaling`` B^T (g*r, out), zero outside the blocks; differentiable."""
        enabled, sizes = self.blocks
        B_t = (self.lora_B * self.state["scaling"]).t()  # (r, rows of the enabled blocks)
        if len(sizes) == 1:
            return self.lora_A, B_t
        updates = iter(B_t.split([size for size, on in zip(sizes, enabled) if on], dim=1))
        blocks = [next(updates) if on else B_t.new_zeros(0, size) for size, on in zip(sizes, enabled)]
        return self.lora_A, torch.block_diag(*blocks)


def take_out(layer: LoRALayer) -> None:
    """Leaves an unmerged layer as it was before ``apply_lora``; one built by hand, as one of rank 0."""
    if "_origin" in vars(layer):
        plain_again(layer, None)
    else:
        del layer.lora_A, layer.lora_B, layer.scaling
        layer.r = 0


def weighted_sum(path: str, parts: Sequence[tuple[float, Part]]) -> Part:
    """The part of a module whose update is the sum of weight times update; its rank is the sum of ranks, its scale 1.

    Raises:
        ValueError: parts of other blocks.
    """
    first = parts[0][1]
    for _, part in parts:
        if (part.cls, part.blocks) != (first.cls, first.blocks):
            raise ValueError(
                f"{path}: updates of other blocks cannot be summed, got {first.cls.__name__} {first.blocks} and "
                f"{part.cls.__name__} {part.blocks} (enabled, sizes)"
            )
    g = sum(first.blocks[0])
    with torch.no_grad():
        lora_A = torch.cat([part.lora_A.unflatten(0, (g, -1)) for _, part in parts], dim=1)  # (g, sum of r, in)
        lora_B = torch.cat([weight * part.state["scaling"] * part.lora_B for weight, part in parts], dim=1)
    r = sum(part.state["r"] for _, part in parts)
    state = {**first.state, "r": r, "lora_alpha": r, "scaling": 1.0, "use_rslora": False}
    return Part(first.cls, state, nn.Parameter(lora_A.flatten(0, 1)), nn.Parameter(lora_B), nn.Identity())


class RowUpdates:
    """What a mixed batch adds to the output of a layer that computes the base: for each row the update of its own part.

    With A_i (R, in) and s_i B_i^T (R, out) of row i, padded with zeros to the largest rank R, it is
    y_i + (D(x_i) A_i^T) (s_i B_i^T): two batched products, whatever the number of adapters.
    """

    def __init__(self, path: str, parts: Sequence[Part | None]) -> None:
        self.path, self.parts = path, parts
        self.distinct = list({id(part): part for part in parts if part is not None}.values())
        self._kept: tuple[object, tuple[Tensor, Tensor]] = None, (torch.empty(0), torch.empty(0))

    @contextmanager
    def inside(self, module: nn.Module) -> Iterator[None]:
        """Inside the ``with`` block the module computes with them; hooks see the sum."""
        # By class and not by hook: a compiled model does not notice hooks that come later.
        cls, forward = type(module), vars(module).pop("forward", None)
        vars(module)["_row_updates"], vars(module)["_base_forward"] = self, forward
        module.__class__ = mixed_class(_WithRowUpdates, cls)
        try:
            yield
        finally:
            module.__class__ = cls
            del vars(module)["_row_updates"], vars(module)["_base_forward"]
            if forward is not None:
                vars(module)["forward"] = forward

    def add_to(self, y: Tensor, x: Tensor, training: bool) -> Tensor:
        """Output (k * rows, ..., out) of the base, and its input (k * rows, ..., in), to the output with updates."""
        n = len(self.parts)
        if x.dim() < 2 or x.shape[0] % n != 0:
            raise ValueError(
                f"{self.path} got an input of shape {tuple(x.shape)} for {n} rows; its first dimension must be the "
                f"batch, {n} or a multiple of it"
            )
        if x.numel() == 0:
            return y
        lora_A, B_t = self._factors(y.dtype)
        z = self._dropped(x.to(lora_A).reshape(n, -1, x.shape[-1]), training) @ lora_A.mT  # (n, positions, R)
        rows = y.reshape(n, -1, y.shape[-1])
        if rows.dtype == z.dtype and rows.device == z.device:
            return torch.baddbmm(rows, z, B_t).view_as(y)
        return (rows + (z @ B_t).to(rows)).view_as(y)

    def _dropped(self, x: Tensor, training: bool) -> Tensor:
        rates = [getattr(part.lora_dropout, "p", 0.0) if part is not None else 0.0 for part in self.parts]
        if not training or not any(rates):
            return x
        return torch.stack([F.dropout(row, p) for row, p in zip(x, rates)])

    def _factors(self, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """(rows, R, in) and (rows, R, out); the same tensors again where no gradient is needed and nothing changed."""
        tensors = [tensor for part in self.distinct for tensor in (part.lora_A, part.lora_B)]
        if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors):
            return self._gathered(dtype)
        state = dtype, [0 if tensor.is_inference() else tensor._version for tensor in tensors]
        if self._kept[0] != state:
            # A tensor born in inference mode could not be used for a backward pass later on.
            with torch.inference_mode(False), torch.no_grad():
                self._kept = state, self._gathered(dtype)
        return self._kept[1]

    def _gathered(self, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        factors = {id(part): part.on_whole_output() for part in self.distinct}
        R = max(len(lora_A) for lora_A, _ in factors.values())
        padded = {key: [_padded(factor.to(dtype), R) for factor in pair] for key, pair in factors.items()}
        if None in self.parts:
            padded[id(None)] = [torch.zeros_like(factor) for factor in next(iter(padded.values()))]
        lora_A, B_t = (torch.stack([padded[id(part)][side] for part in self.parts]) for side in (0, 1))
        return lora_A, B_t


def _padded(factor: Tensor, R: int) -> Tensor:
    return factor if len(factor) == R else F.pad(factor, (0, 0, 0, R - len(factor)))


class _WithRowUpdates(nn.Module):
    _row_updates: RowUpdates
    _base_forward: Callable[..., Tensor] | None  # a forward function that stands on the module itself

    def forward(self, input: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        base = super().forward if self._base_forward is None else self._base_forward
        return self._row_updates.add_to(base(input, *args, **kwargs), input, self.training)
