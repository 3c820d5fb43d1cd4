"""What every LoRA layer shares: its factors, its two modes, and a merged weight beside the stored one.

The pretrained weight is stored as it was loaded, always: ``state_dict()``, ``named_parameters()`` and a module that
shares it see that tensor in every mode. While a layer is merged, whoever reads ``layer.weight`` (its own forward pass,
torch's fused kernels, an export) reads a second tensor, ``weight + scaling * B A``. So a state dict never contains the
update twice, and unmerging is exact to the bit in every dtype.
"""

from __future__ import annotations

import functools
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


class _Snapshot(NamedTuple):
    """A merged weight, what it was made from, and its own state just after that, which shows if it was written to."""

    weight: Tensor
    made_from: tuple[object, ...]
    state: tuple[int, int]


class LoRALayer(_Base):
    """Shared state and the two modes of a LoRA layer (Hu et al. 2021, arXiv:2106.09685, Section 4.1).

    Call after the constructor of the torch class. The concrete layer then calls ``_add_factors`` when it has a rank.

    Attributes:
        r, lora_alpha: rank of one block and numerator of the scale.
        scaling: ``lora_alpha / r``, or with ``use_rslora`` ``lora_alpha / sqrt(r)`` (Kalajdzievski 2023,
            arXiv:2312.03732). Like ``lora_A`` and ``lora_B`` it exists only where the layer has an update.
        lora_dropout: module applied to the input of the low-rank branch, never to that of the frozen branch.
        merge_weights: whether ``eval()`` merges and ``train()`` unmerges.
        merged: whether the layer computes with the merged weight; then A and B get no gradient. A subclass or a
            program that adds the update to the weight by itself, as for the released package, sets it too: then the
            weight is used as it stands, and ``unmerge()`` subtracts the update again.
        lora_enabled: set to False, the layer computes with the pretrained weight alone, merged or not.

    Raises:
        TypeError: ``r`` is no integer, or ``lora_alpha`` or ``lora_dropout`` no number.
        ValueError: a value outside its range, or an unknown ``lora_init``.
    """

    __jit_unused_properties__: tuple[str, ...] = (
        "weight",
        "has_lora",
        "merged_weight",
    )  # torch.jit.trace compiles all others

    r: int
    lora_alpha: float  # or None where the rank is 0, as the released package takes it
    scaling: float
    lora_A: Tensor
    lora_B: Tensor
    use_rslora: bool = False
    merge_weights: bool = True
    merged: bool = False
    lora_enabled: bool = True
    lora_init: str = "released"
    initializers: Mapping[str, Initializer] = INITIALIZERS
    weight_name: str = "weight"  # key of the frozen weight among the module's parameters
    _merged_beside: bool = False  # merged by merge(): the stored weight does not contain the update
    _snapshot: _Snapshot | None = None

    def __init__(
        self,
        r: int,
        lora_alpha: float | None,
        lora_dropout: float,
        merge_weights: bool,
        *,
        lora_init: str = "released",
        use_rslora: bool = False,
    ) -> None:
        self.r = _checked_rank(r)
        if lora_alpha is not None or self.r > 0:
            lora_alpha = _checked_number("lora_alpha", lora_alpha)
        self.lora_alpha = lora_alpha  # type: ignore[assignment]
        p = _checked_number("lora_dropout", lora_dropout)
        if not 0.0 <= p <= 1.0:
            raise ValueError(f"lora_dropout must be a probability in [0, 1], got {lora_dropout}")
        self.lora_dropout = nn.Dropout(p) if p > 0 else nn.Identity()
        self.merge_weights = bool(merge_weights)
        self.merged = self._merged_beside = False
        self.use_rslora = bool(use_rslora)
        self._initializer(lora_init)
        self.lora_init = lora_init

    # --- factors ---------------------------------------------------------------------------------------------------

    def _add_factors(self, shape_A: tuple[int, int], shape_B: tuple[int, int]) -> None:
        """Registers zero factors in dtype and on device of the weight, sets ``scaling``, and freezes the weight."""
        self.lora_A = nn.Parameter(self._stored_weight().new_zeros(shape_A))
        self.lora_B = nn.Parameter(self._stored_weight().new_zeros(shape_B))
        self._set_scaling()
        self._stored_weight().requires_grad_(False)

    def _set_scaling(self) -> None:
        self.scaling = self.lora_alpha / (math.sqrt(self.r) if self.use_rslora else self.r)

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
            self._snapshot = None

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
        weight = self._stored_weight()
        self._check_mergeable(weight)
        dtype = torch.promote_types(torch.promote_types(weight.dtype, self._stored("lora_A").dtype), torch.float32)
        with autocast_off(weight.device):
            update = self._product(lora_A.to(dtype), lora_B.to(dtype)) * self.scaling
            return (weight.to(dtype) + update).to(weight.dtype)

    def _check_mergeable(self, weight: Tensor) -> None:
        """Raises RuntimeError, with the reason, where ``weight + scaling * B A`` makes no sense."""

    # --- merging ---------------------------------------------------------------------------------------------------

    def train(self: _Layer, mode: bool = True) -> _Layer:
        """Sets the mode; with ``merge_weights``, ``train()`` unmerges and ``eval()`` merges. Returns the layer.

        A parent's ``eval()`` reaches its children through this method, so merging belongs here.
        """
        super().train(mode)
        if self.merge_weights:
            if mode:
                self.unmerge()
            elif not self.merged or self._merged_beside:
                self.merge()
        return self

    def merge(self) -> None:
        """From now on computes with ``weight + scaling * B A``, at the speed of the plain layer.

        ``layer.weight`` reads the merged weight, a second tensor of the weight's size that is built at the first use.
        Merging twice changes nothing, except that it takes up edits of A or B that torch's version counters do not see
        (through ``.data``). With ``merge_weights`` the next ``train()`` unmerges. A compiled or exported graph keeps no
        merged weight: it adds the update up anew at each call; for such a graph use ``remove_lora``.

        Raises:
            RuntimeError: the weight is none that an update can be added to, such as a quantised one.
        """
        if self.has_lora:
            self._check_mergeable(self._stored_weight())
        self._snapshot = None
        self.merged = self._merged_beside = True

    def unmerge(self) -> None:
        """Computes with two branches again; ``weight`` reads the stored weight, as it was to the bit.

        Raises:
            RuntimeError: the merged weight was written to since. The layer is unmerged then, and the edit is lost.
        """
        if self.merged and not self._merged_beside and self.has_lora:
            with torch.no_grad():  # the update was added to the weight itself, by code for the released package
                self._stored_weight().sub_(self.delta_weight())
        snapshot, self._snapshot = self._snapshot, None
        self.merged = self._merged_beside = False
        _refuse_written(snapshot)

    @property
    def weight(self) -> Tensor:
        """The weight that the layer stands for: the merged one while it is merged, else the stored Parameter.

        The merged weight is for reading and has no gradient. To edit the stored weight, ``unmerge()`` first.
        """
        if self._merged_beside and self.merged and self.lora_enabled and self.has_lora:
            return self.merged_weight
        return self._stored_weight()

    @weight.setter
    def weight(self, value: Tensor) -> None:
        # Parameters never come here. Plain tensors do, from nn.DataParallel and from torch's weight norm.
        self.__dict__["weight"] = value

    def _stored_weight(self) -> Tensor:
        """The frozen weight itself, in every mode."""
        return self._stored(self.weight_name)

    def _stored(self, name: str) -> Tensor:
        """A parameter of this layer past ``weight``, and past what torch.fx gives for an attribute."""
        tensor = self._parameters.get(name)
        if tensor is not None:
            return tensor
        if name in getattr(self, "parametrizations", ()):  # torch's, whose property stands before ours
            return getattr(self, name)
        if name not in self.__dict__:
            raise AttributeError(name)
        return self.__dict__[name]

    @property
    def merged_weight(self) -> Tensor:
        """``weight + scaling * B A``, shape and dtype of ``weight``, no gradient; read only.

        Can be read in any mode; only a merged layer keeps the tensor, and builds it anew when weight, A, B or scaling
        have changed. Without factors it is the weight itself.
        """
        if not self.has_lora or (self.merged and not self._merged_beside):
            return self._stored_weight().detach()
        if not self.merged:
            return self._build_merged()
        if torch.compiler.is_compiling():  # a graph cannot ask whether a kept tensor is up to date
            return self._build_merged()
        snapshot = self._snapshot
        if snapshot is None or not _same(snapshot.made_from, self._made_from()):
            _refuse_written(snapshot)
            snapshot = self._snapshot = self._take_snapshot()
        return snapshot.weight

    def _build_merged(self) -> Tensor:
        # A tensor born in inference mode could not be used for a backward pass later on.
        with torch.inference_mode(False), torch.no_grad():
            return self._weight_plus_update(self._stored("lora_A"), self._stored("lora_B"))

    def _take_snapshot(self) -> _Snapshot:
        weight = self._build_merged()
        return _Snapshot(weight, self._made_from(), (_version(weight), _address(weight)))

    def _made_from(self) -> tuple[object, ...]:
        """What a merged weight is made from: identity, version and memory of each tensor, and the scale."""
        tensors = (self._stored_weight(), self._stored("lora_A"), self._stored("lora_B"))
        return (*tensors, *map(_version, tensors), *map(_address, tensors), self.scaling)

    def _plain_weight(self) -> Tensor | None:
        """Weight with which the plain torch layer gives the output, or None while the low-rank branch must be added."""
        if not self.has_lora or not self.lora_enabled:
            return self._stored_weight()
        if not self.merged:
            return None
        if self._merged_beside and self._stored_weight().requires_grad and torch.is_grad_enabled():
            return self._weight_plus_update(self.lora_A.detach(), self.lora_B.detach())  # unfrozen: needs its gradient
        return self.merged_weight if self._merged_beside else self._stored_weight()

    # --- switching off ---------------------------------------------------------------------------------------------

    @contextmanager
    def lora_disabled(self) -> Iterator[None]:
        """Inside the ``with`` block the layer computes with its pretrained weight alone, merged or not.

        Holds for all threads that use the layer. A region that gradient checkpointing runs again must contain the
        whole block. For a whole model: ``loralib.disabled``.
        """
        before, self.lora_enabled = self.lora_enabled, False
        try:
            yield
        finally:
            self.lora_enabled = before

    # --- hooks of nn.Module ----------------------------------------------------------------------------------------

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        super()._load_from_state_dict(state_dict, prefix, *args)
        self._snapshot = None

    def _apply(self: _Layer, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> _Layer:
        super()._apply(fn, recurse)
        self._snapshot = None
        return self

    def __getstate__(self) -> dict[str, Any]:
        """Leaves the merged weight out of pickles and deep copies, which build their own when they need it."""
        return {name: value for name, value in self.__dict__.items() if name != "_snapshot"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Also takes the pickles of the released package, whose weight contains the update if it was in eval mode."""
        super().__setstate__(state)
        if "lora_init" not in state:
            self._convert_released()
            if self.merged and self.has_lora:
                self.unmerge()
                self.merge()

    def _convert_released(self) -> None:
        """Sets what an object of the released package lacks."""

    def extra_repr(self) -> str:
        """Arguments of the torch layer, then rank and scale."""
        return f"{super().extra_repr()}, r={self.r}, lora_alpha={self.lora_alpha}, merged={self.merged}".lstrip(", ")


def mixed_class(first: type[Any], second: type[Any]) -> Any:
    """The class with these two bases, made at run time; its objects pickle all the same."""
    return _mixed_class(first, second)  # type: ignore[arg-type]


@functools.cache
def _mixed_class(first: Any, second: Any) -> Any:
    members = {"_bases": (first, second), "__reduce_ex__": _reduce_mixed, "__module__": __name__}
    return type(f"{first.__name__}{second.__name__}", (first, second), members)


def _reduce_mixed(self: Any, protocol: Any) -> tuple[Any, ...]:
    return _new_mixed, self._bases, self.__getstate__()


def _new_mixed(first: type, second: type) -> Any:
    return object.__new__(mixed_class(first, second))


def autocast_off(device: torch.device) -> AbstractContextManager[object]:
    """Context without autocast on the kind of device; the meta device has none and cannot even be asked."""
    if device.type != "meta" and torch.is_autocast_enabled(device.type):
        return torch.autocast(device.type, enabled=False)
    return nullcontext()


def _refuse_written(snapshot: _Snapshot | None) -> None:
    if snapshot is not None and snapshot.state != (_version(snapshot.weight), _address(snapshot.weight)):
        raise RuntimeError(
            "the merged weight of a LoRA layer was written to, which the stored weight does not see; "
            "call unmerge() or train() before editing layer.weight"
        )


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


def _checked_number(name: str, value: Any) -> float:
    if isinstance(value, Tensor) and value.numel() == 1 and not value.requires_grad:
        value = value.item()
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(f"{name} must be a number, got {value!r}")
    if not math.isfinite(value):
        raise ValueError(f"{name} must be finite, got {value}")
    return value  # type: ignore[return-value]
