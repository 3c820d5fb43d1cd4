"""Four kinds of scores, one a command; see ``clm.command_lines``."""

from __future__ import annotations

import argparse
import math
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from clm.command_lines import score_parser as build_parser

from examples.common.help import answer_early

if __name__ == "__main__":
    answer_early(build_parser)  # before imports that take seconds

import numpy as np
import torch
from clm.batches import Collator
from clm.features import IGNORED, Tokens
from clm.losses import finite, label_scores, language_scores, row_figures
from clm.model import position_limit
from clm.opening import Opened, open_model
from clm.sources import Row, read_rows
from clm.text_scores import GENERATED, REFERENCE, chrf, read_texts, rouge_l, same_length
from clm.texts import dialogue, plain_text
from transformers.utils import logging

from examples.common.errors import UserError, run_main
from examples.common.files import read_json, read_lines, write_json

E2E_SCORER = Path(__file__).resolve().parents[1] / "NLG" / "eval" / "e2e" / "measure_scores.py"


def main() -> None:
    args = build_parser().parse_args()
    scores = {"perplexity": _perplexity, "labels": _labels, "texts": _texts, "e2e": _e2e}[args.command](args)
    for name, value in scores.items():
        print(f"{name}: {value}", flush=True)
    if args.json:
        write_json(args.json, finite(scores))


def _perplexity(args: argparse.Namespace) -> dict[str, Any]:
    if args.batch_size < 1 or (args.max_seq_length is not None and args.max_seq_length < 2):
        raise UserError("expected --batch_size of at least 1 and --max_seq_length of at least 2")
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    rows = read_rows(args.input)
    opened = open_model(args.model, [args.adapter] if args.adapter else [], getattr(torch, args.dtype))
    longest = min(args.max_seq_length or 1024, position_limit(opened.model))
    return perplexity(opened, rows, longest, args.batch_size)


@torch.no_grad()
def perplexity(opened: Opened, rows: Sequence[Row], max_length: int, batch_size: int) -> dict[str, Any]:
    """Mean loss of the counted tokens, end tokens among them, and the same per byte of the text that they stand for.

    Of prompts with responses the responses count, else whole texts, in parts of ``max_length`` tokens.
    """
    tokens, features = Tokens(opened.tokenizer, max_length), []
    facts = opened.facts
    for row in rows:
        if "text" in row.fields or "sentence" in row.fields:
            features += tokens.of_text(plain_text(row), row.where)
        else:
            options = {"separator": facts.separator, "chat": facts.chat} if facts is not None else {}
            features.append(tokens.of_dialogue(dialogue(row, **options)))  # type: ignore[arg-type]
    tokens.report("input")
    collator = Collator(opened.tokenizer.pad_token_id)
    features.sort(key=lambda feature: -len(feature["input_ids"]))
    figures = []
    for start in range(0, len(features), batch_size):
        batch = {k: v.to(opened.model.device) for k, v in collator(features[start : start + batch_size]).items()}
        labels = batch.pop("labels")
        figures.append(row_figures(opened.model(**batch).logits, labels).cpu().numpy())
    counted = [[label for label in feature["labels"] if label != IGNORED] for feature in features]
    texts = opened.tokenizer.batch_decode(counted, skip_special_tokens=True)
    n_bytes = sum(len(text.encode("utf-8")) for text in texts)
    scores: dict[str, Any] = language_scores(np.concatenate(figures))
    scores["nats_per_token"] = scores.pop("loss")
    scores["bits_per_byte"] = scores["nats_per_token"] * scores["tokens"] / math.log(2) / max(n_bytes, 1)
    return {**scores, "bytes": n_bytes}


def _labels(args: argparse.Namespace) -> dict[str, Any]:
    if Path(args.predictions).name.endswith("_results.txt"):
        predicted = [line.partition("\t")[2] for _, line in read_lines(args.predictions)][1:]
    else:
        predicted = [_label(row, args.label_column) for row in read_rows(args.predictions)]
    labels = [_label(row, args.label_column) for row in read_rows(args.references)]
    same_length(predicted, labels, {"--predictions": args.predictions, "--references": args.references})
    return label_scores(predicted, labels)


def _label(row: Row, name: str) -> str:
    if name not in row.fields:
        raise UserError(f"{row.where}: field {name!r} is missing; found {', '.join(row.fields)}")
    return str(row.fields[name])


def _texts(args: argparse.Namespace) -> dict[str, Any]:
    hypotheses, references = read_texts(args.hypotheses, GENERATED), read_texts(args.references, REFERENCE)
    same_length(hypotheses, references, {"--hypotheses": args.hypotheses, "--references": args.references})
    found: dict[str, Any] = {}
    for score in (chrf(hypotheses, references), rouge_l(hypotheses, references)):
        found |= {score.name: score.value, f"{score.name} settings": score.settings}
    return found


def _e2e(args: argparse.Namespace) -> dict[str, Any]:
    """The figures of the scorer of examples/NLG: BLEU, METEOR and ROUGE-L as fractions."""
    hypotheses = read_texts(args.hypotheses, GENERATED)
    with tempfile.TemporaryDirectory() as folder:
        lines, scores = Path(folder) / "hypotheses.txt", Path(folder) / "scores.json"
        lines.write_text("".join(f"{' '.join(text.split())}\n" for text in hypotheses), encoding="utf-8")
        command = [sys.executable, str(E2E_SCORER), args.references, str(lines), "--json", str(scores)]
        command += ["--python"] if args.python else []
        command += ["--slots", args.slots] if args.slots else []
        command += ["--seg-level", args.seg_level] if args.seg_level else []
        result = subprocess.run(command, check=False, capture_output=True, text=True)
        said = result.stderr.replace(str(lines), args.hypotheses).splitlines(keepends=True)
        sys.stderr.writelines(line for line in said if str(scores) not in line)
        if result.returncode not in (0, 3):  # 3: without Java, BLEU and NIST alone
            sys.exit(result.returncode)  # the scorer has said why
        found = read_json(scores)
    scores_and_slots = {**found["scores"], **found.get("slots", {})}
    return {"hypotheses": len(hypotheses), "definition": found["definition"], **scores_and_slots}


if __name__ == "__main__":
    run_main(main)
