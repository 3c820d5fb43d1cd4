"""Loss curves as one inline SVG: lines with their labels at the end, a quiet grid, nothing loaded from elsewhere."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass

WIDTH, HEIGHT = 560, 320
LEFT, RIGHT, TOP, BOTTOM = 52, 16, 28, 42


@dataclass(frozen=True)
class Line:
    """Points (x, y) with x rising; ``dashed`` for a second quantity of the same colour."""

    label: str
    colour: str
    points: Sequence[tuple[float, float]]
    dashed: bool = False


def round_ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Multiples of 1, 2 or 5 times a power of ten that cover [low, high]."""
    span = max(high - low, 1e-9)
    raw = span / about
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= raw * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [i * step for i in range(first, last + 1)]


def line_chart(title: str, lines: Sequence[Line], x_label: str, y_label: str) -> str:
    """SVG of the lines that have finite points; a sentence instead where none has."""
    drawn = [(line, [p for p in line.points if math.isfinite(p[1])]) for line in lines]
    drawn = [(line, points) for line, points in drawn if points]
    if not drawn:
        return f"<p>{html.escape(title)}: no losses were logged.</p>"
    xs = round_ticks(0, max(x for _, points in drawn for x, _ in points))
    every_y = [y for _, points in drawn for _, y in points]
    ys = round_ticks(min(every_y), max(every_y))
    if len(ys) == 1:
        ys.append(ys[0] + 1)

    def at(x: float, y: float) -> tuple[float, float]:
        across = LEFT + (WIDTH - LEFT - RIGHT) * (x - xs[0]) / (xs[-1] - xs[0])
        return across, HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * (y - ys[0]) / (ys[-1] - ys[0])

    parts = [f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{html.escape(title)}">']
    for y in ys:
        _, down = at(0, y)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{down:.1f}" y2="{down:.1f}"/>')
        parts.append(f'<text class="tick" x="{LEFT - 8}" y="{down + 4:.1f}" text-anchor="end">{y:g}</text>')
    for x in xs:
        across, _ = at(x, ys[0])
        base = HEIGHT - BOTTOM + 18
        parts.append(f'<text class="tick" x="{across:.1f}" y="{base}" text-anchor="middle">{x:,.0f}</text>')
    middle = (LEFT + WIDTH - RIGHT) / 2
    label = html.escape(x_label)
    parts.append(f'<text class="tick" x="{middle:.0f}" y="{HEIGHT - 6}" text-anchor="middle">{label}</text>')
    parts.append(f'<text class="tick" x="4" y="11">{html.escape(y_label)}</text>')
    for line, points in drawn:
        path = " ".join(f"{a:.1f},{b:.1f}" for a, b in (at(*p) for p in points))
        parts.append(f'<polyline points="{path}" fill="none" stroke="{line.colour}" stroke-width="2"{dash_of(line)}/>')
        if not line.dashed:
            parts += [
                f'<circle cx="{a:.1f}" cy="{b:.1f}" r="3" fill="{line.colour}"/>' for a, b in (at(*p) for p in points)
            ]
    parts.append("</svg>")
    legend = "".join(
        f'<li><svg class="key" viewBox="0 0 26 8"><line x1="0" x2="26" y1="4" y2="4" stroke="{line.colour}" '
        f'stroke-width="2.5"{dash_of(line)}/></svg>{html.escape(line.label)}</li>'
        for line, _ in drawn
    )
    caption = f"<figcaption>{html.escape(title)}</figcaption>"
    return f'<figure>{caption}{"".join(parts)}<ul class="legend">{legend}</ul></figure>'


def dash_of(line: Line) -> str:
    return ' stroke-dasharray="5 4"' if line.dashed else ""
