"""One torch layer becomes a LoRA layer around the same Parameter objects, and a plain layer again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import nn

from loralib.base import LoRALayer
from loralib.conv import Conv1d, Conv2d, Conv3d, ConvLoRA
from loralib.embedding import Embedding
from loralib.linear import Linear, MergedLinear

_CONVOLUTIONS: dict[type, type[ConvLoRA]] = {nn.Conv1d: Conv1d, nn.Conv2d: Conv2d, nn.Conv3d: Conv3d}
_CONVOLUTION_OPTIONS = ("stride", "padding", "dilation", "groups", "padding_mode")
_EMBEDDING_OPTIONS = ("padding_idx", "max_norm", "norm_type", "scale_grad_by_freq", "sparse")
SUPPORTED = "nn.Linear, transformers' Conv1D, nn.Embedding, nn.Conv1d, nn.Conv2d, nn.Conv3d"


@dataclass(frozen=True)
class LayerSettings:
    """What a layer is adapted with; the names are those of the layers' constructors."""

    r: int
    lora_alpha: float
    lora_dropout: float = 0.0
    enable_lora: Sequence[bool] | None = None
    merge_weights: bool = True
    lora_init: str = "released"
    lora_dtype: torch.dtype | None = None


class _Origin(NamedTuple):
    """What a layer was before: its class, and the attributes that torch's class does not know."""

    cls: type[nn.Module]
    extras: tuple[str, ...]


def is_fused_conv1d(module: nn.Module) -> bool:
    """Whether a module is transformers' ``Conv1D``, a linear layer with weight (in, out); it need not be installed."""
    weight, nf = getattr(module, "weight", None), getattr(module, "nf", None)
    return type(module).__name__ == "Conv1D" and weight is not None and weight.dim() == 2 and weight.shape[1] == nf


def lora_layer(old: nn.Module, settings: LayerSettings) -> LoRALayer:
    """A LoRA layer around the weight and bias of ``old``, which is left as it is; draws no random number.

    ``lora_A`` and ``lora_B`` lie on the device of the weight and are not filled yet. The training mode, and attributes
    that other libraries have put on the module, are carried over.

    Raises:
        TypeError: a kind of module that no LoRA layer stands for. Subclasses count as other kinds, because their
            forward pass is their own (``nn.MultiheadAttention`` never calls its ``out_proj``, for one).
        ValueError: settings that do not fit; hooks, an own ``forward`` or further parameters on the module.
    """
    build = _builder(old)
    if settings.r == 0:
        raise ValueError("r=0 adapts nothing; leave the module out, or exclude it")
    if settings.enable_lora is not None and not any(settings.enable_lora):
        raise ValueError(f"enable_lora={list(settings.enable_lora)} enables no block")
    _refuse_unusual(old, {"weight", "bias"})
    weight: nn.Parameter = old.weight  # type: ignore[assignment]
    # Built without memory: the constructors draw parameters that are thrown away, and on the meta device a draw
    # does not move the random state.
    new = build(
        old,
        settings,
        r=settings.r,
        lora_alpha=settings.lora_alpha,
        merge_weights=settings.merge_weights,
        lora_init=settings.lora_init,
        device="meta",
        dtype=weight.dtype,
    )
    new._parameters.update(old._parameters)
    dtype = weight.dtype if settings.lora_dtype is None else settings.lora_dtype
    for name in ("lora_A", "lora_B"):
        empty = torch.empty(getattr(new, name).shape, dtype=dtype, device=weight.device)
        new._parameters[name] = nn.Parameter(empty)
    _carry_over(old, new)
    return new.train(old.training)


def plain_layer(layer: LoRALayer, merge: bool) -> nn.Module:
    """The layer without LoRA, of the class that it had before; ``layer`` is left as it is.

    Args:
        layer: any LoRA layer.
        merge: whether the weight is a new Parameter holding ``weight + scaling * B A``, else the frozen one itself.

    Raises:
        ValueError: hooks or an own ``forward`` on the layer.
    """
    _refuse_unusual(layer, {"weight", "bias", "lora_A", "lora_B"})
    new = _without_lora(layer)
    weight: Any = layer.weight
    if merge and layer.has_lora:
        weight = nn.Parameter(layer.merged_weight, requires_grad=weight.requires_grad)
    if getattr(layer, "fan_in_fan_out", False) and type(new) is nn.Linear:
        weight = nn.Parameter(weight.detach().T.contiguous(), requires_grad=weight.requires_grad)
    new._parameters["weight"] = weight
    if "bias" in layer._parameters:
        new._parameters["bias"] = layer._parameters["bias"]
    return new.train(layer.training)


