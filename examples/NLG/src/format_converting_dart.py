"""DART raw JSON or XML to examples: every sentence of every triple set is one row; relations are lower-cased."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from text import benchmark_xml
from text.converting import checked, example, field, parse_paths, read_json, write_examples

from examples.common.errors import UserError, run_main


def main(argv: Sequence[str] | None = None) -> None:
    source, output = parse_paths(argv, "DART JSON or XML to JSON lines")
    entries = read_xml(source) if benchmark_xml.is_xml(source) else checked(read_json(source), list, str(source))
    write_examples(output, read_entries(entries, source), source)
    print(f"unique source is {len(entries)}")  # as released: it counts entries, repeated triple sets too


def read_entries(entries: list[Any], path: Path) -> Iterator[dict[str, Any]]:
    """Rows of a DART list. Entries without annotations give none; an empty triple set gives an empty context."""
    for number, entry in enumerate(entries, start=1):
        where = f"{path} entry {number}"
        context = " | ".join(_triple(triple, where) for triple in field(entry, "tripleset", list, where))
        for annotation in field(entry, "annotations", list, where):
            yield example(context, field(annotation, "text", str, where))


def read_xml(path: Path) -> list[dict[str, Any]]:
    """The published XML as the list that the published JSON holds."""
    return [
        {"tripleset": [list(triple) for triple in entry.triples], "annotations": [{"text": t} for _, t in entry.texts]}
        for entry in benchmark_xml.read_entries(path)
    ]


def _triple(triple: object, where: str) -> str:
    if not (isinstance(triple, list) and len(triple) == 3 and all(isinstance(part, str) for part in triple)):
        raise UserError(f"{where}: expected a triple of three texts, got {triple!r:.60}")
    subject, relation, value = triple
    return f"{subject} : {relation.lower()} : {value}"


if __name__ == "__main__":
    run_main(main)
