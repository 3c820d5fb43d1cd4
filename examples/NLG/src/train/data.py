"""Rows of token ids become tensors: what the model reads, what it should predict, and where that counts."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from examples.common.errors import UserError, warn
from examples.common.files import read_jsonl

PAD = 0  # any id would do: no real position attends to the right, and the mask leaves padding out of the loss
MAX_ID = 2**31 - 1


@dataclass(frozen=True)
class Row:
    """One example; both parts end with the end-of-text id when the encoder was asked for it."""

    context: Sequence[int]
    completion: Sequence[int]


@dataclass(frozen=True)
class Batch:
    """Examples for the loss. T is one more than the last position that counts in any row, at most S."""

    ids: list[int]  # row numbers in the file
    input: Tensor  # (B, T) int64
    target: Tensor  # (B, T) int64, already shifted
    mask: Tensor  # (B, T) float32
    counted: Tensor | None = None  # (n,) int64, positions of the ones in the flattened mask; found on a CPU

    @property
    def weight(self) -> Tensor:
        """Scalar: the number of tokens that count."""
        return self.mask.sum()

    def to(self, device: torch.device | str) -> Batch:
        """The same batch on ``device``; from pinned memory the copy does not wait."""
        return self._with(lambda tensor: tensor.to(device, non_blocking=True))

    def pinned(self) -> Batch:
        """The same batch in memory that a GPU copies from by itself."""
        return self._with(Tensor.pin_memory)

    def _with(self, change: Callable[[Tensor], Tensor]) -> Batch:
        counted = None if self.counted is None else change(self.counted)
        return Batch(self.ids, change(self.input), change(self.target), change(self.mask), counted)


def read_rows(path: str | Path, vocab_size: int | None = None, *, need_completion: bool = True) -> list[Row]:
    """Reads the token ids that ``gpt2_encode.py`` wrote.

    Args:
        path: JSON lines with ``context`` and ``completion``, lists of ids.
        vocab_size: ids must be smaller than this, where given.
        need_completion: False: rows may do without (decoding); then it is read as empty.

    Raises:
        UserError: names file and line of a row that is broken, empty, or has ids that the model cannot embed.
    """
    rows = []
    keys = ("context", "completion")
    for number, raw in read_jsonl(path, keys=keys if need_completion else keys[:1]):
        where = f"{path} line {number}"
        row = Row(*(_ids(raw.get(key, []), f"{where}: {key!r}", vocab_size) for key in keys))
        if not row.context and not row.completion:
            raise UserError(f"{where}: context and completion are both empty")
        rows.append(row)
    return rows


def _ids(value: object, where: str, vocab_size: int | None) -> array[int]:
    if not isinstance(value, list):
        raise UserError(
            f"{where} must be a list of token ids, got {_shown(value)}; encode the text with gpt2_encode.py"
        )
    for token in value:
        if type(token) is not int or not 0 <= token <= MAX_ID:
            raise UserError(f"{where} must hold token ids (integers from 0), got {_shown(token)}")
        if vocab_size is not None and token >= vocab_size:
            raise UserError(f"{where} holds the id {token}, but the model's vocabulary ends at {vocab_size - 1}")
    return array("i", value)  # 4 bytes an id instead of the 36 of a list: each process keeps all rows


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:40]}..."


class FT_Dataset:
    """Examples of one file, S ids long at most.

    With Q = context and Y = completion, the model reads Q + Y. The loss counts on Y alone (clm), or on every prediction
    (jlm). Rows longer than S lose their end, prompts for decoding lose their beginning.

    Args:
        path: JSON lines of token ids.
        batch_size: at least 1; checked here, used by ``sampler.global_batches``.
        max_seq_length: S.
        max_eval_length: ids that decoding will append; prompts keep their last S - max_eval_length ids. Above 0, rows
            may lack the completion.
        joint_lm: the loss counts on the context too.
        vocab_size: checks the ids of the file, see ``read_rows``.
        quiet: no warning about rows that are cut (for all processes but the first).

    Raises:
        UserError: an unusable file or size.
    """

    def __init__(
        self,
        path: str | Path,
        batch_size: int,
        max_seq_length: int,
        max_eval_length: int = 0,
        joint_lm: bool = False,
        *,
        vocab_size: int | None = None,
        quiet: bool = False,
    ) -> None:
        if batch_size < 1:
            raise UserError(f"the batch size must be at least 1, got {batch_size}")
        if max_eval_length < 0 or max_seq_length - max_eval_length < 1:
            raise UserError(
                f"no room for a prompt: a sequence length of {max_seq_length} must exceed "
                f"the {max_eval_length} ids to generate, and neither may be negative"
            )
        self.path = Path(path)
        self.max_seq_length = max_seq_length
        self.max_query_length = max_seq_length - max_eval_length
        self.joint_lm = joint_lm
        self.rows = read_rows(path, vocab_size, need_completion=max_eval_length == 0)
        if not quiet:
            self._warn_of_cut_rows(for_decoding=max_eval_length > 0)

    @property
    def lengths(self) -> list[int]:
        """Of each row, the positions that ``batch`` needs for it; those after the last one that counts are not needed.

        Like T of ``Batch``; a row without completion has none.
        """
        return [len(self._example(row)[2]) for row in range(self.n_rows)]

    @property
    def n_rows(self) -> int:
        """Rows in the file."""
        return len(self.rows)

    def batch(self, ids: Sequence[int]) -> Batch:
        """Stacks rows for the loss.

        Args:
            ids: row numbers, 0 ... n_rows - 1; at least one.

        Returns:
            The columns up to the last one that counts. Those behind it no loss and, attention being causal, no other
            position sees.
        """
        examples = [self._example(row) for row in ids]
        T = max([1, *(len(mask) for _, _, mask in examples)])
        input, target, mask = (torch.tensor([_padded(e[part], T) for e in examples]) for part in range(3))
        return Batch(list(ids), input.long(), target.long(), mask.float(), mask.flatten().nonzero().squeeze(1))

    def query(self, row: int) -> list[int]:
        """The prompt of a row: its context, the last ids of it where it is too long."""
        return [*self.rows[row].context][-self.max_query_length :]

    def _example(self, row: int) -> tuple[list[int], list[int], list[int]]:
        """Input, target and mask before padding. The mask ends with its last 1."""
        S, context, completion = self.max_seq_length, self.rows[row].context, self.rows[row].completion
        read = [*context, *completion]
        n_query, n = len(context), min(len(read), S)
        # As released: the last position of a cut row does not count although its target is known, and an empty query
        # counts one position whose target is padding.
        if self.joint_lm:
            mask = [1] * (n - 1)
        else:
            mask = [0] * (n_query - 1) + [1] * (n - n_query) if n > n_query else []
        return read[:S], read[1 : S + 1], mask

    def _warn_of_cut_rows(self, *, for_decoding: bool) -> None:
        queries = [len(row.context) for row in self.rows]
        if for_decoding:
            cut = sum(query > self.max_query_length for query in queries)
            if cut:
                warn(f"{self.path}: {cut} of {self.n_rows} prompts are over {self.max_query_length} ids: start cut off")
            return
        S = self.max_seq_length
        cut = sum(query + len(row.completion) > S for query, row in zip(queries, self.rows))
        if cut:
            lost = 0 if self.joint_lm else sum(query >= S for query in queries)
            warn(
                f"{self.path}: {cut} of {self.n_rows} rows are longer than {S} ids and lose their end; "
                f"{lost} of them have no completion left to learn from"
            )


def _padded(ids: list[int], length: int) -> list[int]:
    return ids[:length] + [PAD] * (length - len(ids))
