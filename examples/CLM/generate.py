"""Continues prompts with a causal language model and its adapters; JSON lines in the order of the prompts."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import IO, NoReturn

from clm.features import Tokens
from clm.flags import DTYPES
from clm.generation import Decoding, Prompt, generate
from clm.model import position_limit
from clm.opening import Opened, open_model
from clm.sources import Row, read_rows
from clm.texts import dialogue
from tqdm import tqdm
from transformers import TextStreamer, set_seed
from transformers.utils import logging

from examples.common.errors import UserError, run_main
from examples.common.files import atomic_write, refuse_overwriting


class Parser(argparse.ArgumentParser):
    """A wrong flag is a ``UserError``."""

    def error(self, message: str) -> NoReturn:
        raise UserError(message)


def build_parser() -> Parser:
    """Parser of all flags."""
    parser = Parser(description=__doc__, allow_abbrev=False)
    add = parser.add_argument_group("model and prompts").add_argument
    add("--model", metavar="NAME", help="base model, or folder of a run; default: the base of the first adapter")
    add("--adapter", nargs="+", default=[], metavar="[NAME=]FOLDER", help="one, or several that share batches")
    add("--input", metavar="FILE", help="rows with prompt, context, instruction or messages; adapter: name of one")
    add("--prompt", nargs="+", default=[], metavar="TEXT", help="prompts themselves")
    add("--output", metavar="FILE", help="JSON lines; default: the texts on the terminal")
    add("--chat", action="store_true", help="put prompts into the chat template, as the run's own --chat does")
    add("--separator", help="behind a prompt without white space at its end; default: the run's own")
    add("--dtype", choices=DTYPES, default="float32", help="of the weights (default: float32)")
    add("--batch_size", type=int, default=8, metavar="N", help="prompts at once (default: 8)")
    add("--seed", type=int, default=42, metavar="N", help="of sampling (default: 42)")
    add("--stream", action="store_true", help="show a single text while it grows; on a terminal always")
    add = parser.add_argument_group("decoding (greedy without flags; the names are transformers')").add_argument
    add("--max_new_tokens", type=int, default=128, metavar="N", help="(default: 128)")
    add("--num_beams", type=int, default=1, metavar="N", help="beam search")
    add("--temperature", type=float, metavar="T", help="sample, from probabilities sharpened by 1/T")
    add("--top_k", type=int, metavar="K", help="sample from the K most probable tokens")
    add("--top_p", type=float, metavar="P", help="sample from the most probable tokens that make up P")
    add("--repetition_penalty", type=float, default=1.0, metavar="X", help="divide scores of tokens that occurred")
    add("--no_repeat_ngram_size", type=int, default=0, metavar="N", help="no N tokens twice")
    add("--length_penalty", type=float, default=1.0, metavar="X", help="of beams: score / length**X")
    add("--num_return_sequences", type=int, default=1, metavar="N", help="texts of each prompt")
    return parser


def main() -> None:
    args = build_parser().parse_args()
    decoding = Decoding(**{name: getattr(args, name) for name in Decoding.__dataclass_fields__})
    decoding.check()
    if not args.prompt and not args.input:
        raise UserError("give --prompt or --input")
    if args.batch_size < 1:
        raise UserError(f"--batch_size must be at least 1, got {args.batch_size}")
    if args.output:
        refuse_overwriting([args.output], [args.input])
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    rows = [Row(f"--prompt {number}", {"prompt": text}) for number, text in enumerate(args.prompt, start=1)]
    rows += read_rows(args.input) if args.input else []
    opened = open_model(args.model, args.adapter, DTYPES[args.dtype])
    prompts, sources = make_prompts(rows, opened, chat=args.chat, separator=args.separator)
    set_seed(args.seed)
    terminal = sys.stdout.isatty() and not args.output
    alone = len(prompts) == decoding.num_beams == decoding.num_return_sequences == 1 and not args.output
    streamer = TextStreamer(opened.tokenizer, skip_prompt=True, skip_special_tokens=True) if alone else None
    if not (terminal or args.stream):
        streamer = None
    found: dict[int, list[str]] = {}
    with tqdm(total=len(prompts), disable=not sys.stderr.isatty() or alone, unit="prompt") as progress:
        for index, texts in generate(
            opened.model,
            opened.tokenizer,
            prompts,
            decoding,
            batch_size=args.batch_size,
            adapters=opened.adapters,
            streamer=streamer,
        ):
            found[index] = texts
            progress.update()
    if args.output:
        with atomic_write(Path(args.output)) as stream:
            write(stream, prompts, sources, found)
    elif streamer is None:
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
