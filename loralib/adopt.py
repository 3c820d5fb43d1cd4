"""One module becomes a LoRA layer where it stands, around the same Parameter objects, and a plain layer again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from loralib.base import LoRALayer, mixed_class
from loralib.beside import Beside, MultiheadAttention, ReadLinear, is_plain
from loralib.conv import Conv1d, Conv2d, Conv3d
from loralib.embedding import Embedding
from loralib.linear import Linear, MergedLinear, checked_blocks

_CONVOLUTIONS: dict[type, type[nn.Module]] = {nn.Conv1d: Conv1d, nn.Conv2d: Conv2d, nn.Conv3d: Conv3d}
_CONVOLUTION_OPTIONS = ("stride", "padding", "dilation", "groups", "padding_mode")
_EMBEDDING_OPTIONS = ("padding_idx", "max_norm", "norm_type", "scale_grad_by_freq", "sparse")
SUPPORTED = "linear layers of any kind, transformers' Conv1D, nn.Embedding, nn.Conv1d/2d/3d, nn.MultiheadAttention"
# Names of fused projections, and models of transformers where they have query, key and value of one head side by side.
_FUSED = ("query_key_value", "qkv_proj", "in_proj", "in_proj_qkvz", "c_attn")
_INTERLEAVED = (
    *("bloom", "codegen", "deberta", "falcon", "gpt_neox", "gpt_neox_japanese", "minimax", "persimmon", "qwen3_next"),
)


@dataclass(frozen=True)
class LayerSettings:
    """What a layer is adapted with; the names are those of the layers' constructors."""

    r: int
    lora_alpha: float
    lora_dropout: float = 0.0
    enable_lora: Sequence[bool] | None = None
    block_sizes: Sequence[int] | None = None
    merge_weights: bool = False
    lora_init: str = "released"
    lora_dtype: torch.dtype | None = None
    use_rslora: bool = False


class _Origin(NamedTuple):
    """What a module was before: its class, the attributes that were added, and a forward function of its own."""

    cls: type[nn.Module]
    added: tuple[str, ...]
    forward: Any


def template(old: nn.Module, parent: nn.Module | None, name: str, settings: LayerSettings) -> LoRALayer:
    """What ``become`` makes of ``old``: a layer with its parameters and new, empty factors. Draws no random number.

    Args:
        old: left as it is.
        parent, name: the module that has it, and the attribute: they tell whether its weight is read, not only called.
        settings: of the layer.

    Raises:
        TypeError: a kind of module that LoRA cannot adapt, or one that has LoRA. Linear layers of rank 0, built by
            hand, take it and keep their class.
        ValueError: settings that do not fit; further parameters on a module whose code is replaced.
    """
    if isinstance(old, LoRALayer) and (old.has_lora or not isinstance(old, (Linear, MergedLinear))):
        raise TypeError(f"is a LoRA layer already (r={old.r}); take it away first with loralib.remove_lora")
    if settings.r == 0:
        raise ValueError("r=0 adapts nothing; leave the module out, or exclude it")
    if settings.enable_lora is not None and not any(settings.enable_lora):
        raise ValueError(f"enable_lora={list(settings.enable_lora)} enables no block")
    if hasattr(old, "parametrizations"):  # weight norm, for one: the weight is computed from others
        raise TypeError(f"is a {type(old).__qualname__}; take the parametrization away first, or put LoRA on before it")
    if isinstance(parent, nn.MultiheadAttention):  # blocks are those of its input projection
        settings = replace(settings, enable_lora=None, block_sizes=None)
    new: Any = _builder(old, parent, name, settings)(old, settings)
    weight = new._stored_weight()
    dtype = settings.lora_dtype or _trainable_dtype(weight)
    device = home(old, weight)
    for factor in ("lora_A", "lora_B"):
        empty = torch.empty(getattr(new, factor).shape, dtype=dtype, device=device)
        new._parameters[factor] = nn.Parameter(empty)
    return new


def become(module: nn.Module, layer: LoRALayer) -> None:
    """Gives ``module`` the class and the LoRA of a ``layer`` that ``template`` made for it, and freezes its weight."""
    state, by_hand = vars(module), isinstance(module, LoRALayer)
    added = tuple(name for name in vars(layer) if name not in state or (by_hand and name in _LORA_STATE))
    origin = _Origin(type(module), added, state.pop("forward", None))
    module.__class__ = type(layer)
    state.update({name: vars(layer)[name] for name in added})
    module._parameters.update({name: layer._parameters[name] for name in ("lora_A", "lora_B")})
    module._modules["lora_dropout"] = layer.lora_dropout
    if not by_hand:
        state["_origin"] = origin
    layer._stored_weight().requires_grad_(False)
    module.train(module.training)  # the dropout's mode, and merging if eval() is to merge


