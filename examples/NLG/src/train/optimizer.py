"""AdamW as the released code has it: epsilon before the bias correction, weight decay after the step.

``torch.optim.AdamW`` is not the same: it decays first and adds epsilon after the correction. The rule here is that of
the former ``transformers.AdamW`` (Loshchilov & Hutter 2019, Algorithm 2, with these two differences).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn


class AdamW(torch.optim.Optimizer):
    """Adam with decoupled weight decay.

    For a gradient g in step t: m = beta1 m + (1 - beta1) g; v = beta2 v + (1 - beta2) g^2;
    p = p - a m / (sqrt(v) + eps) with a = lr, or lr sqrt(1 - beta2^t) / (1 - beta1^t) with ``correct_bias``;
    then p = p - lr weight_decay p on the new p. Parameters without a gradient are left alone, decay included.

    Args:
        params: tensors or groups; ``weight_decay`` and ``lr`` may differ by group.
        lr: learning rate per update, >= 0.
        betas: decay of the two moments, each in [0, 1).
        eps: added to sqrt(v), >= 0.
        weight_decay: fraction of a parameter that is taken off at rate 1.
        correct_bias: Adam's bias correction.

    Raises:
        ValueError: a value outside these bounds.
    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.98),
        eps: float = 1e-6,
        weight_decay: float = 0.0,
        correct_bias: bool = True,
    ) -> None:
        if lr < 0.0:
            raise ValueError(f"the learning rate must be >= 0, got lr={lr}")
        for beta in betas:
            if not 0.0 <= beta < 1.0:
                raise ValueError(f"Adam's betas must lie in [0, 1), got {betas}")
        if eps < 0.0:
            raise ValueError(f"Adam's epsilon must be >= 0, got eps={eps}")
        if weight_decay < 0.0:
            raise ValueError(f"weight decay must be >= 0, got {weight_decay}")
        defaults = {
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "weight_decay": weight_decay,
            "correct_bias": correct_bias,
        }
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One update of every parameter that has a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            self._step_group(group)
        return loss

    def _step_group(self, group: dict[str, Any]) -> None:
        params = [p for p in group["params"] if p.grad is not None]
        if not params:
            return
        states = [self._state_of(p) for p in params]
        grads = [p.grad for p in params]
        m = [state["exp_avg"] for state in states]
        v = [state["exp_avg_sq"] for state in states]
        beta1, beta2 = group["betas"]
        # one kernel for many tensors each: LoRA has hundreds of small ones
        torch._foreach_mul_(m, beta1)
        torch._foreach_add_(m, grads, alpha=1.0 - beta1)
        torch._foreach_mul_(v, beta2)
        torch._foreach_addcmul_(v, grads, grads, 1.0 - beta2)
        denominators = torch._foreach_sqrt(v)
        torch._foreach_add_(denominators, group["eps"])
        sizes = [-self._step_size(group, state["step"]) for state in states]
        torch._foreach_addcdiv_(params, m, denominators, sizes)
        if group["weight_decay"] > 0.0:
            torch._foreach_add_(params, params, alpha=-group["lr"] * group["weight_decay"])

    def _state_of(self, p: Tensor) -> dict[str, Any]:
        """Moments of a parameter, its step counted up by one."""
        state = self.state[p]
        if not state:
            state["step"] = 0
            state["exp_avg"] = torch.zeros_like(p)
            state["exp_avg_sq"] = torch.zeros_like(p)
        state["step"] += 1
        return state

    @staticmethod
    def _step_size(group: dict[str, Any], step: int) -> float:
        if not group["correct_bias"]:
            return group["lr"]
        beta1, beta2 = group["betas"]
        return group["lr"] * math.sqrt(1.0 - beta2**step) / (1.0 - beta1**step)


def parameter_groups(model: nn.Module, weight_decay: float, no_decay_bias: bool = False) -> list[dict[str, Any]]:
    """Trainable parameters as groups for ``AdamW``.

    One group, biases and layer norms included. With ``no_decay_bias``, parameters whose name contains ``bias`` or
    ``layer_norm.weight`` do not decay; GPT-2 calls its layer norms ``ln_*``, so their weights do, as released.
    """
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    if not no_decay_bias:
        return [{"params": [p for _, p in named], "weight_decay": weight_decay}]
    spared = [p for name, p in named if "bias" in name or "layer_norm.weight" in name]
    decayed = [p for name, p in named if not ("bias" in name or "layer_norm.weight" in name)]
    groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": spared, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]
