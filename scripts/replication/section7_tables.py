"""Tables and plots of the block "section7"."""

from __future__ import annotations

from typing import Any

import numpy as np
from compare import Results, Table

POINTS = ((1, 1), (1, 8), (4, 4), (8, 8), (8, 64))  # i of the first adapter, j of the second


def grid(lines: list[str]) -> np.ndarray:
    """Similarities: row i - 1, column j - 1."""
    return np.array([line.split() for line in lines], float)


def parts(results: Results) -> list[tuple[str, list[str], str, dict[str, Any]]]:
    """Name of a comparison, its two runs, kind of projection, what was found."""
    return [
        (name.removeprefix("section7/").partition(".")[0], result["runs"], kind, found)
        for name, result in results.items()
        if name.startswith("section7/")
        for kind, found in result["kinds"].items()
    ]


def similarity_table(results: Results) -> Table:
    """φ at a few i and j, beside that of random factors of the same shapes."""
    table = [["adapters", "projection", *(f"i {i}, j {j}" for i, j in POINTS)]]
    for _, runs, kind, found in parts(results):
        ours, random = grid(found["similarity"]), grid(found["random"])
        cells = [
            f"{ours[i - 1, j - 1]:.2f} ({random[i - 1, j - 1]:.2f})" if i <= len(ours) and j <= ours.shape[1] else "–"
            for i, j in POINTS
        ]
        table.append([" and ".join(runs), kind, *cells])
    return table


def amplification_table(results: Results) -> Table:
    """Norms of an update and of its weight projected onto directions of the update, of the weight, at random."""
    table = [["adapter", "projection", "ΔW", "W", "W in ΔW's directions", "in W's", "in random ones", "amplification"]]
    rows: dict[tuple[str, str], list[str]] = {}
    for _, runs, kind, found in parts(results):
        for run in runs:
            norms = ("update", "weight", "in_update", "in_weight", "in_random", "factor")
            rows[run, kind] = [run, kind, *(f"{found[run][name]:.2f}" for name in norms)]
    return table + list(rows.values())


def draw(results: Results, canvas: Any) -> None:
    """One heat map for each comparison and projection, one of random factors."""
    found = parts(results)
    maps = [(f"{name}, {kind}", grid(what["similarity"])) for name, _, kind, what in found]
    maps += [(f"random, as {name}", grid(what["random"])) for name, _, _, what in found[:1]]
    for plot, (title, values) in zip(canvas.subplots(2, (len(maps) + 1) // 2, squeeze=False).flat, maps):
        extent = (0.5, values.shape[1] + 0.5, len(values) + 0.5, 0.5)
        image = plot.imshow(values, vmin=0, vmax=1, aspect="auto", extent=extent, interpolation="none")
        plot.set(title=title, xlabel="j", ylabel="i")
        plot.title.set_fontsize("small")
    if maps:
        canvas.colorbar(image, ax=canvas.axes, label="similarity φ")
