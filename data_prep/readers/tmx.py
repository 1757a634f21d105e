"""TMX 1.4 (https://www.gala-global.org/tmx-14b): plain, .gz, .xz or .zip, as OPUS and TICO-19 publish it.

    <tu> <prop/> <note/>  <tuv xml:lang="en-US"> <seg>text <ph/> text</seg> </tuv>  <tuv lang="FR"> ... </tuv> </tu>

Streamed, each unit read for itself (xml_units.py), those of the usual shape without a parser (plain_units.py): one that is
broken is rejected, alone. Of a unit only the two segments are kept that are asked for, and of a segment no more than of a
line. The text of inline elements belongs to the segment; white space is XML's (a no-break space is not), and any run of it
is one space. Of several segments in a language the first is taken, and the further ones are counted.
"""

from __future__ import annotations

import io
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from functools import lru_cache
from xml.parsers import expat

import numpy as np

from data_prep.catalog import Corpus
from data_prep.readers.archives import read_pieces
from data_prep.readers.lines import MAX_LINE_BYTES, TOO_LONG, side_by_side, some_at_once, split_lines
from data_prep.readers.plain_units import MOST_OF_ATTRIBUTE, plain_segments
from data_prep.readers.xml_units import UNDECODABLE, Units, decoded
from data_prep.records import Chunk, Count, Lines, no_count
from ernie_m.base.console import InputError
from ernie_m.base.language_codes import agree

XML_LANG = "http://www.w3.org/XML/1998/namespace}lang"
XML_SPACE = re.compile(r"[ \t\r\n]+")
NAME_SPACE = re.compile(r"""\sxmlns(?::[\w.-]+)?\s*=\s*(?:"[^"<]*"|'[^'<]*')""")
BEGIN, END = re.compile(r"<(?:[\w.-]+:)?tmx[\s>]"), re.compile(r"</(?:[\w.-]+:)?tmx\s*>")
LANG_SHOWN, MOST_CODES = 30, 1000
MOST_REMEMBERED = 50  # variants of a unit
MOST_NAME_SPACES = 2000  # characters; they are read again with every unit that the parser reads
LEAST_OF_UNIT = 4  # characters that a unit counts for at least, so that of empty ones too a chunk holds so many only
DEEPEST = 100  # elements within elements; TMX needs ten
SHOWN = 1000  # characters of what is rejected
NOT_ENCODED = "bytes that are not of the file's encoding"
NOT_XML = "not well-formed XML"
FAULTS = (None, NOT_ENCODED, NOT_XML, TOO_LONG)
"""By their number in Chunk.faults; behind them the lack of each language."""


class Gathered:
    """The units of a chunk, as lines."""

    def __init__(self) -> None:
        self._sides, self._faults = (io.BytesIO(), io.BytesIO()), bytearray()
        self.size = 0
        self.noted: Counter[str] = Counter()

    def add(self, texts: tuple[str, ...], fault: int) -> None:
        for side, text in zip(self._sides, texts, strict=True):
            side.write(text.encode())
            side.write(b"\n")
        self._faults.append(fault)
        self.size += max(LEAST_OF_UNIT, sum(map(len, texts)))

    def chunk(self, index: int) -> Chunk:
        content = tuple(side.getvalue() for side in self._sides)
        return Chunk(index, content, faults=bytes(self._faults), noted=self.noted)


def chunks(corpus: Corpus, chunk_bytes: int, count: Count) -> Iterator[Chunk]:
    """Stretches of translation units; one that lacks a language is rejected.

    Raises InputError for a file without any unit in both languages, with the codes that it has, and for one that is cut.
    """
    path = corpus.files[0]
    parts = Units(decoded(read_pieces(path, count, corpus.limits), path))
    index, usable, name_spaces = 0, 0, None
    gathered = Gathered()
    codes: Counter[str] = Counter()
    for xml, has_end in parts:
        name_spaces = _name_spaces(parts.head) if name_spaces is None else name_spaces
        wanted = None if usable else codes
        texts, fault = _unit(xml, has_end, corpus.languages, name_spaces, wanted, gathered.noted)
        gathered.add(texts, fault)
        usable += not fault
        if gathered.size >= chunk_bytes // 2:
            yield gathered.chunk(index)
            index, gathered = index + 1, Gathered()
    if not END.search(parts.tail):
        if not BEGIN.search(next(decoded(read_pieces(path, no_count, corpus.limits), path), "")):
            raise InputError(f"{path}: no TMX file: there is no <tmx> at its beginning; correct the format in the catalog")
        raise InputError(f"{path}: not a whole TMX file: it ends without </tmx>; download it again")
    if not usable and codes:
        shown = ", ".join(f"{code} ({number:,})" for code, number in codes.most_common(LANG_SHOWN))
        raise InputError(
            f"{path}: no unit has both {' and '.join(corpus.languages)}; its segments are in {shown}; "
            "correct the languages in the catalog"
        )
    if gathered.size:
        yield gathered.chunk(index)


