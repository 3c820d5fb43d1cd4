"""Convolutions of 1, 2 and 3 dimensions with a low-rank update of their reshaped kernel."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from loralib.base import LoRALayer, mixed_class

if TYPE_CHECKING:
    _ConvBase = nn.modules.conv._ConvNd
else:
    _ConvBase = object  # Conv1d, Conv2d and Conv3d bring the torch class


class ConvLoRA(LoRALayer, _ConvBase):
    """Convolution whose frozen kernel W is used as W + (alpha/r) reshape(B A), with A and B trainable.

    With kernel side k, d spatial dimensions and G groups: W (out, in/G, k, ..., k), ``lora_A`` (r*k, in*k),
    ``lora_B`` (out/G * k^(d-1), r*k). B A has as many elements as W and is read row by row in W's shape: that is a
    reinterpretation, not a low-rank kernel for each tap, and checkpoints depend on it. The released package has k where
    k^(d-1) stands, which is the same for d = 2 and cannot run for d = 1 or 3 with k > 1.

    Without dropout there is one convolution, with the summed kernel. With dropout in train mode there are two, because
    only the input of the update is dropped: conv(x, W, b) + conv(D(x), update). The released package accepts
    ``lora_dropout`` here and ignores it; to continue such a run, leave it at 0.

    One registration of each parameter, under ``weight`` and ``bias`` as in torch. State dicts and pickles with
    ``conv.weight`` and ``conv.bias``, as package version 0.1.2 writes them, are loaded too;
    ``loralib.released_state_dict`` writes such keys.

    Usually used as ``Conv2d`` and so on, but it can be called: ``ConvLoRA(nn.Conv2d, 4, 6, 3, r=2)``.

    Args:
        conv_module: ``nn.Conv1d``, ``nn.Conv2d``, ``nn.Conv3d`` or a subclass with the forward pass of these.
        in_channels, out_channels: numbers of channels.
        kernel_size: side k of the kernel: an integer, or a tuple of equal ones.
        r: rank; 0 gives a plain convolution, whose weight stays trainable.
        lora_alpha: the update is scaled by lora_alpha / r.
        lora_dropout: probability of dropping an input of the update, in train mode.
        merge_weights: whether ``eval()`` merges (see ``LoRALayer``).
        lora_init: a name in ``loralib.INITIALIZERS``.
        use_rslora: scale by lora_alpha / sqrt(r) instead (see ``LoRALayer``).
        **kwargs: further arguments of the torch class (stride, padding, dilation, groups, bias, padding_mode, ...).

    Raises:
        ValueError: r > 0 and the sides of the kernel differ, which the shapes of A and B cannot express.
        TypeError: ``conv_module`` is another class (transposed convolutions cannot run in the released package either),
            or a subclass does not derive from it.
        TypeError, ValueError: see ``LoRALayer``.
    """

    def __new__(cls, conv_module: Any = None, *args: Any, **kwargs: Any) -> ConvLoRA:
        """Called directly, makes an instance of a class that also is the given torch class."""
        if cls is ConvLoRA:
            if not (isinstance(conv_module, type) and issubclass(conv_module, (nn.Conv1d, nn.Conv2d, nn.Conv3d))):
                raise TypeError(
                    f"conv_module must be nn.Conv1d, nn.Conv2d, nn.Conv3d or a subclass, got {conv_module!r}"
                )
            if conv_module.forward not in (nn.Conv1d.forward, nn.Conv2d.forward, nn.Conv3d.forward):
                raise TypeError(f"{conv_module.__name__} has a forward pass of its own, to which LoRA cannot be added")
            cls = mixed_class(ConvLoRA, conv_module)
        return object.__new__(cls)

    def __init__(
        self,
        conv_module: type[nn.Conv1d] | type[nn.Conv2d] | type[nn.Conv3d],
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, ...],
        r: int = 0,
        lora_alpha: float | None = 1,
        lora_dropout: float = 0.0,
        merge_weights: bool = True,
        *,
        lora_init: str = "released",
        use_rslora: bool = False,
        **kwargs: Any,
    ) -> None:
        if not isinstance(self, conv_module):
            raise TypeError(f"{type(self).__name__} must also derive from {conv_module.__name__}")
        conv_module.__init__(self, in_channels, out_channels, kernel_size, **kwargs)
        LoRALayer.__init__(self, r, lora_alpha, lora_dropout, merge_weights, lora_init=lora_init, use_rslora=use_rslora)
        if self.r > 0:
            k, d = self.kernel_size[0], len(self.kernel_size)
            if set(self.kernel_size) != {k}:
                raise ValueError(
                    f"LoRA needs a kernel with equal sides, got kernel_size={self.kernel_size}; use an integer, or r=0"
                )
            self._add_factors((self.r * k, in_channels * k), (out_channels // self.groups * k ** (d - 1), self.r * k))
        self.reset_parameters()  # the second draw of kernel and bias, as released

    def _product(self, lora_A: Tensor, lora_B: Tensor) -> Tensor:
        return (lora_B @ lora_A).reshape(self._stored_weight().shape)

    def forward(self, input: Tensor) -> Tensor:
        """Convolution with the summed kernel, or with two kernels under dropout.

        Args:
            input: (B, in_channels, ...) or (in_channels, ...), d spatial dimensions last.

        Returns:
            (B, out_channels, ...) or (out_channels, ...).
        """
        weight = self._plain_weight()
        if weight is None:
            if self.lora_dropout.training and isinstance(self.lora_dropout, nn.Dropout):
                return self._two_branches(input)
            weight = self._weight_plus_update(self.lora_A, self.lora_B)
        return self._conv_forward(input, weight, self.bias)

    def _two_branches(self, input: Tensor) -> Tensor:
        weight = self._stored_weight()
        y = self._conv_forward(input, weight, self.bias)
        update = self.delta_weight().to(weight.dtype)
        return y + self._conv_forward(self.lora_dropout(input), update, None)

    @property
    def conv(self) -> nn.Module:
        """The torch layer around the same parameters, as the released layer keeps one inside; made at each access."""
        plain = next(cls for cls in type(self).__mro__ if not issubclass(cls, LoRALayer))
        module: Any = plain.__new__(plain)
        nn.Module.__init__(module)
        vars(module).update({name: value for name, value in vars(self).items() if name not in vars(module)})
        module._parameters.update({name: self._parameters[name] for name in ("weight", "bias")})
        return module

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        for name in ("weight", "bias"):
            # 0.1.2 writes conv.weight alone; later sources write it beside weight, as the same tensor.
            released = state_dict.pop(f"{prefix}conv.{name}", None)
            if released is not None:
                state_dict.setdefault(f"{prefix}{name}", released)
        super()._load_from_state_dict(state_dict, prefix, *args)

    def _convert_released(self) -> None:
        inner = self._modules.pop("conv")
        assert inner is not None
        vars(self).update({name: value for name, value in vars(inner).items() if name not in vars(self)})
        for name in ("lora_A", "lora_B"):  # stand behind weight and bias
            if name in self._parameters:
                inner._parameters[name] = self._parameters[name]
        self._parameters = inner._parameters


class Conv1d(ConvLoRA, nn.Conv1d):
    """``nn.Conv1d`` with LoRA; arguments as ``ConvLoRA`` without the first."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(nn.Conv1d, *args, **kwargs)


class Conv2d(ConvLoRA, nn.Conv2d):
    """``nn.Conv2d`` with LoRA; arguments as ``ConvLoRA`` without the first."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(nn.Conv2d, *args, **kwargs)


class Conv3d(ConvLoRA, nn.Conv3d):
    """``nn.Conv3d`` with LoRA; arguments as ``ConvLoRA`` without the first."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(nn.Conv3d, *args, **kwargs)
