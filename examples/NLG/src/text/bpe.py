"""GPT-2's byte-level byte-pair encoding: text to token ids and back, without any special-token handling."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel

from examples.common.errors import UserError
from examples.common.files import open_binary, read_lines

END_OF_TEXT = "<|endoftext|>"
FILE_NAMES = (("encoder.json", "vocab.bpe"), ("vocab.json", "merges.txt"))  # as released; as on the Hugging Face hub


def _bytes_as_characters() -> dict[int, str]:
    """The printable character that stands for each byte in vocabulary files.

    Printable characters of Latin-1 stand for themselves; the other bytes, in order, for U+0100 and following.
    Source: Radford et al. 2019, Section 2.2 (byte-level BPE).
    """
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = [byte for byte in range(256) if byte not in printable]
    return {byte: chr(byte) for byte in printable} | {byte: chr(0x100 + i) for i, byte in enumerate(others)}


CHARACTER_OF_BYTE = _bytes_as_characters()
BYTE_OF_CHARACTER = {character: byte for byte, character in CHARACTER_OF_BYTE.items()}


class BytePairEncoding:
    """A vocabulary of byte strings and the merges that build them.

    Text that spells ``<|endoftext|>`` is text: it becomes ordinary ids, never ``end_of_text``.

    Args:
        vocabulary: token (bytes as printable characters) to id; ids 0 ... n-1, all 256 single bytes among the tokens.
        merges: pairs of tokens, the first joined first.

    Raises:
        ValueError: a vocabulary or merges that cannot encode every text.
    """

    def __init__(self, vocabulary: dict[str, int], merges: Sequence[tuple[str, str]]) -> None:
        _check(vocabulary, merges)
        self._bytes = [b""] * len(vocabulary)
        for token, id in vocabulary.items():
            self._bytes[id] = bytes(BYTE_OF_CHARACTER[character] for character in token)
        self._end_of_text = vocabulary.get(END_OF_TEXT)
        self._tokenizer = Tokenizer(BPE(vocabulary, list(merges)))
        self._tokenizer.pre_tokenizer = ByteLevel(add_prefix_space=False, use_regex=True)

    @property
    def vocab_size(self) -> int:
        """Number of ids."""
        return len(self._bytes)

    @property
    def end_of_text(self) -> int:
        """Id of ``<|endoftext|>``, 50256 in GPT-2's vocabulary."""
        if self._end_of_text is None:
            raise UserError(f"the vocabulary has no {END_OF_TEXT} entry, which ends contexts and completions")
        return self._end_of_text

    def encode(self, text: str) -> list[int]:
        """Token ids of ``text``."""
        return self.encode_batch([text])[0]

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text; much faster than one by one.

        Raises:
            UserError: a text with half a surrogate pair, which no bytes stand for.
        """
        try:
            return [encoding.ids for encoding in self._tokenizer.encode_batch_fast(texts)]
        except (UnicodeEncodeError, TypeError):
            for text in texts:
                try:
                    text.encode("utf-8")
                except UnicodeEncodeError as error:
                    shown = text[max(0, error.start - 20) : error.end + 20]
                    raise UserError(f"half a surrogate pair is no text: {shown!a}") from None
            raise

    def decode(self, ids: Iterable[int]) -> str:
        """Text of token ids; bytes that are not UTF-8 become U+FFFD.

        Raises:
            UserError: an id outside the vocabulary.
        """
        parts = []
        for id in ids:
            if not 0 <= id < self.vocab_size:
                raise UserError(f"token id {id} is outside the vocabulary of ids 0 to {self.vocab_size - 1}")
            parts.append(self._bytes[id])
        return b"".join(parts).decode("utf-8", errors="replace")


def vocabulary_files(folder: str | Path) -> list[Path]:
    """The files that ``load_bpe`` may read."""
    return [Path(folder) / name for names in FILE_NAMES for name in names]


def load_bpe(folder: str | Path) -> BytePairEncoding:
    """Reads a vocabulary folder: ``encoder.json`` and ``vocab.bpe``, or ``vocab.json`` and ``merges.txt``.

    Raises:
        UserError: names the file that is missing or broken.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"the vocabulary folder {folder} does not exist; download_pretrained_checkpoints.sh fetches it")
    for vocabulary_name, merges_name in FILE_NAMES:
        if (folder / vocabulary_name).exists() and (folder / merges_name).exists():
            break
    else:
        wanted = " nor ".join(" with ".join(names) for names in FILE_NAMES)
        raise UserError(f"the vocabulary folder {folder} holds neither {wanted}")
    vocabulary = _read_vocabulary(folder / vocabulary_name)
    merges = _read_merges(folder / merges_name)
    try:
        return BytePairEncoding(vocabulary, merges)
    except ValueError as error:
        raise UserError(f"the vocabulary in {folder} is broken: {error}") from None


def _read_vocabulary(path: Path) -> dict[str, int]:
    try:
        with open_binary(path) as stream:
            vocabulary: Any = json.load(stream)
    except (ValueError, RecursionError) as error:  # not JSON, or not UTF-8
        raise UserError(f"{path} is not JSON ({error})") from None
    if not isinstance(vocabulary, dict) or not all(type(id) is int for id in vocabulary.values()):
        raise UserError(f"{path}: expected a JSON object of token: id")
    return vocabulary


def _read_merges(path: Path) -> list[tuple[str, str]]:
    merges = []
    for number, line in read_lines(path):
        line = line.rstrip("\r")
        if not line or (number == 1 and line.startswith("#version")):
            continue
        pair = line.split(" ")
        if len(pair) != 2 or not all(pair):
            raise UserError(f"{path} line {number}: expected two tokens with one blank between, got {line[:40]!r}")
        merges.append((pair[0], pair[1]))
    return merges


def _check(vocabulary: dict[str, int], merges: Sequence[tuple[str, str]]) -> None:
    if sorted(vocabulary.values()) != list(range(len(vocabulary))):
        raise ValueError(f"{len(vocabulary)} entries must have the ids 0 to {len(vocabulary) - 1}, each once")
    if missing := [byte for byte, character in CHARACTER_OF_BYTE.items() if character not in vocabulary]:
        raise ValueError(f"{len(missing)} of the 256 single bytes have no entry, first {bytes(missing[:1])!r}")
    for token in vocabulary:
        if not BYTE_OF_CHARACTER.keys() >= set(token):
            raise ValueError(f"the entry {token!r} has characters that stand for no byte")
    for left, right in merges:
        for token in (left, right, left + right):
            if token not in vocabulary:
                raise ValueError(f"the merge {left!r} {right!r} needs the entry {token!r}, which is missing")
