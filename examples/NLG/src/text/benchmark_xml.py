"""WebNLG and DART as published in XML: entries of triples and texts, read without DTDs and external entities."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

from examples.common.errors import UserError
from examples.common.files import open_binary

PARTS = ("subject", "property", "object")


@dataclass(frozen=True)
class Entry:
    """One ``<entry>``: where it stands (for messages), its modified triples, and its texts with their comments."""

    where: str
    category: str | None
    triples: list[tuple[str, str, str]] = field(default_factory=list)
    texts: list[tuple[str | None, str]] = field(default_factory=list)  # (comment, text)


def is_xml(path: Path) -> bool:
    """Whether a raw file is read as XML: its name ends so, or it is a folder (of XML files)."""
    return path.suffix.lower() == ".xml" or path.is_dir()


def read_entries(path: Path) -> Iterator[Entry]:
    """Entries of an XML file, or of all ``*.xml`` below a folder in the order of their paths.

    Entries are numbered from 1 in each file.

    Raises:
        UserError: no XML, a DTD, another root than ``<benchmark>``, or an entry without what it needs.
    """
    paths = sorted(path.rglob("*.xml")) if path.is_dir() else [path]
    if not paths:
        raise UserError(f"{path} is a folder without .xml files")
    for file in paths:
        root = _parse(file)
        if root.tag != "benchmark":
            raise UserError(f"{file}: expected <benchmark> with <entries>, as WebNLG and DART have, got <{root.tag}>")
        for number, element in enumerate(root.iterfind("entries/entry"), start=1):
            eid = element.get("eid")
            yield _entry(element, f"{file} entry {number}" + (f" (eid {eid!r:.20})" if eid else ""))


def _entry(element: Element, where: str) -> Entry:
    triple_set = element.find("modifiedtripleset")
    if triple_set is None:
        raise UserError(f"{where}: <modifiedtripleset> is missing")
    entry = Entry(where, element.get("category"))
    for triple in triple_set.iterfind("mtriple"):
        entry.triples.append(_triple(_text(triple, where), where))
    for lex in element.iterfind("lex"):
        entry.texts.append((lex.get("comment"), _text(lex, where)))
    return entry


def _text(element: Element, where: str) -> str:
    """Text of an element, unchanged: the JSON twins of these files keep blanks at its ends too."""
    if len(element):
        raise UserError(f"{where}: <{element.tag}> holds <{element[0].tag}>, expected text alone")
    return element.text or ""


def _triple(text: str, where: str) -> tuple[str, str, str]:
    parts = text.split(" | ", 2)  # an object may hold further bars; subjects and properties do not
    if len(parts) != len(PARTS):
        parts = text.split("|", 2)
    if len(parts) != len(PARTS):
        raise UserError(f"{where}: expected <mtriple>{' | '.join(PARTS)}</mtriple>, got {text!r:.60}")
    subject, relation, value = (part.strip() for part in parts)
    return subject, relation, value


def _parse(path: Path) -> Element:
    """The root element. Expat reads nothing but this file, and a DTD (entities that grow) is refused."""
    builder = TreeBuilder()
    parser = expat.ParserCreate()
    parser.buffer_text = True

    def refuse_dtd(*_: Any) -> None:
        raise UserError(f"{path} line {parser.CurrentLineNumber}: a DTD (<!DOCTYPE ...>) is not accepted")

    parser.StartDoctypeDeclHandler = refuse_dtd
    parser.StartElementHandler = builder.start
    parser.EndElementHandler = builder.end
    parser.CharacterDataHandler = builder.data
    with open_binary(path) as stream:
        try:
            parser.ParseFile(stream)
        except expat.ExpatError as error:
            raise UserError(f"{path} line {error.lineno}: not XML ({expat.ErrorString(error.code)})") from None
        except (LookupError, ValueError) as error:  # an encoding that Python does not know
            raise UserError(f"{path}: not readable XML ({error})") from None
    return builder.close()
