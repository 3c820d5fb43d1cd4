"""Turns predicted token ids and their references into the text files that the scorers read."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from pathlib import Path

from text.bpe import load_bpe, vocabulary_files
from text.detokenize import (
    FILTERS,
    REF_TYPES,
    REFERENCE_NAME,
    add_predictions,
    read_references,
    read_unique_ids,
    write_e2e,
    write_numbered,
)
from text.prediction_record import check_record, read_record

from examples.common.errors import UserError, run_main
from examples.common.files import refuse_overwriting, remove_leftovers
from examples.common.help import HelpFormatter


def main(argv: Sequence[str] | None = None) -> None:
    args = build_parser().parse_args(argv)
    if args.ref_num < 1:
        raise UserError(f"--ref_num must be at least 1, got {args.ref_num}")
    check_outputs(args)
    bpe = load_bpe(args.vocab)
    keys = None
    if args.ref_unique_file is not None:
        print("reading ref_unique_file.")
        keys = read_unique_ids(args.ref_unique_file)
        print(f"len refer dict {len(keys)} unique {len(set(keys))}")
    inputs = read_references(args.input_file, args.filter, keys)
    print(f"unique refer dict {len(inputs.groups)}")
    eos_ids = {bpe.end_of_text, *args.eos_token_id}
    if record := read_record(args.sample_file):
        check_record(record, args.input_file, inputs, bpe)
        if foreign := set(args.eos_token_id) - record.eos_token_ids:
            raise UserError(f"--eos_token_id {min(foreign)}: gpt2_beam.py had only {sorted(record.eos_token_ids)}")
        eos_ids |= record.eos_token_ids
    add_predictions(args.sample_file, inputs, bpe, eos_ids)

    remove_leftovers(args.output_pred_file.parent, re.escape(args.output_pred_file.name))
    groups, style = inputs.groups.values(), {"tokenize": args.tokenize, "lower": args.lower}
    if args.ref_type == "e2e":
        remove_leftovers(args.output_ref_file.parent, re.escape(args.output_ref_file.name))
        write_e2e(groups, args.output_ref_file, args.output_pred_file, **style)
    else:
        remove_leftovers(args.output_ref_file, REFERENCE_NAME.pattern)
        write_numbered(groups, args.output_ref_file, args.output_pred_file, ref_num=args.ref_num, **style)


def check_outputs(args: argparse.Namespace) -> None:
    """Refuses files that are read and written, or written twice; of a folder, ``reference<number>`` is written."""
    inputs = [args.sample_file, args.input_file, args.ref_unique_file, *vocabulary_files(args.vocab)]
    outputs = [args.output_pred_file]
    if args.ref_type == "e2e":
        outputs.append(args.output_ref_file)
    else:
        others = [Path(path) for path in (*inputs, args.output_pred_file) if path is not None]
        outputs += [args.output_ref_file / path.name for path in others if REFERENCE_NAME.fullmatch(path.name)]
    refuse_overwriting(outputs, inputs)


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=HelpFormatter)
    parser.add_argument("--vocab", required=True, help="folder with encoder.json and vocab.bpe")
    parser.add_argument("--sample_file", required=True, help="predictions of gpt2_beam.py")
    parser.add_argument("--input_file", required=True, help="*_formatted.jsonl of the same split")
    parser.add_argument(
        "--output_ref_file", required=True, type=Path, help="references: a file for e2e, a folder for webnlg and dart"
    )
    parser.add_argument("--output_pred_file", required=True, type=Path, help="predictions, one line per distinct input")
    parser.add_argument(
        "--ref_unique_file", help="one integer per input line: rows with the same one are one input (default: context)"
    )
    parser.add_argument("--ref_type", choices=REF_TYPES, default="e2e", help="layout of the references (default: e2e)")
    parser.add_argument("--ref_num", type=int, default=4, help="reference files of webnlg and dart (default: 4)")
    parser.add_argument("--tokenize", action="store_true", help="put blanks around every non-word character")
    parser.add_argument("--lower", action="store_true", help="lower-case")
    parser.add_argument("--filter", choices=FILTERS, default="all", help="webnlg domains to keep (default: all)")
    parser.add_argument(
        "--eos_token_id",
        type=int,
        action="append",
        default=[],
        help="predictions also end at this id, repeatable (default: <|endoftext|> and, where SAMPLE_FILE.run.json is "
        "there, those of gpt2_beam.py)",
    )
    return parser


if __name__ == "__main__":
    run_main(main)
