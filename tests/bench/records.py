"""Hand-made results, as the programs write them."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from harness.rows import Row
from harness.timing import Ratio

MACHINE = {
    "device": "A processor",
    "cores": 4,
    "python": "3.11.9",
    "versions": {"torch": "2.13.0", "peft": None},
    "matmul_flops_per_second": {"float32": 9.2e10, "bfloat16": 2e11},
}


def record(name: str, rows: list[Row], **changed: Any) -> dict[str, Any]:
    """What ``<name>.py --json`` writes."""
    return {
        "bench": name,
        "command": f"python scripts/bench/{name}.py --quick",
        "began": "2026-01-01T00:00:00+00:00",
        "commit": "0123456789abcdef",
        "load_before": 0.25,
        "machine": MACHINE,
        "threads": 2,
        "rows": [asdict(row) | {"met": row.met} for row in rows],
        **changed,
    }


def layers_rows() -> list[Row]:
    """A target that is met, one that is missed, a count, and a curve that grows with the square of the rank."""
    return [
        Row("sm r 4", "time, ours / frozen layer", Ratio(1.05, 1.01, 1.1, 7), target="<= 1.15"),
        Row("sm 8x512", "time, released / ours", Ratio(2.5, 2.25, 2.75, 7), target=">= 2.6", note="0.5 s | 0.2 s"),
        Row("sm r 4", "FLOPs, ours / n*in*out", Ratio(4.028, 4.028, 4.028, 1)),
        Row("sm", "time, ours / transformers + peft", Ratio(0.5, 0.4, 0.8, 7)),
        *(
            Row(f"sm r {r}", "seconds of forward and backward", Ratio(r * r, r * r, r * r, 5), axis=("rank", r))
            for r in (4, 16, 64)
        ),
    ]


def write_parts(folder: Path, **programs: list[Row]) -> Path:
    """Folder with ``<program>.json`` for each of ``programs``."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in programs.items():
        (folder / f"{name}.json").write_text(json.dumps(record(name, rows)), encoding="utf-8")
    return folder
