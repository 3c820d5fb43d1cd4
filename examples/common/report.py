"""Parts of HTML reports: a page that stands alone, tables and line charts; light and dark, no script."""

from __future__ import annotations

import html
import math
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

WIDTH, HEIGHT = 560, 320
LEFT, RIGHT, TOP, BOTTOM = 52, 16, 40, 42
SERIES = 8

# Text and lines have a contrast of at least 4.5 : 1 with the page and its boxes, in both schemes (a test computes it).
LIGHT = {
    **{"page": "#ffffff", "soft": "#f4f5f6", "ink": "#1c2024", "quiet": "#565d67", "rule": "#d9dce0"},
    **{"s1": "#b4400c", "s2": "#1d4ed8", "s3": "#0b6b63", "s4": "#5f6670"},
    **{"s5": "#7c3aed", "s6": "#a1105f", "s7": "#4d6b08", "s8": "#8a5a00"},
}
DARK = {
    **{"page": "#15181c", "soft": "#20242a", "ink": "#e8eaed", "quiet": "#aab2bd", "rule": "#3a4048"},
    **{"s1": "#ff9d6e", "s2": "#93b4ff", "s3": "#4fd1c5", "s4": "#a9b0ba"},
    **{"s5": "#c4a6ff", "s6": "#ff8fc8", "s7": "#b5d65a", "s8": "#f0c060"},
}
RULES = """
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink); }
body { font: 16px/1.55 system-ui, -apple-system, "Segoe UI", sans-serif; }
main { max-width: 1080px; margin: 0 auto; padding: 40px 20px 80px; }
h1 { font-size: 30px; line-height: 1.2; margin: 0 0 8px; letter-spacing: -0.01em; }
h2 { font-size: 20px; margin: 48px 0 12px; }
p { max-width: 46em; } .lead, .note { color: var(--quiet); } .note { font-size: 14px; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; font-size: 15px; }
.wide { overflow-x: auto; }
th, td { text-align: right; padding: 9px 10px; border-bottom: 1px solid var(--rule); }
th { font-size: 13px; font-weight: 600; color: var(--quiet); vertical-align: bottom; }
th:first-child, td:first-child { text-align: left; font-weight: 600; padding-left: 0; }
.dot { display: inline-block; width: 10px; height: 10px; border-radius: 5px; margin-right: 8px; }
.charts { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 420px), 1fr)); gap: 28px; }
figure { margin: 0; min-width: 0; } figcaption { font-weight: 600; margin-bottom: 8px; }
figure > svg { width: 100%; height: auto; }
.grid { stroke: var(--rule); } .tick { font-size: 13px; fill: var(--quiet); }
.legend { list-style: none; display: flex; flex-wrap: wrap; gap: 4px 18px; padding: 0; margin: 8px 0 0; }
.legend { font-size: 14px; overflow-wrap: anywhere; }
.key { width: 26px; height: 8px; margin-right: 6px; }
pre { background: var(--soft); border: 1px solid var(--rule); border-radius: 6px; padding: 14px; font-size: 13px; }
pre { white-space: pre-wrap; overflow-wrap: anywhere; }
@media (max-width: 700px) {
  main { padding: 24px 16px 60px; } .tick { font-size: 19px; }
  table, tbody, tr, td { display: block; } thead { display: none; }
  tr { border-bottom: 1px solid var(--rule); padding: 10px 0; }
  td { display: flex; justify-content: space-between; overflow-wrap: anywhere; gap: 16px; border: 0; padding: 2px 0; }
  td::before { content: attr(data-label); color: var(--quiet); font-weight: 400; text-align: left; flex: none; }
  td:first-child { justify-content: flex-start; align-items: baseline; gap: 0; }
  td:first-child::before { content: none; } td:empty { display: none; }
}
"""


def style(more: str = "") -> str:
    """The style sheet; ``more`` is appended to it."""
    light, dark = ("".join(f" --{name}: {value};" for name, value in colours.items()) for colours in (LIGHT, DARK))
    schemes = (
        f":root {{ color-scheme: light dark;{light} }}\n@media (prefers-color-scheme: dark) {{ :root {{{dark} }} }}"
    )
    return f"\n{schemes}{RULES}{more}"


def escape(text: object) -> str:
    return html.escape(str(text), quote=True)