def plain_again(layer: LoRALayer, weight: nn.Parameter | None) -> None:
    """Takes LoRA away from a layer; the inverse of ``become``, and for a layer built by hand the torch class.

    Args:
        layer: changed in place.
        weight: the merged weight as ``layer`` stores it; None: the frozen one stays.
    """
    state = vars(layer)
    if weight is not None:
        weight.requires_grad_(layer._stored_weight().requires_grad)
        layer._parameters[layer.weight_name] = weight
    origin: _Origin | None = state.pop("_origin", None)
    if origin is None:
        transposed = getattr(layer, "fan_in_fan_out", False)
        cls: Any = next(c for c in type(layer).__mro__ if c.__module__.startswith("torch.nn.modules"))
        added = tuple(name for name in state if name in _LORA_STATE)
        origin = _Origin(cls, added, None)
        if transposed:
            stored = layer._stored_weight()
            layer._parameters["weight"] = nn.Parameter(stored.detach().T.contiguous(), stored.requires_grad)
    for name in ("lora_A", "lora_B"):
        layer._parameters.pop(name, None)
    layer._modules.pop("lora_dropout", None)
    layer.__class__ = origin.cls  # type: ignore[assignment]
    for name in (*origin.added, "lora_enabled", "_snapshot"):
        state.pop(name, None)
    if origin.forward is not None:
        state["forward"] = origin.forward


_LORA_STATE = (
    *("r", "lora_alpha", "scaling", "use_rslora", "merge_weights", "merged", "lora_init"),
    *("fan_in_fan_out", "enable_lora", "block_sizes", "_merged_beside"),
)


def check_blocks(
    model: nn.Module, name: str, enable_lora: Sequence[bool] | None, block_sizes: Sequence[int] | None
) -> None:
    """Refuses blocks that are known not to be those of a model of transformers.

    Raises:
        ValueError: the projection interleaves query, key and value; or query, key and value have other sizes.
    """
    config = _nearest_config(model, name)
    if enable_lora is None or config is None:
        return
    kind = getattr(config, "model_type", "")
    multi_query = getattr(config, "multi_query", False)
    fused = name.rpartition(".")[2] in _FUSED
    if fused and (kind in _INTERLEAVED or (kind == "gpt_bigcode" and not multi_query)):
        raise ValueError(
            f"belongs to a {kind} model, whose fused projection interleaves query, key and value by head: enable_lora "
            "would adapt parts of each; leave it out, for one update of the whole projection"
        )
    heads = getattr(config, "num_attention_heads", None)
    groups = 1 if multi_query else getattr(config, "num_key_value_heads", None)
    if len(enable_lora) != 3 or not heads or groups in (None, heads):
        return
    size = getattr(config, "head_dim", None) or config.hidden_size // heads
    sizes = (heads * size, groups * size, groups * size)
    weight: Any = model.get_submodule(name).weight
    if sum(sizes) in weight.shape and (block_sizes is None or tuple(block_sizes) != sizes):
        raise ValueError(
            f"has {heads} query heads and {groups} of key and value, so its blocks are not equal: "
            f"pass block_sizes={list(sizes)}"
        )


def _nearest_config(model: nn.Module, name: str) -> Any:
    """The config of the innermost module around ``name`` that has one: of a part of the model, such as its decoder."""
    parts = name.split(".")
    around = (model.get_submodule(".".join(parts[:n])) for n in reversed(range(len(parts))))
    return next((config for module in around if (config := getattr(module, "config", None)) is not None), None)


# --- the layer for each kind of module -------------------------------------------------------------------------------


