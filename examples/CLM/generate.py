"""From prompts to texts: the rows, the model with its adapters, batches, the file."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import IO, Any

from clm.command_lines import generate_parser as build_parser

from examples.common.help import answer_early

if __name__ == "__main__":
    answer_early(build_parser)  # before imports that take seconds

import torch
from clm.features import Tokens
from clm.generation import Decoding, Prompt, generate
from clm.kept_texts import KeptTexts
from clm.model import position_limit
from clm.opening import Opened, open_model
from clm.sources import Row, read_rows
from clm.texts import dialogue
from transformers import TextStreamer, set_seed
from transformers.utils import logging

from examples.common.errors import UserError, run_main, warn
from examples.common.files import atomic_write, refuse_overwriting
from examples.common.progress import with_progress
from examples.common.record import SLOW_BFLOAT16, computes_bfloat16


def main() -> None:
    args = build_parser().parse_args()
    decoding = Decoding(**{name: getattr(args, name) for name in Decoding.__dataclass_fields__})
    decoding.check()
    if not args.prompt and not args.input:
        raise UserError("give --prompt or --input")
    if args.batch_size < 1:
        raise UserError(f"--batch_size must be at least 1, got {args.batch_size}")
    if args.output:
        refuse_overwriting([args.output, f"{args.output}.partial"], [args.input])
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    rows = [Row(f"--prompt {number}", {"prompt": text}) for number, text in enumerate(args.prompt, start=1)]
    rows += read_rows(args.input) if args.input else []
    if args.dtype == "bfloat16" and not computes_bfloat16():
        warn(f"--dtype bfloat16: {SLOW_BFLOAT16}")
    opened = open_model(args.model, args.adapter, getattr(torch, args.dtype))
    prompts, sources = make_prompts(rows, opened, chat=args.chat, separator=args.separator)
    set_seed(args.seed)
    terminal = sys.stdout.isatty() and not args.output
    alone = len(prompts) == decoding.num_beams == decoding.num_return_sequences == 1 and not args.output
    streamer = TextStreamer(opened.tokenizer, skip_prompt=True, skip_special_tokens=True) if alone else None
    if not (terminal or args.stream):
        streamer = None
    size = args.batch_size
    options: dict[str, Any] = {"batch_size": size, "adapters": opened.adapters, "streamer": streamer}
    made = partial(generate, opened.model, opened.tokenizer, prompts, decoding, **options)
    batches = math.ceil(len(prompts) / size)
    if args.output:
        settings = {**vars(decoding), "seed": args.seed, "batch_size": size, "dtype": args.dtype}
        with KeptTexts(Path(args.output), settings, prompts, opened.folders) as kept:
            for texts in with_progress(made(done=kept.found), batches - math.ceil(len(kept.found) / size), "batch"):
                kept.add(texts)
            with atomic_write(Path(args.output)) as stream:
                write(stream, prompts, sources, kept.found)
            kept.remove()
        return
    found: dict[int, list[str]] = {}
    for texts in with_progress(made(), batches, "batch", quiet=alone):
        found |= texts
    if streamer is None:
        for index in range(len(prompts)):
            for text in found[index]:
                print(text)


def make_prompts(
    rows: Sequence[Row], opened: Opened, *, chat: bool, separator: str | None
) -> tuple[list[Prompt], list[Row]]:
    """Prompts and the row of each. With several adapters, a row that names none is continued by every one of them.

    Raises:
        UserError: a row without a prompt, or with an unknown adapter.
    """
    facts = opened.facts
    chat = chat or (facts is not None and facts.chat)
    between = separator if separator is not None else facts.separator if facts is not None else "\n"
    tokens = Tokens(opened.tokenizer, position_limit(opened.model))
    prompts, sources = [], []
    for row in rows:
        example = dialogue(row, separator=between, chat=chat, needs_response=False)
        wanted = row.fields.get("adapter")
        if wanted is not None and wanted not in opened.names:
            raise UserError(f"{row.where}: unknown adapter {wanted!r}, expected one of {', '.join(opened.names)}")
        for name in [wanted] if wanted is not None else opened.names or [None]:
            prompts.append(Prompt(row.where, tokens.prompt_of(example), name))
            sources.append(row)
    return prompts, sources


def write(stream: IO[str], prompts: Sequence[Prompt], rows: Sequence[Row], texts: dict[int, list[str]]) -> None:
    """Each text on a line of its own, behind the fields of its row."""
    for index, (prompt, row) in enumerate(zip(prompts, rows)):
        for text in texts[index]:
            adapter = {"adapter": prompt.adapter} if prompt.adapter is not None else {}
            stream.write(json.dumps({**row.fields, **adapter, "generated": text}, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    run_main(main)
