"""The files that the programs wrote, as records of rows, and what can be read off a row's words."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

from examples.common.errors import UserError
from harness.rows import Row
from harness.timing import Ratio

PROGRAMS = ("layers", "train_step", "beam", "inference", "scoring", "checkpoint")
PEERS = ("transformers", "peft", "released", "pyter3", "pycocoevalcap", "generate")
SIDES = re.compile(r"(?:(?P<what>[^,]+), )?(?P<one>.+?) / (?P<other>.+)")


@dataclass(frozen=True)
class Record:
    """What one program wrote: its command, its machine, its rows."""

    name: str
    command: str
    began: str
    commit: str | None
    load_before: float
    threads: int
    machine: dict[str, Any]
    rows: list[Row]


def read_records(folder: Path) -> list[Record]:
    """The records of a folder with ``<program>.json``, in the order of ``PROGRAMS``.

    Raises:
        UserError: none is there, or a file is none of ours.
    """
    found = [read_record(path) for name in PROGRAMS if (path := folder / f"{name}.json").is_file()]
    if not found:
        raise UserError(f"{folder} holds no results; expected some of {', '.join(f'{n}.json' for n in PROGRAMS)}")
    return found


def read_record(path: Path) -> Record:
    """One program's file.

    Raises:
        UserError: it is not JSON or lacks something.
    """
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        rows = [row_of(row) for row in raw["rows"]]
        given = {key: raw[key] for key in ("command", "began", "commit", "load_before", "threads", "machine")}
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError) as error:
        raise UserError(f"{path} is not a file of results ({type(error).__name__}: {error})") from None
    return Record(name=raw["bench"], rows=rows, **given)


def row_of(raw: dict[str, Any]) -> Row:
    """A row from its JSON form; ``met`` follows from the rest."""
    axis = raw.get("axis")
    return Row(
        case=raw["case"],
        quantity=raw["quantity"],
        ratio=Ratio(**raw["ratio"]),
        target=raw.get("target", ""),
        note=raw.get("note", ""),
        axis=None if axis is None else (str(axis[0]), float(axis[1])),
        headline=raw.get("headline", ""),
    )


@dataclass(frozen=True)
class Speed:
    """How many times faster ours is than a peer, with quartiles."""

    label: str
    peer: str
    ratio: Ratio


def speeds(records: Sequence[Record], *, most: int = 12) -> list[Speed]:
    """Comparisons of time with another implementation, at most ``most``: the rows with a headline, where there are any.

    Of those with equal headline and peer the last counts. Without any: those with a target first, then a row of each
    program in turn.
    Rows say the two sides in words, ``time, ours / peer`` or the other way round; rows on a curve are left out, and
    so are rows whose other side is a bound or a variant of ours.
    """
    named = [speed for record in records for row in record.rows if row.headline and (speed := speed_of(row))]
    if named:
        return list({(speed.label, speed.peer): speed for speed in named}.values())[:most]
    by_program = [[(row, speed) for row in record.rows if (speed := speed_of(row))] for record in records]
    with_target = [speed for found in by_program for row, speed in found if row.target]
    without = ([speed for row, speed in found if not row.target] for found in by_program)
    in_turn = (speed for place in zip_longest(*without) for speed in place if speed)  # each program has its say
    return [*with_target, *in_turn][:most]


def speed_of(row: Row) -> Speed | None:
    """The comparison that a row makes, where it is one of ours and a peer."""
    sides = SIDES.fullmatch(row.quantity)
    if sides is None or (row.axis is not None and not row.headline) or not is_time(sides["what"] or ""):
        return None
    one, other = sides["one"], sides["other"]
    if any(peer in other for peer in PEERS) and "ours" in one:
        return Speed(row.headline or row.case, other, inverse(row.ratio))
    if any(peer in one for peer in PEERS) and "ours" in other:
        return Speed(row.headline or row.case, one, row.ratio)
    return None


def is_time(what: str) -> bool:
    """Whether the words before the sides name time or speed; no words mean time."""
    return not what or any(word in what for word in ("time", "second", "speed"))


def inverse(ratio: Ratio) -> Ratio:
    """The same comparison from the other side; the quartiles change places."""
    return Ratio(1 / ratio.median, 1 / ratio.high, 1 / ratio.low, ratio.rounds)


@dataclass(frozen=True)
class Curve:
    """Points (size, value) of one case, the sizes rising."""

    label: str
    points: Sequence[tuple[float, Ratio]]


@dataclass(frozen=True)
class Growth:
    """How one quantity of one program changes along an axis."""

    program: str
    axis: str
    quantity: str
    curves: Sequence[Curve]

    @property
    def is_comparison(self) -> bool:
        """Whether the values are ratios of two sides, which need not grow at all."""
        return SIDES.fullmatch(self.quantity) is not None


def growths(records: Iterable[Record]) -> list[Growth]:
    """Curves from rows with an axis, of two points at least; rows that differ only in that size are one curve."""
    groups: dict[tuple[str, str, str], list[Row]] = {}
    for record in records:
        for row in record.rows:
            if row.axis is not None:
                groups.setdefault((record.name, row.axis[0], row.quantity), []).append(row)
    found = []
    for (program, axis, quantity), rows in groups.items():
        shared = Counter(form for row in rows for form in forms(row))
        curves: dict[str, dict[float, Ratio]] = {}
        for row in rows:
            assert row.axis is not None
            label = max(forms(row), key=lambda form: shared[form])
            curves.setdefault(label, {})[row.axis[1]] = row.ratio
        drawn = [Curve(label, sorted(points.items())) for label, points in curves.items() if len(points) > 1]
        if drawn:
            found.append(Growth(program, axis, quantity, drawn))
    return found


def forms(row: Row) -> list[str]:
    """The case of a row on a curve as it may read for all of the curve: one number left out, or as it is."""
    assert row.axis is not None
    size = row.axis[1]
    written = "|".join(re.escape(text) for text in {f"{size:g}", f"{size:,.0f}", f"{size:.0f}", str(size)})
    places = re.finditer(rf"(?<![\d.,])(?:{written})(?!\d|[.,]\d)", row.case)
    return [*(f"{row.case[: at.start()]}…{row.case[at.end() :]}" for at in places), row.case]
