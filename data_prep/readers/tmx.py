"""TMX 1.4 (https://www.gala-global.org/tmx-14b): plain, .gz, .xz or .zip, as OPUS and TICO-19 publish it.

    <tu> <prop/> <note/>  <tuv xml:lang="en-US"> <seg>text <ph/> text</seg> </tuv>  <tuv lang="FR"> ... </tuv> </tu>

Streamed, each unit read for itself (xml_units.py): one that is broken is rejected, alone. The text of inline elements
belongs to the segment; white space is XML's (a no-break space is not), and any run of it is one space. Of several segments
in a language the first is taken, and the further ones are counted.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple
from xml.etree import ElementTree

import numpy as np

from data_prep.catalog import Corpus
from data_prep.readers.lines import some_at_once
from data_prep.readers.streams import read_pieces
from data_prep.readers.xml_units import UNDECODABLE, Units, decoded
from data_prep.records import Chunk, Count, Lines
from ernie_m.base.console import InputError
from ernie_m.base.language_codes import agree

XML_LANG = "{http://www.w3.org/XML/1998/namespace}lang"
XML_SPACE = re.compile(r"[ \t\r\n]+")
NAME_SPACE = re.compile(r"""\sxmlns(?::[\w.-]+)?\s*=\s*(?:"[^"<]*"|'[^'<]*')""")
END = re.compile(r"</(?:[\w.-]+:)?tmx\s*>")
LANG_SHOWN = 30
NOT_ENCODED = "bytes that are not of the file's encoding"
NOT_XML = "not well-formed XML"


class Unit(NamedTuple):
    """A translation unit, read."""

    texts: tuple[str, ...]
    """A text a language, in the catalog's order."""
    reason: str | None
    """Why it cannot be used."""
    further: tuple[str, ...] = ()
    """Languages of which it has more than the one segment that is taken."""


def chunks(corpus: Corpus, chunk_bytes: int, count: Count) -> Iterator[Chunk]:
    """Stretches of translation units; one that lacks a language is rejected.

    Raises InputError for a file without any unit in both languages, with the codes that it has, and for one that is cut.
    """
    path = corpus.files[0]
    parts = Units(decoded(read_pieces(path, count), path))
    index, size, units, usable = 0, 0, [], 0
    codes: Counter[str] = Counter()
    for xml, has_end in parts:
        unit = _unit(xml, has_end, corpus.languages, _name_spaces(parts.head), codes)
        units.append(unit)
        usable += unit.reason is None
        size += sum(map(len, unit.texts))
        if size >= chunk_bytes // 2:
            yield Chunk(index, tuple(units))
            index, size, units = index + 1, 0, []
    if not END.search(parts.tail):
        raise InputError(f"{path}: not a whole TMX file: it ends without </tmx>; download it again")
    if not usable and codes:
        shown = ", ".join(f"{code} ({number:,})" for code, number in codes.most_common(LANG_SHOWN))
        raise InputError(
            f"{path}: no unit has both {' and '.join(corpus.languages)}; its segments are in {shown}; "
            "correct the languages in the catalog"
        )
    if units:
        yield Chunk(index, tuple(units))


def parse(corpus: Corpus, chunk: Chunk) -> Iterator[Lines]:
    """A pair a unit."""
    for first, units in some_at_once(chunk.content):
        texts = tuple([unit.texts[side] for unit in units] for side in range(2))
        rejected = {index: unit.reason for index, unit in enumerate(units) if unit.reason}
        numbers = first + 1 + np.arange(len(units))
        noted = Counter(f"further {language} segments of a unit, left" for unit in units for language in unit.further)
        yield Lines(numbers, texts, rejected, np.zeros_like(numbers), dict(noted))


def _unit(xml: str, has_end: bool, languages: tuple[str, ...], name_spaces: str, codes: Counter[str]) -> Unit:
    shown = (xml.replace(UNDECODABLE, "\ufffd"), *[""] * (len(languages) - 1))
    if UNDECODABLE in xml:
        return Unit(shown, NOT_ENCODED)
    if not has_end:
        return Unit(shown, NOT_XML)
    try:
        element = (
            ElementTree.fromstring(f"<body{name_spaces}>{xml}</body>")[0] if name_spaces else ElementTree.fromstring(xml)
        )
    except ElementTree.ParseError:
        return Unit(shown, NOT_XML)
    segments = _segments(element)
    codes.update(dict.fromkeys((code for code, _ in segments), 1))
    chosen = [_of_language(segments, language) for language in languages]
    missing = [language for language, found in zip(languages, chosen, strict=True) if not found]
    further = tuple(language for language, found in zip(languages, chosen, strict=True) for _ in found[1:])
    texts = tuple(_text(found[0]) if found else "" for found in chosen)
    return Unit(texts, f"no {missing[0]} segment" if missing else None, further)


def _segments(unit: ElementTree.Element) -> list[tuple[str, ElementTree.Element]]:
    """(language code, segment) of each variant that has a segment."""
    found = []
    for variant in unit:
        if _is_named(variant, "tuv"):
            for segment in variant:
                if _is_named(segment, "seg"):
                    found.append((variant.get(XML_LANG) or variant.get("lang") or "", segment))
                    break
    return found


def _of_language(segments: list[tuple[str, ElementTree.Element]], language: str) -> list[ElementTree.Element]:
    """The segments in a language: those with exactly its code, else those that agree with it."""
    exact = [segment for code, segment in segments if agree(code, language, exactly=True)]
    return exact or [segment for code, segment in segments if agree(code, language)]


def _text(segment: ElementTree.Element) -> str:
    return XML_SPACE.sub(" ", "".join(segment.itertext()))


def _name_spaces(head: str) -> str:
    """The declarations of name spaces in front of the units, for each unit is read for itself."""
    return "".join(dict.fromkeys(NAME_SPACE.findall(head))) if "xmlns" in head else ""


def _is_named(element: ElementTree.Element, name: str) -> bool:
    """Whether this is its name, in whatever name space."""
    return element.tag == name or element.tag.endswith(f"}}{name}")