def page(title: str, body: str, more_style: str = "") -> str:
    """A whole HTML page; ``body`` is HTML, ``title`` is text."""
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(title)}</title><style>{style(more_style)}</style></head><body><main>
{body}
</main></body></html>
"""


def table(headings: Sequence[str], rows: Sequence[Sequence[str]], colours: Sequence[str] | None = None) -> str:
    """A table of texts, which on a narrow screen becomes one block for each row.

    Args:
        colours: of a dot before each row.
    """
    body = []
    for i, row in enumerate(rows):
        dot = f'<span class="dot" style="background:{colours[i]}"></span>' if colours else ""
        cells = [f'<td data-label="{escape(name)}">{escape(cell)}</td>' for name, cell in zip(headings[1:], row[1:])]
        body.append(f"<tr><td>{dot}{escape(row[0])}</td>{''.join(cells)}</tr>")
    head = "".join(f"<th>{escape(name)}</th>" for name in headings)
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{"".join(body)}</tbody></table></div>'


def processor() -> str:
    """Name of this machine's CPU, as far as the system gives it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8", errors="replace").splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def series_colour(index: int) -> str:
    """Colour of a run by its place in the page, as CSS; the ninth has that of the first."""
    return f"var(--s{index % SERIES + 1})"


@dataclass(frozen=True)
class Line:
    """Points (x, y) with x rising, in a CSS colour; ``dashed`` for a second quantity of the same colour."""

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


def short(number: float) -> str:
    """``25k`` for 25,000: labels of an axis that must not touch."""
    return f"{number / 1000:g}k" if number >= 10_000 else f"{number:,g}"


def line_chart(title: str, lines: Sequence[Line], x_label: str, y_label: str) -> str:
    """SVG of the lines that have finite points; a sentence instead where none has."""
    drawn = [(line, [p for p in line.points if math.isfinite(p[1])]) for line in lines]
    drawn = [(line, points) for line, points in drawn if points]
    if not drawn:
        return f"<p>{escape(title)}: nothing was logged.</p>"
    xs = round_ticks(0, max(x for _, points in drawn for x, _ in points))
    every_y = [y for _, points in drawn for _, y in points]
    ys = round_ticks(min(every_y), max(every_y))
    if len(ys) == 1:
        ys.append(ys[0] + 1)

    def at(x: float, y: float) -> tuple[float, float]:
        across = LEFT + (WIDTH - LEFT - RIGHT) * (x - xs[0]) / (xs[-1] - xs[0])
        return across, HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * (y - ys[0]) / (ys[-1] - ys[0])

    parts = [f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}">']
    for y in ys:
        _, down = at(0, y)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{down:.1f}" y2="{down:.1f}"/>')
        parts.append(f'<text class="tick" x="{LEFT - 8}" y="{down + 4:.1f}" text-anchor="end">{y:g}</text>')
    for x in xs[:: 1 if len(xs) <= 6 else 2]:
        across, base = at(x, ys[0])[0], HEIGHT - BOTTOM + 18
        place = f'x="{across:.1f}" text-anchor="middle"' if x < xs[-1] else f'x="{WIDTH}" text-anchor="end"'
        parts.append(f'<text class="tick" {place} y="{base}">{short(x)}</text>')
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts.append(f'<text class="tick" x="{middle:.0f}" y="{HEIGHT - 6}" text-anchor="middle">{escape(x_label)}</text>')
    parts.append(f'<text class="tick" x="4" y="14">{escape(y_label)}</text>')
    for line, points in drawn:
        path = " ".join(f"{a:.1f},{b:.1f}" for a, b in (at(*p) for p in points))
        parts.append(f'<polyline points="{path}" fill="none" {stroke_of(line, 2)}/>')
        if not line.dashed or len(points) == 1:
            dots = (at(*p) for p in points)
            parts += [f'<circle cx="{a:.1f}" cy="{b:.1f}" r="3" style="fill:{line.colour}"/>' for a, b in dots]
    parts.append("</svg>")
    legend = "".join(
        f'<li><svg class="key" viewBox="0 0 26 8"><line x1="0" x2="26" y1="4" y2="4" {stroke_of(line, 2.5)}/></svg>'
        f"{escape(line.label)}</li>"
        for line, _ in drawn
    )
    caption = f"<figcaption>{escape(title)}</figcaption>"
    return f'<figure>{caption}{"".join(parts)}<ul class="legend">{legend}</ul></figure>'


def stroke_of(line: Line, width: float) -> str:
    dash = ' stroke-dasharray="5 4"' if line.dashed else ""
    return f'style="stroke:{line.colour}" stroke-width="{width:g}"{dash}'