# --- torch layer to LoRA layer ---------------------------------------------------------------------------------------


def _builder(old: nn.Module) -> Callable[..., LoRALayer]:
    if type(old) is nn.Linear or is_fused_conv1d(old):
        return _linear
    if type(old) is nn.Embedding:
        return _embedding
    if type(old) in _CONVOLUTIONS:
        return _convolution
    if isinstance(old, LoRALayer):
        raise TypeError(f"is a LoRA layer already (r={old.r}); take it away first with loralib.remove_lora")
    kind = f"{type(old).__module__}.{type(old).__qualname__}"
    raise TypeError(f"is a {kind}, which LoRA cannot adapt; it can: {SUPPORTED}")


def _linear(old: Any, settings: LayerSettings, **shared: Any) -> Linear | MergedLinear:
    transposed = type(old) is not nn.Linear
    out_features, in_features = reversed(old.weight.shape) if transposed else old.weight.shape
    shared |= {
        "lora_dropout": settings.lora_dropout,
        "fan_in_fan_out": transposed,
        "bias": old.bias is not None,
    }
    if settings.enable_lora is None:
        return Linear(in_features, out_features, **shared)
    return MergedLinear(in_features, out_features, enable_lora=settings.enable_lora, **shared)


def _embedding(old: Any, settings: LayerSettings, **shared: Any) -> Embedding:
    _refuse_blocks(settings)
    return Embedding(old.num_embeddings, old.embedding_dim, **shared, **_options(old, _EMBEDDING_OPTIONS))


def _convolution(old: Any, settings: LayerSettings, **shared: Any) -> ConvLoRA:
    _refuse_blocks(settings)
    return _CONVOLUTIONS[type(old)](
        old.in_channels,
        old.out_channels,
        old.kernel_size,
        lora_dropout=settings.lora_dropout,
        bias=old.bias is not None,
        **shared,
        **_options(old, _CONVOLUTION_OPTIONS),
    )


def _options(module: Any, names: Sequence[str]) -> dict[str, Any]:
    return {name: getattr(module, name) for name in names}


def _refuse_blocks(settings: LayerSettings) -> None:
    if settings.enable_lora is not None:
        raise ValueError("enable_lora is for linear layers; give it as {pattern: blocks} to say for which")


def _refuse_unusual(module: nn.Module, parameters: set[str]) -> None:
    """A new module would silently lose hooks, an own ``forward`` and further parameters."""
    unusual = [name for name, value in vars(module).items() if name.endswith("_hooks") and value]
    unusual += ["forward"] if "forward" in vars(module) else []
    unusual += sorted(module._parameters.keys() - parameters) + list(module._buffers)
    unusual += [name for name in module._modules if name != "lora_dropout"]
    if unusual:
        raise ValueError(
            f"carries {', '.join(unusual)}, which the new layer would lose; take that away first, "
            "or put LoRA on before hooks, weight norm or device maps"
        )


def _carry_over(old: nn.Module, new: LoRALayer) -> None:
    extras = tuple(name for name in vars(old) if name not in vars(new))
    vars(new).update({name: vars(old)[name] for name in extras})
    vars(new)["_origin"] = _Origin(type(old), extras)


# --- LoRA layer to plain layer ---------------------------------------------------------------------------------------


def _without_lora(layer: Any) -> nn.Module:
    """A module of the earlier class with the options of ``layer`` and without its weights."""
    origin: _Origin | None = vars(layer).get("_origin")
    has_bias = getattr(layer, "bias", None) is not None
    if origin is not None and origin.cls.__name__ == "Conv1D":
        new = origin.cls.__new__(origin.cls)  # not by its constructor, which we do not know
        nn.Module.__init__(new)
    elif isinstance(layer, nn.Linear):
        new = nn.Linear(layer.in_features, layer.out_features, has_bias, "meta")
    elif isinstance(layer, nn.Embedding):
        new = nn.Embedding(
            layer.num_embeddings, layer.embedding_dim, **_options(layer, _EMBEDDING_OPTIONS), device="meta"
        )
    else:
        plain = next(plain for plain in _CONVOLUTIONS if isinstance(layer, plain))
        sizes = (layer.in_channels, layer.out_channels, layer.kernel_size)
        new = plain(*sizes, bias=has_bias, **_options(layer, _CONVOLUTION_OPTIONS), device="meta")
    vars(new).update(_options(layer, origin.extras if origin is not None else ()))
    return new
