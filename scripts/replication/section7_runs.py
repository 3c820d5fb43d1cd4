"""The block "section7": what the adapters of other runs have in common, and how they relate to the weights that they
change (Hu et al. 2021, sections 7.2 and 7.3). A row names two runs, whose folders must still be there."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from examples.common.errors import UserError
from loralib.files.reading import Adapter, Given, Model, read

if TYPE_CHECKING:
    from replicate import Place, Run

RATE_STEPS = 0  # nothing trains here
BASES = {"e2e": "smollm2", "glue": "minilm"}
KEPT = 64  # most directions


def similarities(a: Tensor, b: Tensor) -> Tensor:
    """How much of the space of the first i right singular vectors of a lies in that of the first j of b: φ(a, b, i, j).

    Equation 4 of the paper: the squared Frobenius norm of the product of both bases over min(i, j), between 0 and 1.

    Args:
        a: (r_a, n). b: (r_b, n).

    Returns:
        (r_a, r_b): entry (i - 1, j - 1) is φ for i and j.
    """
    of_a, of_b = (torch.linalg.svd(matrix.double(), full_matrices=False).Vh for matrix in (a, b))
    sums = (of_a @ of_b.T).square().cumsum(0).cumsum(1)
    i, j = (torch.arange(1, size + 1, dtype=torch.float64) for size in sums.shape)
    return sums / torch.minimum(i[:, None], j[None, :])


def amplification(update: Tensor, weight: Tensor, r: int, generator: torch.Generator) -> dict[str, float]:
    """Norms of Table 7: of an update of rank r, and of its weight projected onto directions of three kinds.

    Args:
        update, weight: (out, in).

    Returns:
        Frobenius norms: ``update``, ``weight``; ``in_update``, ``in_weight``, ``in_random``: of U^T W V with the first
        r left and right singular vectors of the update, of the weight, of a random matrix. ``factor``: the first over
        ``in_update``.
    """
    update, weight = update.double(), weight.double()
    found = {"update": float(update.norm()), "weight": float(weight.norm())}
    drawn = torch.randn(weight.shape, dtype=torch.float64, generator=generator)
    for name, matrix in (("in_update", update), ("in_weight", weight), ("in_random", drawn)):
        u, _, vh = torch.linalg.svd(matrix, full_matrices=False)
        found[name] = float((u[:, :r].T @ weight @ vh[:r].T).norm())
    return {**found, "factor": found["update"] / found["in_update"]}


def read_adapter(place: Place, run: str) -> Adapter:
    """The trained factors of another run of the queue.

    Raises:
        UserError: it has not run on this machine, or trained no LoRA.
    """
    folder = place.work / run / "trained"
    if not folder.exists():
        raise UserError(f"{folder} is missing: {run} has to run here first, and its folder must be kept")
    found = read(folder, Given())
    if isinstance(found, Model) or not found.layers:
        raise UserError(f"{folder} holds no LoRA")
    return found


def make(place: Place, run: Run, folder: Path, rate: str | None) -> dict[str, Any]:
    """Compares two adapters layer by layer; means over the layers for each kind of projection."""
    first, second = run.train
    a, b = read_adapter(place, first), read_adapter(place, second)
    base = read(place.models / BASES[first.partition("/")[0]], Given())
    assert isinstance(base, Model)
    generator = torch.Generator().manual_seed(run.seed)
    found: dict[str, dict[str, list[Any]]] = {}
    for path, layer in a.layers.items():
        of_kind = found.setdefault(path.rpartition(".")[2], {"similarity": [], "random": [], first: [], second: []})
        factors = [layer.lora_A.detach(), b.layers[path].lora_A.detach()]
        of_kind["similarity"].append(similarities(*factors))
        of_kind["random"].append(similarities(*(torch.randn(f.shape, generator=generator) for f in factors)))
        weight = base[own_name(base, path)].float()
        for name, adapter in ((first, a), (second, b)):
            changed = adapter.layers[path]
            of_kind[name].append(amplification(changed.delta_weight().detach(), weight, changed.r, generator))
    kinds = {kind: {name: mean(values) for name, values in parts.items()} for kind, parts in found.items()}
    return {"block": run.block, "seed": run.seed, "runs": [first, second], "kinds": kinds, "steps": []}


def own_name(base: Model, path: str) -> str:
    """Name of a module's weight in the base's own file, which may lack the first part of the path."""
    names = (f"{path}.weight", f"{path.partition('.')[2]}.weight")
    return next(name for name in names if name in base.where)


def mean(values: list[Any]) -> Any:
    """Mean of tensors as rows of four digits, or of dicts of numbers."""
    if isinstance(values[0], dict):
        return {name: sum(value[name] for value in values) / len(values) for name in values[0]}
    grid = torch.stack(values).mean(0)[:KEPT, :KEPT]
    return [" ".join(f"{number:.4g}" for number in row) for row in grid.tolist()]
