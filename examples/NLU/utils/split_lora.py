"""Cuts LoRA and head out of a complete checkpoint: ``python split_lora.py pytorch_model.bin lora.bin``.

For checkpoints of the released code and of ``--save_full_model``; other runs of ``run_glue.py`` save this part alone.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from state_dicts import lora_and_head, write

from examples.common.errors import UserError, run_main
from examples.common.files import refuse_overwriting
from examples.common.tensors import read_tensors


def build_parser() -> argparse.ArgumentParser:
    """The two files."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source", type=Path, help="complete checkpoint (.bin or .safetensors)")
    parser.add_argument("target", type=Path, help="file to write")
    return parser


def main() -> None:
    args = build_parser().parse_args()
    refuse_overwriting([args.target], [args.source])
    chosen = lora_and_head(read_tensors(args.source))
    if not any("lora" in name for name in chosen):
        raise UserError(f"{args.source} holds no LoRA weights")
    for name, value in chosen.items():
        print(name, tuple(value.shape))
    write(args.target, chosen)


if __name__ == "__main__":
    run_main(main)
