"""Swift's Table 4 and its claim about 80 %, recomputed from the figures of its Table 3."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

Figures = Mapping[str, float]
TGEN, GOAL_MODEL, IMPROVED = "E2E baseline (TGen)", "GPT-2 M original (LoRA paper)", "GPT-2 S improved"
CLAIM = 0.8  # of the difference between TGen and GPT-2 Medium, in each metric


def relative_improvement(ours: Figures, over: Figures) -> dict[str, float]:
    """(ours - over) / over in %, and the average of all metrics."""
    found = {name: 100 * (ours[name] - over[name]) / over[name] for name in over}
    return {**found, "average": sum(found.values()) / len(found)}


def share_reached(ours: Figures, low: Figures, high: Figures) -> dict[str, float]:
    """How much of the way from ``low`` to ``high`` is reached: 0 at low, 1 at high."""
    return {name: (ours[name] - low[name]) / (high[name] - low[name]) for name in low}


def goal(low: Figures, high: Figures) -> dict[str, float]:
    """What the claim asks for: ``low`` and 80 % of the difference to ``high``."""
    return {name: low[name] + CLAIM * (high[name] - low[name]) for name in low}


def claim_rows(name: str, ours: Figures, low: Figures, high: Figures) -> list[list[str]]:
    """Rows of the table of the claim: share and whether it is 80 % for each metric, and the mean."""
    shares = share_reached(ours, low, high)
    mean = sum(shares.values()) / len(shares)
    cells = [f"{share:.3f} ({'yes' if share >= CLAIM else 'no'})" for share in shares.values()]
    return [[name, *cells, f"{mean:.3f}"]]


def improvement_rows(
    ours: Figures, others: Mapping[str, Figures], printed: Sequence[Mapping[str, float | str]] = ()
) -> list[list[str]]:
    """Rows of Table 4: what the report prints, where given, and what its figures give."""
    rows = []
    for index, (name, figures) in enumerate(others.items()):
        if printed:
            cells = [f"{printed[index][metric]:g}" for metric in (*figures, "average")]
            rows.append([name, "printed", *cells])
        recomputed = [f"{value:.3g}" for value in relative_improvement(ours, figures).values()]
        rows.append(["" if printed else name, "recomputed" if printed else "ours", *recomputed])
    return rows
