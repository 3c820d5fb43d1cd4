"""Writes the XML twin of WebNLG and DART JSON, in the layout of the published XML files."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any
from xml.sax.saxutils import escape, quoteattr

Triple = Sequence[str]


def text_of(value: str) -> str:
    """Character data that a parser gives back unchanged, carriage returns too."""
    return escape(value, {"\r": "&#13;"})


def entry_xml(number: int, category: str, triples: Sequence[Triple], texts: Iterable[tuple[str, str]]) -> str:
    modified = "".join(f"        <mtriple>{text_of(' | '.join(triple))}</mtriple>\n" for triple in triples)
    original = modified.replace("mtriple", "otriple")
    lexes = "".join(
        f'      <lex comment={quoteattr(comment)} lid="Id{i}">{text_of(text)}</lex>\n'
        for i, (comment, text) in enumerate(texts, start=1)
    )
    return (
        f'    <entry category={quoteattr(category)} eid="Id{number}" size="{len(triples)}">\n'
        f"      <originaltripleset>\n{original}      </originaltripleset>\n"
        f"      <modifiedtripleset>\n{modified}      </modifiedtripleset>\n{lexes}    </entry>\n"
    )


def benchmark(entries: Iterable[str]) -> str:
    head = '<?xml version="1.0" encoding="utf-8"?>'
    return f"{head}\n<benchmark>\n  <entries>\n{''.join(entries)}  </entries>\n</benchmark>"


def webnlg_entries(data: dict[str, Any]) -> list[str]:
    out = []
    for number, numbered in enumerate(data["entries"], start=1):
        entry = numbered[str(number)]
        triples = [(t["subject"], t["property"], t["object"]) for t in entry["modifiedtripleset"]]
        texts = [(text["comment"], text["lex"]) for text in entry["lexicalisations"]]
        out.append(entry_xml(number, entry["category"], triples, texts))
    return out


def dart_entries(data: list[dict[str, Any]]) -> list[str]:
    return [
        entry_xml(number, "MISC", entry["tripleset"], [(a["source"], a["text"]) for a in entry["annotations"]])
        for number, entry in enumerate(data, start=1)
    ]
