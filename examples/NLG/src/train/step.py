"""One micro-batch: loss, gradient, and at the end of an accumulation the update. The same in one process or several."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from train.distributed import Process, all_reduce_sum
from train.schedule import Scheduler
from train.task import Batch, Task


class _Loss(nn.Module):
    """The loss of a task as a ``forward``, which is what DistributedDataParallel hooks into."""

    def __init__(self, task: Task) -> None:
        super().__init__()
        self.model, self.task = task.model, task

    def forward(self, batch: Any, weight: Tensor) -> Tensor:
        return self.task.loss(batch, weight)


class TrainStep:
    """The model of a task, optimizer and schedule, moved on by one micro-batch a call.

    A micro-batch is shared by all processes. Its loss is the mean over what counts in all of them, tokens for one, so
    the gradient, the number of updates and the rates are those of one process with that whole batch.

    Args:
        grad_acc: micro-batches per update; their gradients are averaged.
        clip: bound of the global gradient norm, 0 for none.
        amp_dtype: bfloat16 or float16 for matrix products, weights staying float32; None for float32 throughout.
    """

    def __init__(
        self,
        task: Task,
        optimizer: torch.optim.Optimizer,
        scheduler: Scheduler,
        process: Process,
        *,
        grad_acc: int = 1,
        clip: float = 0.0,
        amp_dtype: torch.dtype | None = None,
    ) -> None:
        self.model = task.model
        self.optimizer = optimizer
        self.scheduler = scheduler
        self.process = process
        self.grad_acc = grad_acc
        self.clip = clip
        self.amp_dtype = amp_dtype
        # half precision loses small gradients below 6e-8; bfloat16 has the range of float32 and needs no scaling
        self.scaler = torch.amp.GradScaler(process.device.type, enabled=amp_dtype == torch.float16)
        self.trainable = [p for p in self.model.parameters() if p.requires_grad]
        self._loss: nn.Module = _Loss(task)
        if process.world > 1:
            devices = [process.device] if process.device.type == "cuda" else None
            self._loss = DistributedDataParallel(self._loss, device_ids=devices)

    def autocast(self) -> torch.autocast:
        """A fresh context of the chosen precision."""
        return torch.autocast(self.process.device.type, dtype=self.amp_dtype, enabled=self.amp_dtype is not None)

    def __call__(self, batch: Batch, step: int) -> tuple[Tensor, Tensor]:
        """Trains on this process's part of a micro-batch.

        Args:
            batch: the part, on the CPU, where its weight is known without waiting for the device.
            step: number of the micro-batch, from 1, over all epochs.

        Returns:
            Two scalars on the device: a loss whose mean over the processes is that of the whole micro-batch, and the
            weight of the whole micro-batch, such as the number of tokens that count.
        """
        device = self.process.device
        weight = all_reduce_sum(batch.weight.to(device, non_blocking=True), self.process)
        batch = (batch.pinned() if device.type == "cuda" else batch).to(device)
        is_update = step % self.grad_acc == 0
        with contextlib.nullcontext() if is_update or self.process.world == 1 else self._loss.no_sync():  # type: ignore[operator]
            with self.autocast():
                # DistributedDataParallel averages gradients where this loss needs their sum
                loss = self._loss(batch, weight) * self.process.world
            self.scaler.scale(loss / self.grad_acc).backward()
        if is_update:
            self._update()
        self.scheduler.step()
        return loss.detach(), weight

    def _update(self) -> None:
        if self.clip > 0.0:
            self.scaler.unscale_(self.optimizer)
            torch.nn.utils.clip_grad_norm_(self.trainable, self.clip)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)

    def weights_are_finite(self) -> bool:
        """No trainable weight is NaN or infinite."""
        norms = torch._foreach_norm([p.detach() for p in self.trainable])
        return bool(torch.stack(list(norms)).isfinite().all())

    def state_dict(self) -> dict[str, Any]:
        """Trainable weights, optimizer, schedule and loss scale, the same on all processes; tensors are not copied."""
        return {
            "weights": {name: p.detach() for name, p in self.model.named_parameters() if p.requires_grad},
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict(),
            "scaler": self.scaler.state_dict(),
        }

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        parameters = dict(self.model.named_parameters())
        for name, weight in state["weights"].items():
            parameters[name].copy_(weight)
        self.optimizer.load_state_dict(state["optimizer"])
        self.scheduler.load_state_dict(state["scheduler"])
        self.scaler.load_state_dict(state["scaler"])

    def gradients(self) -> list[Tensor | None]:
        """This process's gradients of an unfinished accumulation, in the order of the trainable parameters."""
        return [None if p.grad is None else p.grad.detach().cpu() for p in self.trainable]

    def load_gradients(self, gradients: list[Tensor | None]) -> None:
        for p, gradient in zip(self.trainable, gradients):
            p.grad = None if gradient is None else gradient.to(p.device)
