"""Ctrl-C and SIGTERM as a request that the program answers where it can stop without losing anything."""

from __future__ import annotations

import signal
from types import FrameType, TracebackType

import torch

from train.distributed import Process, all_reduce_sum


class StopRequest:
    """Remembers the first SIGINT or SIGTERM while the ``with`` block runs; a second Ctrl-C interrupts at once.

    Attributes:
        signum: the signal that came, None before.
    """

    def __init__(self) -> None:
        self.signum: int | None = None
        self._previous: dict[int, object] = {}

    def __enter__(self) -> StopRequest:
        for signum in (signal.SIGINT, signal.SIGTERM):
            self._previous[signum] = signal.signal(signum, self._remember)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for signum, handler in self._previous.items():
            signal.signal(signum, handler)  # type: ignore[arg-type]

    def agreed(self, process: Process) -> bool:
        """Whether any process was asked to stop; all of them must call this in the same step, and get one answer.

        A signal that comes while they compare waits for the next call: the others do not know of it.
        """
        if process.world == 1:
            return self.signum is not None
        asked = torch.tensor(float(self.signum is not None), device=process.device)
        if not all_reduce_sum(asked, process).item():
            return False
        self.signum = self.signum or signal.SIGTERM
        return True

    def _remember(self, signum: int, frame: FrameType | None) -> None:
        if self.signum == signal.SIGINT and signum == signal.SIGINT:
            raise KeyboardInterrupt
        self.signum = self.signum or signum
