"""Trains a byte-level BPE vocabulary and writes it as GPT-2's two files, ``encoder.json`` and ``vocab.bpe``.

    python scripts/quickstart/vocabulary.py OUT TEXT... --vocab_size 1024   (PYTHONPATH: scripts and examples/NLG/src)

The texts are corpora in the E2E form; the ``||`` between the two parts is no text and is left out. As in GPT-2, the 256
bytes and the merges come first and ``<|endoftext|>`` is the last id, so a vocabulary of V has V - 257 merges.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Iterator
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from examples.common.errors import UserError, run_main
from examples.common.files import atomic_write, make_folder, read_lines

END_OF_TEXT = "<|endoftext|>"
BYTES = 256


def corpus_texts(paths: Iterable[str | Path]) -> Iterator[str]:
    """Contexts and completions of E2E-form files, completions with the blank that the encoder puts before them."""
    for path in paths:
        for _, line in read_lines(path):
            context, separator, completion = line.partition("||")
            yield context
            if separator:
                yield f" {completion}"


def train_bpe(texts: Iterable[str], vocab_size: int) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Byte-level BPE of at most ``vocab_size`` tokens.

    Returns:
        Token to id (bytes, merges in order, then ``<|endoftext|>``), and the merges by rank. Fewer than
        ``vocab_size`` where the texts run out of pairs that occur twice.
    """
    if vocab_size <= BYTES:
        raise UserError(f"--vocab_size {vocab_size}: expected more than {BYTES}, the bytes and {END_OF_TEXT}")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - 1,
        min_frequency=2,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        special_tokens=[],
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer=trainer)
    model = json.loads(tokenizer.to_str())["model"]
    merges = [(left, right) for left, right in model["merges"]]
    encoder = dict(sorted(model["vocab"].items(), key=lambda item: item[1]))
    encoder[END_OF_TEXT] = len(encoder)
    return encoder, merges


def write_vocabulary(folder: str | Path, encoder: dict[str, int], merges: list[tuple[str, str]]) -> None:
    """Writes ``encoder.json`` and ``vocab.bpe`` into ``folder``."""
    folder = make_folder(folder)
    with atomic_write(folder / "encoder.json") as stream:
        json.dump(encoder, stream)
    with atomic_write(folder / "vocab.bpe") as stream:
        stream.write("#version: 0.2\n")
        stream.writelines(f"{left} {right}\n" for left, right in merges)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", metavar="OUT", help="folder to write encoder.json and vocab.bpe into")
    parser.add_argument("texts", metavar="TEXT", nargs="+", help="corpora in the E2E form")
    parser.add_argument("--vocab_size", type=int, default=1024, help="tokens, <|endoftext|> among them (default: 1024)")
    args = parser.parse_args()
    encoder, merges = train_bpe(corpus_texts(args.texts), args.vocab_size)
    write_vocabulary(args.out, encoder, merges)
    print(f"{args.out}: {len(encoder)} tokens, {len(merges)} merges, {END_OF_TEXT} = {encoder[END_OF_TEXT]}")


if __name__ == "__main__":
    run_main(main)
