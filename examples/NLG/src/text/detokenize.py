"""Predictions and references as text: grouped by prompt, cleaned alike, one line each in the scorers' files."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from examples.common.errors import UserError
from examples.common.files import atomic_write, make_folder, read_jsonl, read_lines
from text.bpe import END_OF_TEXT, BytePairEncoding

REF_TYPES = ("e2e", "webnlg", "dart")
FILTERS = ("all", "seen", "unseen")
REFERENCE_NAME = re.compile(r"reference(\d+)")
HALF_PAIR = re.compile("[\ud800-\udfff]")  # JSON can write it, UTF-8 cannot
LINE_BREAK = re.compile("\r\n|[\n\v\f\r\x1c-\x1e\x85\u2028\u2029]")  # where str.splitlines breaks


@dataclass
class Group:
    """The references of all rows with one key, and the prediction for them."""

    context: str
    first_line: int  # of the input file
    references: list[str] = field(default_factory=list)
    prediction: str | None = None


@dataclass(frozen=True)
class Inputs:
    """Rows of the input file: the key of each, and the groups kept by the filter, in order of first appearance."""

    keys: list[str] | list[int]
    groups: dict[str | int, Group]


def read_references(path: str | Path, filter: str = "all", keys: list[int] | None = None) -> Inputs:
    """Groups the references of a ``*_formatted.jsonl`` file.

    Args:
        path: rows with ``context`` and ``completion``; with ``cate`` where a filter needs it.
        filter: ``seen`` keeps rows whose ``cate`` is true, ``unseen`` the others.
        keys: one per row; rows of one key form a group. The key is the context where this is None.

    Raises:
        UserError: a row without what is needed, no row left, or another number of keys than rows.
    """
    contexts: list[str] = []
    groups: dict[str | int, Group] = {}
    needed = ("context", "completion") if filter == "all" else ("context", "completion", "cate")
    for number, row in read_jsonl(path, keys=needed):
        context, completion = row["context"], row["completion"]
        if not isinstance(context, str) or not isinstance(completion, str):
            raise UserError(f"{path} line {number}: expected texts, as *_formatted.jsonl files have")
        if HALF_PAIR.search(context + completion):
            raise UserError(f"{path} line {number}: half a surrogate pair is no text: {completion[:40]!a}")
        contexts.append(context)
        if keys is not None and number > len(keys):
            continue
        if filter == "all" or bool(row["cate"]) == (filter == "seen"):
            key = context if keys is None else keys[number - 1]
            groups.setdefault(key, Group(context, number)).references.append(cut_text(completion))
    if keys is not None and len(keys) != len(contexts):
        raise UserError(f"{path} has {len(contexts)} rows, but the file of unique ids has {len(keys)}")
    if not groups:
        raise UserError(f"{path}: --filter {filter} leaves no row")
    return Inputs(contexts if keys is None else keys, groups)


def read_unique_ids(path: str | Path) -> list[int]:
    """Reads one integer per line."""
    ids = []
    for number, line in read_lines(path):
        try:
            ids.append(int(line))
        except ValueError:
            raise UserError(f"{path} line {number}: expected an integer, got {line[:40]!r}") from None
    return ids


def add_predictions(path: str | Path, inputs: Inputs, bpe: BytePairEncoding, eos_ids: Collection[int]) -> None:
    """Gives every group its prediction; among several of one group the last line wins.

    Args:
        path: rows with ``id``, the row number in the input file from 0, and ``predict``, token ids.
        eos_ids: a prediction ends before the first of these.

    Raises:
        UserError: a broken line, or groups without a prediction.
    """
    for number, row in read_jsonl(path, keys=("id", "predict")):
        where = f"{path} line {number}"
        id, tokens = row["id"], row["predict"]
        if type(id) is not int or id < 0:
            raise UserError(f"{where}: 'id' must be a row number from 0, got {id!r:.40}")
        if id >= len(inputs.keys):
            raise UserError(f"{where}: id {id}, but the input file has only {len(inputs.keys)} rows")
        if not isinstance(tokens, list) or not all(type(token) is int for token in tokens):
            raise UserError(f"{where}: 'predict' must be a list of token ids, got {tokens!r:.40}")
        try:
            text = prediction_text(tokens, bpe, eos_ids)
        except UserError as error:
            raise UserError(f"{where}: {error}") from None
        if group := inputs.groups.get(inputs.keys[id]):
            group.prediction = text
    without = [group for group in inputs.groups.values() if group.prediction is None]
    if without:
        raise UserError(
            f"{path} has no prediction for {len(without)} of {len(inputs.groups)} inputs, "
            f"first line {without[0].first_line}: {without[0].context[:60]!r}"
        )


def prediction_text(tokens: Sequence[int], bpe: BytePairEncoding, eos_ids: Collection[int]) -> str:
    """Text of generated ids up to the first end id; every id must be in the vocabulary, also those after it."""
    whole = bpe.decode(tokens)
    end = next((index for index, token in enumerate(tokens) if token in eos_ids), None)
    return cut_text(whole if end is None else bpe.decode(tokens[:end]))


def cut_text(text: str) -> str:
    """The text before ``<|endoftext|>`` and before the first blank line, without outer white space."""
    return text.split(END_OF_TEXT)[0].split("\n\n")[0].strip()


def finish(text: str, *, tokenize: bool, lower: bool) -> str:
    """One line: lower-cased and tokenised where asked for, line breaks replaced by blanks."""
    if lower:
        text = text.lower()
    if tokenize:
        # As released: every non-word character stands alone ("don ' t", "12 . 5"). WebNLG and DART scores depend on it.
        text = " ".join(" ".join(re.split(r"(\W)", text)).split())
    return LINE_BREAK.sub(" ", text)


def write_e2e(groups: Collection[Group], ref_file: Path, pred_file: Path, *, tokenize: bool, lower: bool) -> None:
    """Writes references, a blank line after each group, and one prediction per line; both files or none."""
    with atomic_write(ref_file) as references, atomic_write(pred_file) as predictions:
        for group in groups:
            for reference in group.references:
                line = finish(reference, tokenize=tokenize, lower=lower)
                if not line:
                    raise UserError(f"a reference of {group.context[:60]!r} is empty, which would end its group")
                references.write(f"{line}\n")
            references.write("\n")
            predictions.write(f"{finish(group.prediction or '', tokenize=tokenize, lower=lower)}\n")


def write_numbered(
    groups: Collection[Group], folder: Path, pred_file: Path, *, ref_num: int, tokenize: bool, lower: bool
) -> None:
    """Writes ``reference0`` ... in ``folder``, one line per group each, and the predictions; all files or none.

    A group with fewer than ``ref_num`` references repeats its first one, further references are left out: as
    released, scores depend on it. Reference files of higher number from an earlier run are removed.
    """
    make_folder(folder)
    with contextlib.ExitStack() as stack:
        references = [stack.enter_context(atomic_write(folder / f"reference{n}")) for n in range(ref_num)]
        predictions = stack.enter_context(atomic_write(pred_file))
        for group in groups:
            for n, stream in enumerate(references):
                reference = group.references[n if n < len(group.references) else 0]
                stream.write(f"{finish(reference, tokenize=tokenize, lower=lower)}\n")
            predictions.write(f"{finish(group.prediction or '', tokenize=tokenize, lower=lower)}\n")
    for old in folder.glob("reference*"):
        number = REFERENCE_NAME.fullmatch(old.name)
        if number and int(number[1]) >= ref_num:
            old.unlink()
