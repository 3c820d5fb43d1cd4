"""Plots of the results as PNG: bars of how much faster ours is, and curves of how cost grows with the work."""

from __future__ import annotations

import math
import re
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from examples.common.files import atomic_write
from harness.results import Curve, Growth, Speed

INK, QUIET, RULE = "#1c2024", "#5f6670", "#e3e5e8"  # as in the quickstart's report
OURS, GREY = "#c2410c", "#8a8f98"
COLOURS = ("#c2410c", "#1d4ed8", "#0f766e", "#8a8f98", "#7c3aed", "#a16207", "#be185d", "#1c2024")
MARKS = ("o", "s", "^", "D", "v", "P", "X", "*")
PANELS_IN_A_ROW = 3


def speed_plot(speeds: Sequence[Speed], path: Path, *, subtitle: str) -> None:
    """Horizontal bars of times faster than each peer, quartiles as whiskers, a line at 1 for the same speed."""
    plt = _pyplot()
    shown = sorted(speeds, key=lambda speed: speed.ratio.median)
    height = 0.62 * len(shown) + 1.7
    figure, axes = plt.subplots(figsize=(9.6, height), layout="constrained")
    centre = [speed.ratio.median for speed in shown]
    spread = [
        [speed.ratio.median - speed.ratio.low for speed in shown],
        [speed.ratio.high - speed.ratio.median for speed in shown],
    ]
    colours = [OURS if value >= 1 else GREY for value in centre]
    wide = max(speed.ratio.high for speed in shown)
    logarithmic = wide > 12
    left = 1 if logarithmic else 0  # a logarithmic axis has no 0 for bars to start from
    axes.barh(range(len(shown)), [value - left for value in centre], left=left, color=colours, height=0.58, zorder=2)
    axes.errorbar(centre, range(len(shown)), xerr=spread, fmt="none", ecolor=INK, elinewidth=1.2, capsize=3, zorder=3)
    axes.axvline(1, color=INK, linewidth=1, linestyle=(0, (4, 3)), zorder=4)
    if logarithmic:
        axes.set_xscale("log")
        axes.set_xlim(min(0.8, *(speed.ratio.low * 0.8 for speed in shown)), wide * 1.6)
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}×")
        axes.xaxis.set_minor_formatter(lambda value, _: f"{value:g}×" if _leading(value) in (2, 5) else "")
    else:
        axes.set_xlim(0, wide * 1.14)
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}×")
    for place, speed in enumerate(shown):
        end = speed.ratio.high * 1.05 if logarithmic else speed.ratio.high + wide * 0.012
        axes.text(end, place, f"{speed.ratio.median:.3g}×", va="center", color=INK, fontsize=11, weight="bold")
    labels = [f"{_wrapped(speed.label, 56)}\nvs {_wrapped(speed.peer, 56)}" for speed in shown]
    axes.set_yticks(range(len(shown)), labels, fontsize=9.5)
    axes.grid(axis="x", color=RULE, zorder=0)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    _title(figure, "Times faster than other implementations")
    axes.set_title(_wrapped(subtitle, 100), loc="right", fontsize=9, color=QUIET)
    axes.set_xlabel("1× = same speed; whiskers: quartiles over rounds")
    _save(figure, path)


def growth_plot(growths: Sequence[Growth], path: Path) -> None:
    """One panel for each quantity along one axis; growing quantities on two logarithmic scales beside slope 1."""
    plt = _pyplot()
    columns = min(PANELS_IN_A_ROW, len(growths))
    rows = math.ceil(len(growths) / columns)
    figure, panels = plt.subplots(
        rows, columns, figsize=(4.9 * columns, 4.3 * rows + 0.4), squeeze=False, layout="constrained"
    )
    for panel, growth in zip(panels.flat, growths):
        _growth_panel(panel, growth)
    for panel in panels.flat[len(growths) :]:
        panel.set_visible(False)
    _title(figure, f"Cost over {growths[0].axis}")
    _save(figure, path)