def _builder(
    old: nn.Module, parent: nn.Module | None, name: str, settings: LayerSettings
) -> Callable[[Any, LayerSettings], LoRALayer]:
    if isinstance(old, nn.MultiheadAttention):
        return _attention
    if is_fused_conv1d(old) or isinstance(old, LoRALayer):
        return _linear
    if isinstance(old, nn.Linear):
        if "forward" in vars(old) or type(old).forward is not nn.Linear.forward or not is_plain(old.weight):
            return _beside
        if not is_read(parent, name):
            return _linear
        if settings.lora_dropout and not takes_dropout(old, parent, name):
            raise ValueError(
                "is read by other code instead of being called, so no dropout can act; use dropout=0, or exclude it"
            )
        return _read_linear
    if isinstance(old, nn.Embedding) and "forward" not in vars(old):
        return _embedding
    if type(old) in _CONVOLUTIONS and "forward" not in vars(old):
        return _convolution
    kind = f"{type(old).__module__}.{type(old).__qualname__}"
    raise TypeError(f"is a {kind}, which LoRA cannot adapt; it can: {SUPPORTED}")


def is_fused_conv1d(module: nn.Module) -> bool:
    """Whether a module is a ``Conv1D`` like transformers', a linear layer with weight (in, out)."""
    weight, nf = getattr(module, "weight", None), getattr(module, "nf", None)
    return type(module).__name__ == "Conv1D" and weight is not None and weight.dim() == 2 and weight.shape[1] == nf


def _linear(old: Any, settings: LayerSettings) -> LoRALayer:
    by_hand = isinstance(old, LoRALayer)  # of rank 0
    transposed = old.fan_in_fan_out if by_hand else not isinstance(old, nn.Linear)
    out_features, in_features = reversed(old.weight.shape) if transposed else old.weight.shape
    options = {**_shared(old, settings), "lora_dropout": settings.lora_dropout, "fan_in_fan_out": transposed}
    options["bias"] = old.bias is not None
    if settings.enable_lora is not None:
        options |= {"enable_lora": settings.enable_lora, "block_sizes": settings.block_sizes}
        new: Any = MergedLinear(in_features, out_features, **options)
    elif isinstance(old, MergedLinear):
        new = MergedLinear(in_features, out_features, enable_lora=(True,), **options)
    else:
        new = Linear(in_features, out_features, **options)
    if isinstance(old, type(new)):
        new.__class__ = type(old)
    elif type(old) is not nn.Linear and not transposed and not by_hand:
        new.__class__ = mixed_class(type(old), type(new))
    return _around(old, new)


def _read_linear(old: Any, settings: LayerSettings) -> LoRALayer:
    options = {**_shared(old, settings), "lora_dropout": settings.lora_dropout, "bias": old.bias is not None}
    return _around(old, ReadLinear(old.in_features, old.out_features, **options))


def _embedding(old: Any, settings: LayerSettings) -> LoRALayer:
    _refuse_blocks(settings)
    cls: Any = Embedding
    if type(old) is not nn.Embedding:
        # A forward pass that calls super() reaches that of LoRA; what it does with rows it does with their update.
        own = type(old).forward
        if own is not nn.Embedding.forward and "__class__" not in own.__code__.co_freevars:
            raise TypeError(f"is a {type(old).__qualname__}, whose forward pass does not call that of nn.Embedding")
        cls = mixed_class(type(old), Embedding)
    options = {**_shared(old, settings), **{name: getattr(old, name) for name in _EMBEDDING_OPTIONS}}
    new = Embedding(old.num_embeddings, old.embedding_dim, **options)
    new.__class__ = cls
    return _around(old, new)


def _convolution(old: Any, settings: LayerSettings) -> LoRALayer:
    _refuse_blocks(settings)
    options = {**_shared(old, settings), **{name: getattr(old, name) for name in _CONVOLUTION_OPTIONS}}
    options |= {"lora_dropout": settings.lora_dropout, "bias": old.bias is not None}
    new: Any = _CONVOLUTIONS[type(old)](old.in_channels, old.out_channels, old.kernel_size, **options)
    return _around(old, new)


def _beside(old: Any, settings: LayerSettings) -> LoRALayer:
    if settings.merge_weights:
        raise ValueError("keeps its own forward pass (quantised, offloaded or a subclass): use merge_weights=False")
    if is_plain(old.weight) and "forward" not in vars(old):
        probe = old.weight.new_zeros(1, old.in_features)
        try:
            with torch.no_grad():
                shape = tuple(type(old).forward(old, probe).shape)
        except (RuntimeError, TypeError, ValueError, IndexError, AttributeError):
            shape = ()
        if shape != (1, old.out_features):
            raise TypeError(
                f"is a {type(old).__qualname__}, whose forward pass does not make (..., {old.out_features}) of "
                f"(..., {old.in_features}), so no update can be added to it"
            )
    new = _bare(mixed_class(Beside, type(old)), old, settings, old.in_features, old.out_features)
    vars(new)["_own_forward"] = vars(old).get("forward")
    return new


