"""WebNLG 2017 JSON or XML to examples: every good lexicalisation is one row, marked as of a seen or unseen domain."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from text import benchmark_xml
from text.converting import checked, example, field, parse_paths, read_json, write_examples

from examples.common.errors import UserError, run_main

# The categories of the training set; the test set has five more.
SEEN_CATEGORIES = {
    *("Airport", "Astronaut", "Building", "City", "ComicsCharacter"),
    *("Food", "Monument", "SportsTeam", "University", "WrittenWork"),
}


def main(argv: Sequence[str] | None = None) -> None:
    source, output = parse_paths(argv, "WebNLG 2017 JSON or XML to JSON lines")
    entries = list(read_xml(source) if benchmark_xml.is_xml(source) else read_entries(source))
    write_examples(output, (row for where, entry in entries for row in examples_of(entry, where)), source)
    for category, count in Counter(entry["category"] for _, entry in entries).items():
        print(f"cate {category} {count}")


def read_entries(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """(where, entry) in file order. Entries are numbered from 1; a file in another order is read too."""
    for index, numbered in enumerate(field(read_json(path), "entries", list, str(path)), start=1):
        where = f"{path} entry {index}"
        keys = list(checked(numbered, dict, where))
        key = str(index) if str(index) in keys else keys[0] if len(keys) == 1 else None
        if key is None:
            raise UserError(f"{where}: expected one object under its number, got the keys {keys!r:.60}")
        where = where if key == str(index) else f"{where} (numbered {key!r:.20})"
        entry = field(numbered, key, dict, where)
        field(entry, "category", str, where)
        yield where, entry


def read_xml(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """(where, entry) of the published XML, a file or the folder of a split; entries as JSON has them."""
    for entry in benchmark_xml.read_entries(path):
        if entry.category is None:
            raise UserError(f"{entry.where}: attribute 'category' is missing")
        yield (
            entry.where,
            {
                "category": entry.category,
                "modifiedtripleset": [dict(zip(benchmark_xml.PARTS, triple)) for triple in entry.triples],
                "lexicalisations": [
                    {"lex": text, **({} if comment is None else {"comment": comment})} for comment, text in entry.texts
                ],
            },
        )


def examples_of(entry: dict[str, Any], where: str) -> Iterator[dict[str, Any]]:
    """Rows of one entry: its lexicalisations whose comment is exactly ``good``."""
    triples = field(entry, "modifiedtripleset", list, where)
    context = " | ".join(
        " : ".join(field(triple, part, str, where) for part in ("subject", "property", "object")) for triple in triples
    )
    for lexicalisation in field(entry, "lexicalisations", list, where):
        if field(lexicalisation, "comment", str, where) == "good":
            sentence = field(lexicalisation, "lex", str, where)
            yield example(context, sentence, cate=entry["category"] in SEEN_CATEGORIES)


if __name__ == "__main__":
    run_main(main)
