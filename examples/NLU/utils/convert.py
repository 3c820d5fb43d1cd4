"""Gives a checkpoint from before the release its released names, keeping everything: ``python convert.py IN OUT``."""

from __future__ import annotations

import argparse
from pathlib import Path

from state_dicts import modern_names, write

from examples.common.errors import run_main
from examples.common.files import refuse_overwriting
from examples.common.tensors import read_tensors


def build_parser() -> argparse.ArgumentParser:
    """The two files."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source", type=Path, help="checkpoint (.bin or .safetensors)")
    parser.add_argument("target", type=Path, help="file to write")
    return parser


def main() -> None:
    args = build_parser().parse_args()
    refuse_overwriting([args.target], [args.source])
    weights = read_tensors(args.source)
    converted = modern_names(weights)
    for old, new in zip(weights, converted):
        if old != new:
            print(f"{old} -> {new}")
    write(args.target, converted)


if __name__ == "__main__":
    run_main(main)