def _attention(old: Any, settings: LayerSettings) -> LoRALayer:
    if type(old) is not nn.MultiheadAttention or old.in_proj_weight is None:
        raise TypeError(
            "is an attention with separate weights or code of its own; LoRA adapts nn.MultiheadAttention with one "
            "matrix for query, key and value"
        )
    if settings.lora_dropout:
        raise ValueError("reads its weights instead of calling layers, so no dropout can act; use dropout=0")
    E = old.embed_dim
    if settings.enable_lora is not None and settings.block_sizes is None:
        settings = replace(settings, block_sizes=(E, E, E))
    return _bare(MultiheadAttention, old, settings, E, 3 * E)


def _bare(cls: Any, old: Any, settings: LayerSettings, in_features: int, out_features: int) -> LoRALayer:
    """A layer of a class whose constructor is not called, with a LoRA of its blocks."""
    new = cls.__new__(cls)
    nn.Module.__init__(new)
    options: dict[str, Any] = {"lora_init": settings.lora_init, "use_rslora": settings.use_rslora}
    LoRALayer.__init__(new, settings.r, settings.lora_alpha, settings.lora_dropout, settings.merge_weights, **options)
    enabled = (True,) if settings.enable_lora is None else settings.enable_lora
    sizes = (out_features,) if settings.enable_lora is None else settings.block_sizes
    new.enable_lora, new.block_sizes = checked_blocks(enabled, sizes, out_features)
    rows = sum(size for size, on in zip(new.block_sizes, new.enable_lora) if on)
    new.lora_A = nn.Parameter(torch.empty(settings.r * sum(new.enable_lora), in_features, device="meta"))
    new.lora_B = nn.Parameter(torch.empty(rows, settings.r, device="meta"))
    new._set_scaling()
    return _around(old, new)


def _around(old: Any, new: Any) -> LoRALayer:
    further = old._parameters.keys() - {"weight", "bias"}
    if further and not isinstance(new, (Beside, MultiheadAttention)):  # weight norm, for one
        raise ValueError(f"carries {', '.join(sorted(further))}, which LoRA would leave out; take that away first")
    factors = {name: new._parameters[name] for name in ("lora_A", "lora_B")}
    new._parameters.clear()
    new._parameters.update({**old._parameters, **factors})
    return new


def _shared(old: Any, settings: LayerSettings) -> dict[str, Any]:
    # On the meta device: the constructors draw parameters that are thrown away, and there a draw does not move the
    # random state.
    return {
        "r": settings.r,
        "lora_alpha": settings.lora_alpha,
        "merge_weights": settings.merge_weights,
        "lora_init": settings.lora_init,
        "use_rslora": settings.use_rslora,
        "device": "meta",
        "dtype": old.weight.dtype,
    }


def _refuse_blocks(settings: LayerSettings) -> None:
    if settings.enable_lora is not None:
        raise ValueError("enable_lora is for linear layers; give it as {pattern: blocks} to say for which")


def is_read(parent: nn.Module | None, name: str) -> bool:
    """Whether code outside the layer reads its weight: torch's fused kernels, and those of Mamba (known by A_log)."""
    if hasattr(parent, "A_log"):
        return name != "in_proj"
    return isinstance(parent, (nn.MultiheadAttention, nn.TransformerEncoderLayer))


def takes_dropout(module: nn.Module, parent: nn.Module | None, name: str) -> bool:
    """Whether a dropout can act: not where the weight is read in training too."""
    called = not is_read(parent, name) or isinstance(parent, nn.TransformerEncoderLayer)  # which calls it in training
    return called and not isinstance(module, nn.MultiheadAttention)


def _trainable_dtype(weight: Tensor) -> torch.dtype:
    return torch.float64 if weight.dtype == torch.float64 else torch.float32


def home(old: Any, weight: Tensor) -> torch.device:
    """Where the factors live: with the weight, or where accelerate computes with a weight that it keeps elsewhere."""
    hook = getattr(old, "_hf_hook", None)
    device = getattr(hook, "execution_device", None)
    return weight.device if device is None else torch.device(device)
