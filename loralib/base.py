"""What every LoRA layer shares: its factors, and a merged weight kept beside the stored one, never inside it.

A layer keeps its pretrained ``weight`` as it was loaded, always. While ``merged`` is true its forward pass uses a
second tensor, ``weight + scaling * B A``, that is neither parameter nor buffer. It is built at the first use, rebuilt
when weight, A, B or scaling have changed, and released by ``unmerge()``. So a state dict never contains the update
twice, unmerging is exact to the bit in every dtype, and a weight shared with another module is not disturbed.
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from loralib.initializers import INITIALIZERS, Initializer

# A plain mixin at run time, as released: a subclass may list it after its torch class and call both constructors.
if TYPE_CHECKING:
    _Base = nn.Module
else:
    _Base = object
_Layer = TypeVar("_Layer", bound="LoRALayer")


class _Merged(NamedTuple):
    weight: Tensor
    made_from: tuple[object, ...]


class LoRALayer(_Base):
    """Shared state and the two modes of a LoRA layer (Hu et al. 2021, arXiv:2106.09685, Section 4.1).

    Call after the constructor of the torch class. The concrete layer then calls ``_add_factors`` when it has a rank.

    Attributes:
        r, lora_alpha: rank of one block and numerator of the scale.
        scaling: ``lora_alpha / r``; like ``lora_A`` and ``lora_B`` it exists only where the layer has an update.
        lora_dropout: module applied to the input of the low-rank branch, never to that of the frozen branch.
        merge_weights: whether ``eval()`` merges and ``train()`` unmerges.
        merged: whether the forward pass uses the merged weight; then A and B get no gradient.
        lora_enabled: set to False, the layer computes with the pretrained weight alone, merged or not.

    Raises:
        TypeError: ``r`` is no integer, or ``lora_alpha`` or ``lora_dropout`` no number.
        ValueError: a value outside its range, or an unknown ``lora_init``.
    """

    r: int
    lora_alpha: float
    scaling: float
    weight: Tensor
    lora_A: Tensor
    lora_B: Tensor
    merge_weights: bool = True
    merged: bool = False
    lora_enabled: bool = True
    lora_init: str = "released"
    initializers: Mapping[str, Initializer] = INITIALIZERS
    _merged: _Merged | None = None

    def __init__(
        self, r: int, lora_alpha: float, lora_dropout: float, merge_weights: bool, *, lora_init: str = "released"
    ) -> None:
        self.r = _checked_rank(r)
        self.lora_alpha = _checked_number("lora_alpha", lora_alpha)
        p = _checked_number("lora_dropout", lora_dropout)
        if not 0.0 <= p <= 1.0:
            raise ValueError(f"lora_dropout must be a probability in [0, 1], got {lora_dropout}")
        self.lora_dropout = nn.Dropout(p) if p > 0 else nn.Identity()
        self.merge_weights = bool(merge_weights)
        self.merged = False
        self._initializer(lora_init)
        self.lora_init = lora_init

    # --- factors ---------------------------------------------------------------------------------------------------

    def _add_factors(self, shape_A: tuple[int, int], shape_B: tuple[int, int]) -> None:
        """Registers empty factors in dtype and on device of the weight, sets ``scaling``, and freezes the weight."""
        self.lora_A = nn.Parameter(self.weight.new_zeros(shape_A))
        self.lora_B = nn.Parameter(self.weight.new_zeros(shape_B))
        self.scaling = self.lora_alpha / self.r
        self.weight.requires_grad_(False)

    @property
    def has_lora(self) -> bool:
        """Whether the layer has factors: not with rank 0, nor when no block of a ``MergedLinear`` is enabled."""
        return hasattr(self, "lora_A")  # not by _parameters, which is empty in the replicas of nn.DataParallel

    def reset_parameters(self) -> None:
        """Draws the parameters of the torch layer anew, then the factors (if they exist yet) by ``lora_init``."""
        super().reset_parameters()  # type: ignore[misc]
        self.reset_lora_parameters()

    def reset_lora_parameters(self, init: str | None = None) -> None:
        """Draws ``lora_A`` and ``lora_B`` anew, leaving the weight alone; does nothing without factors.

        Args:
            init: a name in ``loralib.INITIALIZERS``, for this call only; None: the layer's own ``lora_init``.

        Raises:
            ValueError: unknown name.
        """
        initialize = self._initializer(self.lora_init if init is None else init)
        if self.has_lora:
            initialize(self.lora_A, self.lora_B, self.r)
            self._merged = None

    def _initializer(self, name: str) -> Initializer:
        if name not in self.initializers:
            raise ValueError(f"unknown lora_init {name!r}; choose from {', '.join(self.initializers)}")
        return self.initializers[name]

    # --- the update ------------------------------------------------------------------------------------------------

    def _product(self, lora_A: Tensor, lora_B: Tensor) -> Tensor:
        """Update before scaling, in the shape of ``weight``, differentiable in both factors."""
        raise NotImplementedError(f"{type(self).__name__} does not say how its factors make an update")

    def delta_weight(self) -> Tensor:
        """Update that LoRA adds to the frozen weight: ``scaling * B A`` (Section 4.1, Eq. 3).

        Computed outside autocast; differentiable in A and B.

        Returns:
            The shape of ``weight`` as stored. Same dtype as ``lora_A``.

        Raises:
            RuntimeError: the layer has no factors (rank 0, or nothing enabled) and therefore no update.
        """
        if not self.has_lora:
            raise RuntimeError(f"{type(self).__name__} with r={self.r} has no LoRA factors, so there is no update")
        with autocast_off(self.lora_A.device):
            return self._product(self.lora_A, self.lora_B) * self.scaling

    def _weight_plus_update(self, lora_A: Tensor, lora_B: Tensor) -> Tensor:
        """``weight + scaling * B A`` in float32 or wider, outside autocast, rounded once to the dtype of the weight."""
        weight = self.weight
        dtype = torch.promote_types(torch.promote_types(weight.dtype, lora_A.dtype), torch.float32)
        with autocast_off(weight.device):
            update = self._product(lora_A.to(dtype), lora_B.to(dtype)) * self.scaling
            return (weight.to(dtype) + update).to(weight.dtype)

    # --- merging ---------------------------------------------------------------------------------------------------

    def train(self: _Layer, mode: bool = True) -> _Layer:
        """Sets the mode; with ``merge_weights``, ``train()`` unmerges and ``eval()`` merges. Returns the layer.

        A parent's ``eval()`` reaches its children through this method, so merging belongs here.
        """
        super().train(mode)
        if self.merge_weights:
            if mode:
                self.unmerge()
            else:
                self.merge()
        return self

    def merge(self) -> None:
        """From now on computes with ``weight + scaling * B A``, at the cost of the plain layer; ``weight`` stays.

        Works in any mode. Merging twice changes nothing, except that it takes up edits of A or B that autograd's
        version counters cannot see (through ``.data``). A and B get no gradient while merged. With ``merge_weights``
        the next ``train()`` unmerges. A compiled or exported graph keeps no merged weight: it adds the update up anew
        at each call, which is right but not free; for such a graph copy ``merged_weight`` into a plain layer.
        """
        self._merged = None
        self.merged = True

    def unmerge(self) -> None:
        """Computes with two branches again and releases the merged weight."""
        self._merged = None
        self.merged = False

    @property
    def merged_weight(self) -> Tensor:
        """``weight + scaling * B A``, shape and dtype of ``weight``, no gradient; read only.

        Can be read in any mode; only a merged layer keeps the tensor. Without factors it is the weight itself.
        """
        if not self.has_lora:
            return self.weight.detach()
        if not self.merged:
            return self._build_merged()
        made_from = self._fingerprint()
        if self._merged is None or not _same(self._merged.made_from, made_from):
            self._merged = _Merged(self._build_merged(), made_from)
        return self._merged.weight

    def _build_merged(self) -> Tensor:
        # A tensor born in inference mode could not be used for a backward pass later on.
        with torch.inference_mode(False), torch.no_grad():
            return self._weight_plus_update(self.lora_A, self.lora_B)

    def _fingerprint(self) -> tuple[object, ...]:
        """What the merged weight was made from: identity, version and memory of each tensor, and the scale."""
        tensors = (self.weight, self.lora_A, self.lora_B)
        return (*tensors, *map(_version, tensors), *map(_address, tensors), self.scaling)

    def _plain_weight(self) -> Tensor | None:
        """Weight with which the plain torch layer gives the output, or None while the low-rank branch must be added."""
        if not self.has_lora or not self.lora_enabled:
            return self.weight
        if not self.merged:
            return None
        if torch.compiler.is_compiling() or (self.weight.requires_grad and torch.is_grad_enabled()):
            # A compiled graph cannot ask whether a kept tensor is up to date; an unfrozen weight needs its gradient.
            return self._weight_plus_update(self.lora_A.detach(), self.lora_B.detach())
        return self.merged_weight

    # --- switching off ---------------------------------------------------------------------------------------------

    @contextmanager
    def lora_disabled(self) -> Iterator[None]:
        """Inside the ``with`` block the layer computes with its pretrained weight alone, merged or not.

        A region that gradient checkpointing runs again must contain the whole block.
        """
        before, self.lora_enabled = self.lora_enabled, False
        try:
            yield
        finally:
            self.lora_enabled = before

    # --- hooks of nn.Module ----------------------------------------------------------------------------------------

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        super()._load_from_state_dict(state_dict, prefix, *args)
        self._merged = None

    def _apply(self: _Layer, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> _Layer:
        super()._apply(fn, recurse)
        self._merged = None
        return self

    def __getstate__(self) -> dict[str, Any]:
        """Leaves the merged weight out of pickles and deep copies, which build their own when they need it."""
        return {name: value for name, value in self.__dict__.items() if name != "_merged"}

    def extra_repr(self) -> str:
        """Arguments of the torch layer, then rank and scale."""
        return f"{super().extra_repr()}, r={self.r}, lora_alpha={self.lora_alpha:g}, merged={self.merged}"


def autocast_off(device: torch.device) -> AbstractContextManager[object]:
    """Context without autocast on the kind of device."""
    # The meta device has no autocast, and torch refuses even to switch it off there.
    if torch.amp.is_autocast_available(device.type):
        return torch.autocast(device.type, enabled=False)
    return nullcontext()


def _same(a: tuple[object, ...], b: tuple[object, ...]) -> bool:
    return all(p is q if isinstance(p, Tensor) else p == q for p, q in zip(a, b, strict=True))


def _version(tensor: Tensor) -> int:
    return 0 if tensor.is_inference() else tensor._version


def _address(tensor: Tensor) -> int:
    # Only plain tensors have one address; wrapper subclasses (sharded, functional) may refuse the question.
    return tensor.data_ptr() if type(tensor) in (Tensor, nn.Parameter) else 0


def _checked_rank(r: int) -> int:
    if isinstance(r, bool) or not isinstance(r, numbers.Integral):
        raise TypeError(f"rank r must be an integer, got r={r!r}")
    if r < 0:
        raise ValueError(f"rank must be >= 0, got r={r}; r=0 gives the plain layer")
    return int(r)


def _checked_number(name: str, value: float) -> float:
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(f"{name} must be a number, got {value!r}")
    if not math.isfinite(value):
        raise ValueError(f"{name} must be finite, got {value}")
    return value
