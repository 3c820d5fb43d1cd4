"""Whether predictions and inputs belong together, by the record that ``gpt2_beam.py`` writes beside its predictions."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from examples.common.errors import UserError
from examples.common.files import open_binary, read_jsonl, sha256_of
from text.bpe import BytePairEncoding
from text.detokenize import Inputs


@dataclass(frozen=True)
class DecodingRecord:
    """What the record beside a file of predictions says of the run that made it: its data and where texts end."""

    data: Path
    data_sha256: str
    rows: int
    eos_token_ids: frozenset[int]


def read_record(predictions: str | Path) -> DecodingRecord | None:
    """Reads ``<predictions>.run.json``; None where there is none, as with predictions of other programs.

    Raises:
        UserError: it is no record of ``gpt2_beam.py``.
    """
    path = Path(f"{predictions}.run.json")
    if not path.exists():
        return None
    try:
        with open_binary(path) as stream:
            record = json.load(stream)
        data, settings = record["files"]["data"], record["settings"]
        eos_token_ids = frozenset(settings["eos_token_ids"])
        if {type(record["rows"]), *map(type, eos_token_ids)} - {int}:
            raise TypeError("whole numbers were expected")
        return DecodingRecord(Path(data["path"]), data["sha256"], record["rows"], eos_token_ids)
    except (ValueError, LookupError, TypeError, RecursionError):
        raise UserError(f"{path} is no record of gpt2_beam.py; remove it to use {predictions} without") from None


def check_record(record: DecodingRecord, input_file: str, inputs: Inputs, bpe: BytePairEncoding) -> None:
    """Refuses predictions that were decoded from other inputs than those of ``input_file``.

    The texts are compared with the token ids that were decoded, where that file is still there; else their number.

    Raises:
        UserError: names the first row that differs.
    """
    if record.rows != len(inputs.keys):
        raise UserError(
            f"{input_file} has {len(inputs.keys)} rows, but the predictions are for the {record.rows} of "
            f"{record.data}; give the *_formatted.jsonl of the same split"
        )
    if not all(isinstance(key, str) for key in inputs.keys):
        return  # rows are grouped by ids of the user, not by their texts
    if not record.data.is_file() or sha256_of(record.data) != record.data_sha256:
        return
    encoded = bpe.encode_batch(inputs.keys)  # type: ignore[arg-type]
    for (number, row), ids in zip(read_jsonl(record.data, keys=("context",)), encoded):
        if row["context"] not in (ids, [*ids, bpe.end_of_text]):
            raise UserError(
                f"{input_file} line {number} is not the input that {record.data} has there, of which the predictions "
                "are; give the *_formatted.jsonl of the same split and the same --vocab"
            )
