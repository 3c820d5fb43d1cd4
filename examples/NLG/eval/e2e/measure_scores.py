"""Scores an E2E system output: measure_scores.py [-l FILE] [-s SRC] [--slots SRC] [-p] [-t] [-H] ref_file sys_file."""

from __future__ import annotations

import argparse
import platform
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "src"))  # a script beside src/, run from any folder

from metrics.e2e import METRICS, SETTINGS, WITHOUT_JAVA, package_versions, score_e2e
from metrics.e2e_files import read_references, read_sources, read_system_output
from metrics.java import TIMEOUT_S, JavaError, check_timeout, java_version
from metrics.slot_errors import KINDS, score_slots

from examples.common.errors import UserError, run_main, warn
from examples.common.files import atomic_write, sha256_of, write_json
from examples.common.help import HelpFormatter

EXIT_WITHOUT_JAVA_SCORES = 3
DEFINITION_NAMES = {"python": "Python definition, as with -p", "perl": "Perl definition, as without -p"}


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description="BLEU, NIST, METEOR, ROUGE_L and CIDEr of the E2E NLG Challenge.",
        epilog="Exit codes: 0 all five scores; 2 a mistake in the input; 3 BLEU and NIST only, since Java is missing, "
        "failed or took too long (stderr says which).",
        formatter_class=HelpFormatter,
    )
    add = parser.add_argument
    add("-l", "--seg-level", metavar="FILE", help="write the scores of each item to FILE, tab-separated")
    add("-s", "--src-file", metavar="SRC", help="check that the source column of sys_file (.csv/.tsv) equals SRC")
    add("-p", "--python", action="store_true", help="BLEU and NIST by the Python definition instead of the Perl one")
    add("--slots", metavar="SRC", help="count slots missing, wrong or added beside the meaning representations of SRC")
    add("-t", "--table", action="store_true", help="print one tab-separated line")
    add("-H", "--header", action="store_true", help="print the header of that line too (implies -t)")
    add("--json", metavar="FILE", help="write all digits, settings, versions and checksums to FILE")
    add("--java-timeout", metavar="SECONDS", type=float, default=TIMEOUT_S, help="most seconds of each Java program")
    add("ref_file", help="references: one per line, items separated by blank lines; or .csv/.tsv with columns mr, ref")
    add("sys_file", help="hypotheses: one per line; or .csv/.tsv with an output column")
    return parser


def main() -> None:
    arguments = build_parser().parse_args()
    check_timeout(arguments.java_timeout)
    references = read_references(arguments.ref_file)
    hypotheses = read_system_output(arguments.sys_file, n_expected=len(references), source_path=arguments.src_file)
    n_references = sum(map(len, references))
    print(f"scoring {len(hypotheses)} hypotheses against {n_references} references", file=sys.stderr, flush=True)
    failure = None
    options: dict[str, Any] = {
        "definition": "python" if arguments.python else "perl",
        "with_segments": arguments.seg_level is not None,
    }
    try:
        result = score_e2e(references, hypotheses, java_timeout_s=arguments.java_timeout, **options)
    except JavaError as error:
        failure = str(error)
        result = score_e2e(references, hypotheses, with_java=False, **options)
    if arguments.python and result["n_short"]:
        warn(f"{result['n_short']} hypotheses have under 4 tokens; the definition of -p lets each of them raise BLEU")
    if arguments.slots is not None:
        add_slots(result, arguments.slots, hypotheses)
    print_scores(result, arguments)
    if arguments.seg_level is not None:
        write_segments(arguments.seg_level, result["segments"])
    if arguments.json is not None:
        write_json(arguments.json, record(result, arguments, failure))
    for path in filter(None, (arguments.seg_level, arguments.json)):
        print(f"wrote {Path(path).resolve()}", file=sys.stderr)
    if failure is not None:
        print(f"error: only {' and '.join(WITHOUT_JAVA)} were computed. {failure}", file=sys.stderr, flush=True)
        raise SystemExit(EXIT_WITHOUT_JAVA_SCORES)


def add_slots(result: dict[str, Any], path: str, hypotheses: list[str]) -> None:
    """Adds slot errors to a result, and to its items' figures where these are wanted."""
    sources = read_sources(path)
    if len(sources) != len(hypotheses):
        raise UserError(
            f"{path} has {len(sources)} meaning representations, but there are {len(hypotheses)} hypotheses"
        )
    result["slots"], errors = score_slots(sources, hypotheses)
    for kind in KINDS if "segments" in result else ():
        result["segments"][kind] = [len(getattr(error, kind)) for error in errors]


def print_scores(result: dict[str, Any], arguments: argparse.Namespace) -> None:
    """The scores with 4 decimals on stdout, as the original prints them; the other definition's NIST beside."""
    scores = result["scores"]
    if arguments.table or arguments.header:
        if arguments.header:
            print("\t".join(["File", *METRICS]))
        print("\t".join([arguments.sys_file, *(f"{scores[name]:.4f}" if name in scores else "" for name in METRICS)]))
        print(other_definition(result), file=sys.stderr)
        return
    print("SCORES:\n==============")
    for name, score in scores.items():
        print(f"{name}: {score:.4f}")
    print(other_definition(result))
    for name, value in result.get("slots", {}).items():
        print(f"{name}: {value:.4f}" if isinstance(value, float) else f"{name}: {value}")


def other_definition(result: dict[str, Any]) -> str:
    """One line with NIST by the definition that is not the primary one, and BLEU where it differs."""
    primary = result["definition"]
    other = next(name for name in result["by_definition"] if name != primary)
    figures = dict(result["by_definition"][other])
    if not result["n_short"]:
        del figures["BLEU"]
    named = ", ".join(f"{name} {value:.4f}" for name, value in figures.items())
    return f"(NIST above: {DEFINITION_NAMES[primary]}; {DEFINITION_NAMES[other]}: {named})"


def write_segments(path: str, segments: dict[str, list[float]]) -> None:
    """One line per item, after a header; all digits."""
    with atomic_write(path) as stream:
        stream.write("\t".join(segments) + "\n")
        for row in zip(*segments.values()):
            stream.write("\t".join(map(repr, row)) + "\n")


def record(result: dict[str, Any], arguments: argparse.Namespace, failure: str | None) -> dict[str, Any]:
    """What ``--json`` writes: the result and all that it depends on."""
    versions = {"python": platform.python_version(), **package_versions()}
    if failure is None:
        versions["java"] = java_version()
    names = {
        "references": arguments.ref_file,
        "hypotheses": arguments.sys_file,
        "sources": arguments.src_file,
        "slots": arguments.slots,
    }
    files = {role: {"path": path, "sha256": sha256_of(path)} for role, path in names.items() if path is not None}
    settings = {name: SETTINGS[name] for name in result["scores"]}
    return {**result, "failure": failure, "settings": settings, "versions": versions, "files": files}


if __name__ == "__main__":
    run_main(main)