def parse(corpus: Corpus, chunk: Chunk) -> Iterator[Lines]:
    """A pair a unit."""
    reasons = (*FAULTS, *(f"no {language} segment" for language in corpus.languages))
    first, noted = 0, dict(chunk.noted)
    for contents in side_by_side(*chunk.content):
        source, target = (split_lines(content, is_file_start=False) for content in contents)
        for (offset, ours), (_, theirs) in zip(some_at_once(source), some_at_once(target), strict=True):
            numbers = first + offset + 1 + np.arange(len(ours))
            faults = chunk.faults[first + offset : first + offset + len(ours)]
            rejected = {index: str(reasons[fault]) for index, fault in enumerate(faults) if fault}
            texts = ([line.decode() for line in ours], [line.decode() for line in theirs])
            yield Lines(numbers, texts, rejected, np.zeros_like(numbers), noted)
            noted = {}
        first += len(source)


def _unit(
    xml: str, has_end: bool, languages: tuple[str, ...], name_spaces: str, codes: Counter[str] | None, noted: Counter[str]
) -> tuple[tuple[str, ...], int]:
    """(a text a language, the number of what is wrong or 0); counts segments that are left, and codes if wanted."""
    if UNDECODABLE in xml:
        return _as_it_is(xml.replace(UNDECODABLE, "\ufffd")), FAULTS.index(NOT_ENCODED)
    segments = plain_segments(xml) if has_end else None
    if segments is None:
        segments = Parser(name_spaces).segments(xml) if has_end else None
    if segments is None:
        return _as_it_is(xml), FAULTS.index(NOT_XML)
    choose = _chosen if len(segments) <= MOST_REMEMBERED else _chosen.__wrapped__
    chosen, further = choose(tuple([code for code, _ in segments]), languages)
    if codes is not None:
        for code in dict.fromkeys(code for code, _ in segments):
            if code in codes or len(codes) < MOST_CODES:
                codes[code] += 1
    for language, number in further:
        noted[f"further {language} segments of a unit, left"] += number
    texts = tuple(["" if place is None else one_spaced(segments[place][1]) for place in chosen])
    if None in chosen:
        return texts, len(FAULTS) + chosen.index(None)
    if any(len(text) * 4 > MAX_LINE_BYTES and len(text.encode()) > MAX_LINE_BYTES for text in texts):
        return tuple(text[:SHOWN] for text in texts), FAULTS.index(TOO_LONG)
    return texts, 0


@lru_cache(maxsize=100)
def _chosen(
    codes: tuple[str, ...], languages: tuple[str, ...]
) -> tuple[tuple[int | None, ...], tuple[tuple[str, int], ...]]:
    """(place of the first of the codes that fit a language best, or None, each; language and number of further ones)."""
    chosen: list[int | None] = []
    further = []
    for language in languages:
        fits = [agree(code, language, exactly=True) + agree(code, language) for code in codes]
        best = max(fits, default=0)
        chosen.append(fits.index(best) if best else None)
        if best and fits.count(best) > 1:
            further.append((language, fits.count(best) - 1))
    return tuple(chosen), tuple(further)


def one_spaced(text: str) -> str:
    """Every run of white space as one space."""
    if "  " in text or "\n" in text or "\t" in text or "\r" in text:
        return XML_SPACE.sub(" ", text)
    return text


def _as_it_is(xml: str) -> tuple[str, ...]:
    return XML_SPACE.sub(" ", xml[:SHOWN]), ""


class Parser:
    """Reads a unit of any shape."""

    def __init__(self, name_spaces: str) -> None:
        self._name_spaces = name_spaces
        self._segments: list[tuple[str, str]] = []
        self._level = -1 if name_spaces else 0  # of the open element; the unit's is 1
        self._code: str | None = None  # of the open variant, until its segment
        self._text: list[str] | None = None  # of the open segment
        self._size = 0

    def segments(self, xml: str) -> list[tuple[str, str]] | None:
        """(code, text) of the first segment of each variant; None for a unit that is not well-formed."""
        parser = expat.ParserCreate("utf-8", "}")
        parser.buffer_text = True
        parser.StartElementHandler, parser.EndElementHandler = self._start, self._end
        parser.CharacterDataHandler = self._characters
        try:
            parser.Parse((f"<body{self._name_spaces}>{xml}</body>" if self._name_spaces else xml).encode(), True)
        except (expat.ExpatError, _TooDeepError):
            return None
        return self._segments

    def _start(self, name: str, attributes: Mapping[str, str]) -> None:
        self._level = level = self._level + 1
        if level == 2:
            if name == "tuv" or name.endswith("}tuv"):
                self._code = (attributes.get(XML_LANG) or attributes.get("lang") or "")[:MOST_OF_ATTRIBUTE]
        elif level == 3:
            if self._code is not None and (name == "seg" or name.endswith("}seg")):
                self._text, self._size = [], 0
        elif level > DEEPEST:
            raise _TooDeepError

    def _end(self, _: str) -> None:
        if self._level == 3 and self._text is not None and self._code is not None:
            self._segments.append((self._code, "".join(self._text)))
            self._text = self._code = None
        elif self._level == 2:
            self._code = None
        self._level -= 1

    def _characters(self, text: str) -> None:
        if self._text is not None and self._size <= MAX_LINE_BYTES:
            self._text.append(text)
            self._size += len(text)


class _TooDeepError(Exception):
    """Elements that go too deep."""


def _name_spaces(head: str) -> str:
    """The declarations of name spaces in front of the units, for each unit is read for itself; "" for what is none."""
    found = "".join(dict.fromkeys(NAME_SPACE.findall(head))) if "xmlns" in head else ""
    return found if len(found) <= MOST_NAME_SPACES and Parser(found).segments("") is not None else ""