def fitted_slope(curve: Curve) -> float:
    """Least-squares slope of the curve on two logarithmic scales: 1 where cost grows in proportion."""
    xs = [math.log(size) for size, _ in curve.points]
    ys = [math.log(ratio.median) for _, ratio in curve.points]
    x_mean, y_mean = sum(xs) / len(xs), sum(ys) / len(ys)
    across = sum((x - x_mean) ** 2 for x in xs)
    return sum((x - x_mean) * (y - y_mean) for x, y in zip(xs, ys)) / across


def plot_name(growth: Growth) -> str:
    """File name of the plot of an axis: ``growth_train_step_sequence_length.png``."""
    return f"growth_{growth.program}_{re.sub(r'[^a-z0-9]+', '_', growth.axis.lower()).strip('_')}.png"


def _growth_panel(panel: Any, growth: Growth) -> None:
    drawable = [curve for curve in growth.curves if all(size > 0 and r.median > 0 for size, r in curve.points)]
    for number, curve in enumerate(drawable):
        xs, ys = [size for size, _ in curve.points], [ratio.median for _, ratio in curve.points]
        spread = [[r.median - r.low for _, r in curve.points], [r.high - r.median for _, r in curve.points]]
        slope = "" if growth.is_comparison else f" (slope {fitted_slope(curve):.2f})"
        panel.errorbar(
            xs, ys, yerr=spread, color=COLOURS[number % len(COLOURS)], marker=MARKS[number % len(MARKS)],
            markersize=5, linewidth=2, capsize=2.5, elinewidth=1, label=_wrapped(curve.label, 34) + slope,
        )  # fmt: skip
    sizes = sorted({size for curve in drawable for size, _ in curve.points})
    panel.set_xscale("log")
    if growth.is_comparison:
        panel.axhline(1, color=QUIET, linewidth=1, linestyle=(0, (4, 3)))
        panel.set_ylim(bottom=0)
    else:
        panel.set_yscale("log")
        panel.yaxis.set_major_formatter(lambda value, _: _short(value))
        highest = max(ratio.high for curve in drawable for _, ratio in curve.points)
        decades = math.log10(highest / min(ratio.low for curve in drawable for _, ratio in curve.points))
        marked = (2, 5) if decades < 2 else ()
        panel.yaxis.set_minor_formatter(lambda value, _: _short(value) if _leading(value) in marked else "")
        lowest = min(curve.points[0][1].median for curve in drawable) * 0.8
        guide = [lowest * size / sizes[0] for size in sizes]
        panel.plot(sizes, guide, color=QUIET, linewidth=1, linestyle=(0, (4, 3)), label="in proportion (slope 1)")
    panel.set_xticks(sizes, [_short(size) for size in sizes])
    panel.set_xticks([], minor=True)
    panel.set_xlabel(growth.axis)
    panel.set_title(_wrapped(growth.quantity, 44), loc="left", fontsize=10.5, color=INK)
    panel.grid(color=RULE, which="major")
    panel.legend(frameon=False, fontsize=8.5, loc="best")


def _pyplot() -> Any:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    plt.rcParams.update(
        {
            "font.family": "DejaVu Sans",
            "axes.edgecolor": QUIET,
            "axes.labelcolor": QUIET,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "xtick.color": QUIET,
            "ytick.color": INK,
            "text.color": INK,
        }
    )
    return plt


def _title(figure: Any, text: str) -> None:
    figure.suptitle(text, x=0.012, ha="left", color=INK, fontsize=14, weight="bold")


def _save(figure: Any, path: Path) -> None:
    import matplotlib.pyplot as plt

    with atomic_write(path, binary=True) as stream:
        # without the version of matplotlib, so that the same numbers give the same bytes
        figure.savefig(stream, format="png", dpi=130, facecolor="white", metadata={"Software": None})
    plt.close(figure)


def _leading(value: float) -> int:
    return round(value / 10 ** math.floor(math.log10(value) + 1e-9))


def _short(size: float) -> str:
    for factor, unit in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if size >= factor:
            return f"{size / (1e3 if unit == 'k' else factor):.3g} {unit}"
    return f"{size:g}"


def _wrapped(text: str, width: int) -> str:
    return "\n".join(textwrap.wrap(text, width))
