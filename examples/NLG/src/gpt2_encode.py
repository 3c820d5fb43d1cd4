"""Encodes examples: text of ``format_converting_*.py`` to the token ids that training and decoding read."""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

from text.bpe import BytePairEncoding, load_bpe, vocabulary_files
from tqdm import tqdm

from examples.common.errors import UserError, run_main
from examples.common.files import atomic_write, read_jsonl, refuse_overwriting, remove_leftovers
from examples.common.help import HelpFormatter

ROWS_AT_ONCE = 1024  # texts are encoded by several threads, a block at a time


def main(argv: Sequence[str] | None = None) -> None:
    args = build_parser().parse_args(argv)
    refuse_overwriting([args.output], [args.input, *vocabulary_files(args.vocab)])
    bpe = load_bpe(args.vocab)
    rows = read_texts(args.input)
    remove_leftovers(args.output.parent, re.escape(args.output.name))
    with atomic_write(args.output) as output, tqdm(unit=" rows", delay=1, disable=None) as progress:
        while block := list(islice(rows, ROWS_AT_ONCE)):
            for encoded in encode_block(bpe, block, add_bos=args.add_bos, add_eos=args.add_eos):
                output.write(json.dumps(encoded) + "\n")
            progress.update(len(block))


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=HelpFormatter)
    parser.add_argument("--input", required=True, help="JSON lines with the texts context and completion")
    parser.add_argument("--vocab", required=True, help="folder with encoder.json and vocab.bpe")
    parser.add_argument("--output", required=True, type=Path, help="JSON lines with the token ids of both")
    parser.add_argument("--add_bos", action="store_true", help="end-of-text id after the context, as a separator")
    parser.add_argument("--add_eos", action="store_true", help="end-of-text id after the completion")
    return parser


def read_texts(path: str) -> Iterator[tuple[str, str, str]]:
    """(where, context, completion) of each row."""
    for number, row in read_jsonl(path, keys=("context", "completion")):
        where = f"{path} line {number}"
        for key in ("context", "completion"):
            if not isinstance(row[key], str):
                raise UserError(f"{where}: {key!r} must be a text, got {row[key]!r:.60}")
        yield where, row["context"], row["completion"]


def encode_block(
    bpe: BytePairEncoding, block: Sequence[tuple[str, str, str]], *, add_bos: bool, add_eos: bool
) -> list[dict[str, list[int]]]:
    """Encodes some rows. Completions get a leading blank, even a second one, as in the released code."""
    texts = [text for _, context, completion in block for text in (context, f" {completion}")]
    try:
        ids = bpe.encode_batch(texts)
    except UserError:
        _blame_line(bpe, block)
        raise
    after_context = [bpe.end_of_text] if add_bos else []
    after_completion = [bpe.end_of_text] if add_eos else []
    return [
        {"context": context + after_context, "completion": completion + after_completion}
        for context, completion in zip(ids[::2], ids[1::2])
    ]


def _blame_line(bpe: BytePairEncoding, block: Sequence[tuple[str, str, str]]) -> None:
    for where, *texts in block:
        try:
            bpe.encode_batch(texts)
        except UserError as error:
            raise UserError(f"{where}: {error}") from None


if __name__ == "__main__":
    run_main(main)
