"""Learning rates as functions of t, the number of micro-batches already trained on.

The rate of micro-batch k (from 1) is rate(k - 1), whether or not it ends an accumulation: a warm-up starts at rate 0.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Sequence

import torch

from examples.common.errors import UserError, warn

Rate = Callable[[int], float]


def linear(lr: float, *, warmup_step: int, max_step: int) -> Rate:
    """Up from 0 to ``lr`` in ``warmup_step``, down to 0 at ``max_step``."""

    def rate(t: int) -> float:
        if t < warmup_step:
            return lr * (t / max(1, warmup_step))
        return lr * max(0.0, (max_step - t) / max(1, max_step - warmup_step))

    return rate


def constant(lr: float, *, warmup_step: int) -> Rate:
    """Up from 0 to ``lr`` in ``warmup_step``, then ``lr``."""
    return lambda t: lr * (t / max(1, warmup_step)) if t < warmup_step else lr


def cosine(lr: float, *, warmup_step: int, max_step: int) -> Rate:
    """Half a cosine over 0 ... ``max_step``, its start replaced by a warm-up.

    As released the cosine does not begin where the warm-up ends, so the rate jumps there and never reaches ``lr``;
    the first rate is 0 also without a warm-up.
    """

    def rate(t: int) -> float:
        if t == 0:
            return 0.0
        if t < warmup_step:
            return lr * t / warmup_step
        return lr * 0.5 * (1.0 + math.cos(math.pi * min(t, max_step) / max_step))

    return rate


def cycle(steps: Sequence[int], lrs: Sequence[float]) -> Rate:
    """Piecewise linear through (step, rate); outside all pieces the last rate, at t = 0 the first, as released."""

    def rate(t: int) -> float:
        if t == 0:
            return lrs[0]
        for i in range(len(steps) - 1):
            if steps[i] <= t < steps[i + 1]:
                share = (t - steps[i]) / (steps[i + 1] - steps[i] + 1e-6)
                return share * lrs[i + 1] + (1.0 - share) * lrs[i]
        return lrs[-1]

    return rate


def make_rate(args: argparse.Namespace) -> Rate:
    """The rate that the flags describe, with ``max_step`` known (see ``last_step``).

    Raises:
        UserError: steps and rates of ``cycle`` do not fit, or a cosine of no steps.
    """
    if args.scheduler == "linear":
        return linear(args.lr, warmup_step=args.warmup_step, max_step=args.max_step)
    if args.scheduler == "constant":
        return constant(args.lr, warmup_step=args.warmup_step)
    if args.scheduler == "cosine":
        if args.max_step < 1:
            raise UserError(f"--scheduler cosine needs --max_step of at least 1, got {args.max_step}")
        return cosine(args.lr, warmup_step=args.warmup_step, max_step=args.max_step)
    if args.scheduler == "cycle":
        return cycle(*_points(args))
    warn(f"--scheduler {args.scheduler} keeps the rate constant and ignores --warmup_step, as in the released code")
    return constant(args.lr, warmup_step=0)


def last_step(args: argparse.Namespace, batches_per_epoch: int) -> int:
    """End of training in micro-batches: ``max_step``, or what ``max_epoch`` makes; of a ``cycle`` its last step.

    Says what was not given, in the released words.

    Raises:
        UserError: steps and rates of ``cycle`` do not fit.
    """
    last = args.max_step
    if last is None and args.max_epoch is not None:
        last = args.max_epoch * batches_per_epoch
        print(f"set max_step: {last}", flush=True)
    if args.scheduler == "cycle":
        last = _points(args)[0][-1]
        print(f"max_step is rest to {last}", flush=True)
    return last


class Scheduler:
    """Writes rate(t) into the groups of an optimizer; its whole state is t."""

    def __init__(self, optimizer: torch.optim.Optimizer, rate: Rate) -> None:
        self.optimizer = optimizer
        self.rate = rate
        self.t = 0
        self._apply()

    def step(self) -> None:
        self.t += 1
        self._apply()

    def state_dict(self) -> dict[str, int]:
        return {"t": self.t}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.t = state["t"]
        self._apply()

    def _apply(self) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate(self.t)


def _points(args: argparse.Namespace) -> tuple[list[int], list[float]]:
    steps, lrs = _numbers("--i_steps", args.i_steps, int), _numbers("--i_lrs", args.i_lrs, float)
    if len(steps) != len(lrs):
        raise UserError(f"--i_steps has {len(steps)} values, --i_lrs {len(lrs)}; as many are needed")
    if steps != sorted(set(steps)):
        raise UserError(f"--i_steps {args.i_steps}: steps must increase")
    return steps, lrs


def _numbers(flag: str, text: str, kind: type) -> list:
    try:
        return [kind(part) for part in text.split(",")]
    except ValueError:
        raise UserError(f"{flag} {text}: expected numbers separated by commas") from None
