"""A measurement as a row: what was compared in which case, and the ratio with its quartiles."""

from __future__ import annotations

import argparse
import os
import platform
import sys
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from examples.common.errors import UserError
from examples.common.files import write_json
from examples.common.record import git_commit
from examples.common.report import processor
from harness.costs import cpu_count, matmul_flops_per_second
from harness.timing import Ratio

PACKAGES = ("torch", "numpy", "transformers", "peft", "tokenizers", "sacrebleu")


@dataclass(frozen=True)
class Row:
    """One line of a table.

    Attributes:
        case: what was computed: model, sizes, precision.
        quantity: what the ratio is of, with the two sides in words: ``time, ours / frozen layer``.
        ratio: median and quartiles; counts are exact and have no spread.
        note: what a reader must know, and absolute values.
        headline: name of the comparison in the plot; empty for most rows.
    """

    case: str
    quantity: str
    ratio: Ratio
    note: str = ""
    headline: str = ""

    def as_json(self) -> dict[str, Any]:
        """The row flat, without what is empty; four digits."""
        row = asdict(self)
        ratio = row.pop("ratio")
        figures = {name: float(f"{value:.4g}") for name, value in ratio.items() if name != "rounds"}
        return {name: value for name, value in {**row, **figures, "rounds": self.ratio.rounds}.items() if value != ""}


def _without_output(flags: list[str]) -> list[str]:
    """The flags without ``--json FILE``, which says nothing about the measurement."""
    kept = [flag for flag in flags if not flag.startswith("--json=")]
    if "--json" in kept:
        at = kept.index("--json")
        del kept[at : at + 2]
    return kept


def exact(value: float) -> Ratio:
    """A counted ratio, which has no spread."""
    return Ratio(value, value, value, 1)


@dataclass
class Bench:
    """The rows of one program; each is printed when it is there, all are written at the end."""

    name: str
    args: argparse.Namespace
    rows: list[Row] = field(default_factory=list)
    began: str = field(default_factory=lambda: datetime.now(timezone.utc).isoformat(timespec="seconds"))
    # processes that wanted a core over the last minute: other work on the machine, while nothing is measured yet
    load_before: float = field(default_factory=lambda: os.getloadavg()[0])

    def add(self, row: Row) -> None:
        self.rows.append(row)
        print(_line(row), flush=True)

    def write(self) -> None:
        """Writes ``--json FILE``, if asked for."""
        if self.args.json is None:
            return
        record = {
            "bench": self.name,
            "command": " ".join(["python", f"scripts/bench/{self.name}.py", *_without_output(sys.argv[1:])]),
            "began": self.began,
            "commit": git_commit(),
            "load_before": self.load_before,
            "machine": machine(self.args.device),
            "threads": torch.get_num_threads(),
            "rows": [row.as_json() for row in self.rows],
        }
        write_json(self.args.json, record)


def bench_parser(description: str | None, *, rounds: int) -> argparse.ArgumentParser:
    """Flags that all programs have."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--quick", action="store_true", help="fewer cases and rounds")
    parser.add_argument("--rounds", type=int, help=f"measurements of each alternative (default: {rounds}, quick 3)")
    parser.add_argument("--threads", type=int, default=2, help="threads of the CPU (default: 2)")
    parser.add_argument("--device", default="cpu", help="cpu or cuda (default: cpu)")
    parser.add_argument("--json", type=Path, help="file to write the rows to")
    parser.set_defaults(default_rounds=rounds)
    return parser


def begin(name: str, parser: argparse.ArgumentParser) -> Bench:
    """Parses the command line, sets threads and prints what is measured on what.

    Raises:
        UserError: values that cannot be measured with.
    """
    args = parser.parse_args()
    args.rounds = args.rounds or (3 if args.quick else args.default_rounds)
    if args.rounds < 1 or args.threads < 1:
        raise UserError("--rounds and --threads must be at least 1")
    if torch.device(args.device).type == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda: torch finds no GPU")
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    print(
        f"# {name}: {args.threads} threads of {platform.processor() or platform.machine()}, {args.device}", flush=True
    )
    return Bench(name, args)


def machine(device: str) -> dict[str, Any]:
    """Device, versions and measured rate of matrix products, in FLOP/s."""
    on_gpu = torch.device(device).type == "cuda"
    return {
        "device": torch.cuda.get_device_name(device) if on_gpu else processor(),
        "cores": cpu_count(),
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in PACKAGES},
        "matmul_flops_per_second": {
            str(dtype).removeprefix("torch."): matmul_flops_per_second(dtype, device)
            for dtype in (torch.float32, torch.bfloat16)
        },
    }


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _line(row: Row) -> str:
    spread = "" if row.ratio.rounds == 1 else f" ({row.ratio.low:.3f} to {row.ratio.high:.3f}, n={row.ratio.rounds})"
    return f"{row.case:<58} {row.quantity:<46} {row.ratio.median:8.3f}{spread}  {row.note}".rstrip()
