"""TMX 1.4 (https://www.gala-global.org/tmx-14b): plain, .gz, .xz or .zip, as OPUS and TICO-19 publish it.

    <tu> <prop/> <note/>  <tuv xml:lang="en-US"> <seg>text <ph/> text</seg> </tuv>  <tuv lang="FR"> ... </tuv> </tu>

Streamed: a unit is forgotten once read. The text of inline elements belongs to the segment; white space is XML's
(a no-break space is not), and any run of it is one space.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any
from xml.etree import ElementTree

import numpy as np

from data_prep.catalog import Corpus
from data_prep.readers.lines import some_at_once
from data_prep.readers.streams import matches, read_pieces
from data_prep.records import Chunk, Count, Lines
from ernie_m.base.console import InputError

XML_LANG = "{http://www.w3.org/XML/1998/namespace}lang"
XML_SPACE = re.compile(r"[ \t\r\n]+")


def chunks(corpus: Corpus, chunk_bytes: int, count: Count) -> Iterator[Chunk]:
    """Stretches of translation units, each as (texts, reason); one that lacks a language is rejected."""
    index, size, units = 0, 0, []
    for element in _units(corpus, count):
        texts = [_segment(element, language) for language in corpus.languages]
        missing = [language for language, text in zip(corpus.languages, texts, strict=True) if text is None]
        units.append((tuple(text or "" for text in texts), f"no {missing[0]} segment" if missing else None))
        size += sum(map(len, units[-1][0]))
        if size >= chunk_bytes // 2:
            yield Chunk(index, tuple(units))
            index, size, units = index + 1, 0, []
    if units:
        yield Chunk(index, tuple(units))


def parse(corpus: Corpus, chunk: Chunk) -> Iterator[Lines]:
    """A pair a unit."""
    for first, units in some_at_once(chunk.content):
        texts = tuple([unit[0][side] for unit in units] for side in range(2))
        rejected = {index: reason for index, (_, reason) in enumerate(units) if reason}
        numbers = first + 1 + np.arange(len(units))
        yield Lines(numbers, texts, rejected, np.zeros_like(numbers))


def _units(corpus: Corpus, count: Count) -> Iterator[ElementTree.Element]:
    path = corpus.files[0]
    parser: ElementTree.XMLPullParser = ElementTree.XMLPullParser(("start", "end"))
    parents: list[ElementTree.Element] = []
    try:
        for piece in read_pieces(path, count):
            parser.feed(piece)
            yield from _finished_units(parser, parents)
        parser.close()
        yield from _finished_units(parser, parents)
    except ElementTree.ParseError as error:
        raise InputError(f"{path}: not well-formed TMX ({error}); expected a whole XML file; download it again") from None


def _finished_units(parser: ElementTree.XMLPullParser, parents: list[ElementTree.Element]) -> Iterator[ElementTree.Element]:
    events: Iterator[Any] = parser.read_events()
    for event, element in events:
        if event == "start":
            parents.append(element)
            continue
        parents.pop()
        if _local_name(element) == "tu":
            yield element
            parents[-1].clear()  # clearing the unit alone would leave an empty element per unit in its parent


def _segment(unit: ElementTree.Element, language: str) -> str | None:
    variants = [element for element in unit if _local_name(element) == "tuv"]
    for exactly in (True, False):
        for variant in variants:
            code = variant.get(XML_LANG) or variant.get("lang") or ""
            segment = next((element for element in variant if _local_name(element) == "seg"), None)
            if segment is not None and matches(code, language, exactly):
                return XML_SPACE.sub(" ", "".join(segment.itertext()))
    return None


def _local_name(element: ElementTree.Element) -> str:
    return element.tag.rpartition("}")[2]
