"""Several adapters on one base model: added, switched, summed, and side by side in the rows of one batch.

A layer has the factors of one adapter at most, and knows nothing of this file. What the others have in it waits here:
Parameters, rank and scale. To switch is to exchange these; no frozen weight is copied or written to.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from torch import nn

from loralib.adapter_parts import Part, RowUpdates, take_out, weighted_sum
from loralib.base import LoRALayer
from loralib.beside import Beside, ReadLinear
from loralib.checkpoint import load_adapter
from loralib.files.folder import read_config, read_tensors
from loralib.files.peft import path_of_factor
from loralib.inject import apply_lora
from loralib.linear import Linear, MergedLinear
from loralib.targets import listed
from loralib.utils import disabled, lora_layers


class Adapters:
    """The adapters of one model, of which one is active in its layers, or none.

    The model stays what it was: its ``state_dict()``, ``parameters()`` and copies have the active adapter's factors and
    no others, ``save_adapter(model, folder)`` writes the active one, and training trains it. Each adapter has
    Parameters of its own, which switching keeps, with their ``requires_grad``; an optimiser knows those that it got.

    Adapters that wait move to the device of their layers when they are used next; their dtype stays. What is active and
    what a batch mixes is a state of the model, not of a thread: threads that share a model must take turns. Heads and
    biases belong to the model, hence to all adapters.

    Attributes:
        model: factors that it has become the adapter ``default``, which is active.

    Raises (all methods, leaving everything as it was):
        ValueError: a name that is taken or unknown; what ``load_adapter`` and ``apply_lora`` refuse.
        RuntimeError: inside the block of ``rows``; or after LoRA was put on the model, or taken off, from outside.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self._adapters: dict[str, dict[str, Part]] = {}  # name of adapter, then of module
        self._active: str | None = None
        self._merged: set[str] = set()  # modules that were merged, by merge(), when they last had factors
        self._mixing = False
        if parts := _present(model):
            self._adapters["default"], self._active = parts, "default"

    @property
    def names(self) -> tuple[str, ...]:
        """Of all adapters, in the order in which they came."""
        return tuple(self._adapters)

    @property
    def active(self) -> str | None:
        """Name of the adapter that the layers have; None: they compute the base."""
        return self._active

    def __contains__(self, name: object) -> bool:
        return name in self._adapters

    def __len__(self) -> int:
        return len(self._adapters)

    def add(self, name: str, folder: str | os.PathLike[str] | None = None, **settings: Any) -> None:
        """Reads an adapter folder, or makes new factors; what is active stays active.

        Like ``load_adapter`` and ``apply_lora``, freezes whatever is not the new adapter's.

        Args:
            name: of the new adapter.
            folder: what ``load_adapter`` reads, without heads and biases, which the adapters would have to share.
            **settings: arguments of ``load_adapter``; without a folder those of ``apply_lora``: ``targets``, ``r``,
                ``alpha`` and so on. Layers, ranks and blocks need not be those of the other adapters.
        """
        self._check_new(name)
        if (folder is None) == ("targets" not in settings):
            raise ValueError("give either an adapter folder, or targets, r and alpha of a new adapter")
        if folder is not None:
            _refuse_more_than_factors(Path(folder))
        elif shared := settings.keys() & {"trainable", "bias"}:
            raise ValueError(f"{listed(sorted(shared))}: heads and biases belong to the model, not to one adapter")
        before = self._active
        self._switch(None)
        try:
            if folder is None:
                apply_lora(self.model, **settings)
            else:
                load_adapter(self.model, folder, **settings)
            self._adapters[name], self._active = _present(self.model), name
        finally:
            self._switch(before)

    def add_weighted(self, name: str, weights: Mapping[str, float]) -> None:
        """Makes an adapter whose update is the weighted sum of the updates of others, exactly, with factors of its own.

        The factors are put side by side, scales and weights folded into B, so the rank is the sum of the ranks. Means
        of A and of B would be another function: the product of two sums also has the products of one adapter's B with
        another's A.

        Args:
            name: of the new adapter, which has no dropout.
            weights: adapter to weight, of any sign. A layer that only some of them have gets the sum of these.

        Raises:
            ValueError: adapters of other blocks in the same layer.
        """
        self._check_new(name)
        if not weights or not all(math.isfinite(weight) for weight in weights.values()):
            raise ValueError(f"weights must be finite numbers by name of an adapter, got {dict(weights)}")
        addends: dict[str, list[tuple[float, Part]]] = {}
        for other, weight in weights.items():
            for path, part in self._parts(other).items():
                addends.setdefault(path, []).append((weight, part))
        self._adapters[name] = {path: weighted_sum(path, parts) for path, parts in addends.items()}

    def activate(self, name: str | None) -> None:
        """Exchanges the factors in the layers for those of an adapter, or takes them out (None).

        Layers that the adapter does not have compute the base and have no factors. What ``merge()`` has merged is
        merged with the new factors, from the frozen weight, which merging never touches: back again gives the same
        bits.
        """
        self._check_free()
        if name != self._active:
            self._switch(name)

    def remove(self, name: str) -> None:
        """Forgets an adapter; if it is active, none is afterwards."""
        self._check_free()
        self._parts(name)
        if name == self._active:
            self._switch(None)
        del self._adapters[name]

    @contextmanager
    def rows(self, names: Sequence[str | None]) -> Iterator[None]:
        """Inside the ``with`` block, row i of every batch is computed with the adapter ``names[i]``; None: the base.

        One pass for all rows: each layer computes the base, and two batched products add the updates of the rows, of
        factors padded to the largest rank. Merged layers may stay merged. Gradients reach the Parameters of all
        adapters named, active or not; with gradient checkpointing, call ``backward()`` inside the block. Where no
        gradient is needed, the factors of all rows are kept until the block ends: rows times the memory of an adapter.

        The first dimension of what enters an adapted layer is the batch. If it is k times as long, each row comes k
        times in succession, as in ``generate`` with k beams and in tensors flattened to (rows * positions, ...).

        Args:
            names: one for each row; a name may come several times.

        Raises:
            ValueError: no rows; an adapter of other than linear layers; inside, a batch that is no multiple of the
                rows.
        """
        self._check_free()
        if isinstance(names, str) or not names:
            raise ValueError(f"rows takes the adapter of each row, a sequence of names or None, got {names!r}")
        names = list(names)
        adapters = {name: {} if name is None else self._parts(name) for name in dict.fromkeys(names)}
        for name, parts in adapters.items():
            for path, part in parts.items():
                if not issubclass(part.cls, (Linear, MergedLinear, Beside)) or issubclass(part.cls, ReadLinear):
                    raise ValueError(
                        f"adapter {name!r} has {path}, a {part.cls.__name__}; only linear layers mix in a batch"
                    )
        with ExitStack() as stack:
            self._mixing = True
            stack.callback(setattr, self, "_mixing", False)
            stack.enter_context(disabled(self.model))
            for path in dict.fromkeys(path for parts in adapters.values() for path in parts):
                updates = RowUpdates(path, [adapters[name].get(path) for name in names])
                stack.enter_context(updates.inside(self.model.get_submodule(path)))
            yield

    def _switch(self, name: str | None) -> None:
        arriving = {} if name is None else self._parts(name)
        layers = _with_factors(self.model)
        for path, layer in layers.items():
            # What eval() has merged, put_into merges by itself.
            (self._merged.add if layer.merged and not layer.merge_weights else self._merged.discard)(path)
            layer.unmerge()
        if self._active is not None:
            self._adapters[self._active] = _present(self.model)
        for layer in layers.values():
            take_out(layer)
        self._active = name
        for path, part in arriving.items():
            part.put_into(self.model.get_submodule(path))
        for path, layer in _with_factors(self.model).items():
            if path in self._merged:
                layer.merge()

    def _parts(self, name: str) -> dict[str, Part]:
        """Those of an adapter, on the devices of their layers; if it is active, as the layers have them now."""
        if name not in self._adapters:
            raise ValueError(f"unknown adapter {name!r}; choose from {', '.join(self._adapters) or 'none'}")
        if name == self._active:
            return _present(self.model)
        for path, part in self._adapters[name].items():
            part.follow(self.model.get_submodule(path))
        return self._adapters[name]

    def _check_new(self, name: str) -> None:
        self._check_free()
        if not isinstance(name, str) or not name or name in self._adapters:
            raise ValueError(f"a new adapter needs a name of its own, got {name!r}; taken: {', '.join(self._adapters)}")

    def _check_free(self) -> None:
        if self._mixing:
            raise RuntimeError("the block of rows(...) is still open; leave it first")
        expected = [] if self._active is None else list(self._adapters[self._active])
        if set(found := list(_with_factors(self.model))) != set(expected):
            raise RuntimeError(
                f"LoRA was put on the model, or taken off, from outside: {self._active!r} has {listed(expected)}, the "
                f"model {listed(found)}; make new Adapters of the model"
            )


def _with_factors(model: nn.Module) -> dict[str, LoRALayer]:
    return {path: layer for path, layer in lora_layers(model).items() if layer.has_lora}


def _present(model: nn.Module) -> dict[str, Part]:
    return {path: Part.of(layer) for path, layer in _with_factors(model).items()}


def _refuse_more_than_factors(folder: Path) -> None:
    config, (tensors, _) = read_config(folder), read_tensors(folder)
    more = [key for key in tensors if path_of_factor(key) is None]
    if more or config.bias != "none":
        raise ValueError(
            f"{folder} has more than factors ({listed(more) or 'biases'}): heads and biases belong to the model, hence "
            "to all adapters; load them into the model before making Adapters, or save the adapter without them"
        )
