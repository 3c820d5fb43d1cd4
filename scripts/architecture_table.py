"""Compares LoRA on tiny random models of many architectures with PEFT's and writes the table of docs/apply_lora.md.

Needs the packages of requirement.txt, no network and no GPU; about a minute on one core.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
import tempfile
import warnings
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # for tests.loralib, which has the models
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

from tests.loralib.architectures import ROWS  # noqa: E402
from tests.loralib.peft_pair import Pair, all_linear  # noqa: E402

PAGE = ROOT / "docs" / "apply_lora.md"
TABLE = re.compile(r"(?<=<!-- architectures -->\n).*?(?=<!-- /architectures -->)", flags=re.DOTALL)
COLUMNS = (
    *("model", "targets", "layers", "trainable", "logits", "gradients", "files", "merged", "disabled"),
    *("greedy tokens", "checkpointing", "all-linear"),
)


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--dry-run", action="store_true", help="print the table, leave the page as it is")
    return parser


def main() -> None:
    args = build_parser().parse_args()
    warnings.simplefilter("ignore")
    lines = [line(COLUMNS), line("---" for _ in COLUMNS)]
    print(*lines, sep="\n")
    for name in ROWS:
        with tempfile.TemporaryDirectory() as folder:
            pair = Pair(name, Path(folder))
            lines.append(line([*fixed_cells(pair), *measured_cells(pair)]))
        print(lines[-1], flush=True)
    if not args.dry_run:
        page = PAGE.read_text(encoding="utf-8")
        PAGE.write_text(TABLE.sub(lambda _: "\n".join(lines) + "\n", page), encoding="utf-8")


def fixed_cells(pair: Pair) -> list[str]:
    """What does not depend on the machine: name, targets, layers, parameters."""
    targets = ", ".join(f"`{target}`" for target in pair.row.targets)
    fused = "".join(f", `{key}={value}`" for key, value in pair.row.fused.items())
    ours, theirs = pair.counts()
    return [pair.name, targets + fused, pair.kinds(), f"{ours:,}" if ours == theirs else f"{ours:,} (PEFT {theirs:,})"]


def measured_cells(pair: Pair) -> list[str]:
    """Differences to PEFT and to the model's other modes."""
    ours, theirs = all_linear(pair.name)
    return [
        number(max(pair.eval_distance(), pair.train_distance())),
        number(pair.gradient_distance()),
        number(max(pair.reading_distance(), pair.returning_distance())),
        ", ".join(map(number, pair.merged_distances())),
        verdict(pair.disabled_is_base()),
        verdict(pair.generates_the_same()),
        ", ".join(number(pair.checkpointing_distance(use_reentrant)) for use_reentrant in (False, True)),
        "PEFT refuses" if theirs is None else verdict(ours == theirs),
    ]


def number(value: float | None) -> str:
    """One digit, or a dash for what a model does not have."""
    if value is None:
        return "–"
    return f"{value:.0e}" if value else "0"


def verdict(same: bool | None) -> str:
    """A word, or a dash for what a model does not have."""
    return "–" if same is None else ("same" if same else "DIFFERENT")


def line(cells: Iterable[str]) -> str:
    """A row in Markdown."""
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
