"""How far a loop is: a bar on a terminal, a line now and then in a log."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from tqdm import tqdm

_T = TypeVar("_T")
INTERVAL = 30.0  # seconds between two lines


def with_progress(items: Iterable[_T], total: int, unit: str, quiet: bool = False) -> Iterator[_T]:
    """The items, with number done, total, rate and time left on stderr; ``unit``: what one of them is called."""
    if quiet or sys.stderr.isatty():
        yield from tqdm(items, total=total, unit=unit, disable=quiet)
        return
    began = last = time.monotonic()
    for done, item in enumerate(items, start=1):
        yield item
        now = time.monotonic()
        if now - last >= INTERVAL:
            print(tqdm.format_meter(done, total, now - began, unit=unit, ncols=0), file=sys.stderr, flush=True)
            last = now
