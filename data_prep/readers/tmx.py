"""TMX 1.4 (https://www.gala-global.org/tmx-14b): plain, .gz, .xz or .zip, as OPUS and TICO-19 publish it.

    <tu> <prop/> <note/>  <tuv xml:lang="en-US"> <seg>text <ph/> text</seg> </tuv>  <tuv lang="FR"> ... </tuv> </tu>

Streamed, each unit read for itself (xml_units.py): one that is broken is rejected, alone. Of a unit only the two segments
are kept that are asked for, and of a segment no more than of a line. The text of inline elements belongs to the segment;
white space is XML's (a no-break space is not), and any run of it is one space. Of several segments in a language the first
is taken, and the further ones are counted.
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
from data_prep.readers.xml_units import UNDECODABLE, Units, decoded
from data_prep.records import Chunk, Count, Lines
from ernie_m.base.console import InputError
from ernie_m.base.language_codes import agree

XML_LANG = "http://www.w3.org/XML/1998/namespace}lang"
XML_SPACE = re.compile(r"[ \t\r\n]+")
NAME_SPACE = re.compile(r"""\sxmlns(?::[\w.-]+)?\s*=\s*(?:"[^"<]*"|'[^'<]*')""")
END = re.compile(r"</(?:[\w.-]+:)?tmx\s*>")
LANG_SHOWN, MOST_CODES = 30, 1000
MOST_NAME_SPACES = 100  # declared in front of the units
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
        texts, fault = _unit(xml, has_end, corpus.languages, name_spaces, codes, gathered.noted)
        gathered.add(texts, fault)
        usable += not fault
        if gathered.size >= chunk_bytes // 2:
            yield gathered.chunk(index)
            index, gathered = index + 1, Gathered()
    if not END.search(parts.tail):
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
    xml: str, has_end: bool, languages: tuple[str, ...], name_spaces: str, codes: Counter[str], noted: Counter[str]
) -> tuple[tuple[str, ...], int]:
    """(a text a language, the number of what is wrong or 0); counts codes, and segments that are left."""
    if UNDECODABLE in xml:
        return _as_it_is(xml.replace(UNDECODABLE, "\ufffd")), FAULTS.index(NOT_ENCODED)
    segments = _Segments(languages, name_spaces)
    if not has_end or not segments.read(xml):
        return _as_it_is(xml), FAULTS.index(NOT_XML)
    for code in segments.codes:
        if code in codes or len(codes) < MOST_CODES:
            codes[code] += 1
    for language, further in zip(languages, segments.further, strict=True):
        if further:
            noted[f"further {language} segments of a unit, left"] += further
    texts = tuple(segments.texts)
    if 0 in segments.fits:
        return texts, len(FAULTS) + segments.fits.index(0)
    if any(len(text) * 4 > MAX_LINE_BYTES and len(text.encode()) > MAX_LINE_BYTES for text in texts):
        return tuple(text[:SHOWN] for text in texts), FAULTS.index(TOO_LONG)
    return texts, 0


def _as_it_is(xml: str) -> tuple[str, ...]:
    return XML_SPACE.sub(" ", xml[:SHOWN]), ""


class _Segments:
    """The first segment of one unit that fits each language best; nothing else of the unit is kept."""

    def __init__(self, languages: tuple[str, ...], name_spaces: str) -> None:
        self._languages, self._name_spaces = languages, name_spaces
        self.codes: dict[str, None] = {}
        """Of variants with a segment."""
        self.fits = [0] * len(languages)
        """2: the very code, 1: a code that agrees, 0: none."""
        self.texts = [""] * len(languages)
        self.further = [0] * len(languages)
        self._level = -1 if name_spaces else 0  # of the open element; the unit's is 1
        self._code: str | None = None  # of the open variant, until its segment
        self._fits: list[int] = []
        self._text: io.StringIO | None = None  # of the open segment

    def read(self, xml: str) -> bool:
        """Whether the unit is well-formed."""
        parser = expat.ParserCreate("utf-8", "}")
        parser.buffer_text = True
        parser.StartElementHandler, parser.EndElementHandler = self._start, self._end
        parser.CharacterDataHandler, parser.DefaultHandlerExpand = self._characters, self._other
        try:
            parser.Parse((f"<body{self._name_spaces}>{xml}</body>" if self._name_spaces else xml).encode(), True)
        except (expat.ExpatError, _NoUnitError):
            return False
        return True

    def _start(self, name: str, attributes: Mapping[str, str]) -> None:
        self._level += 1
        if self._level > DEEPEST:
            raise _NoUnitError
        if self._level == 2 and _is_named(name, "tuv"):
            self._code = attributes.get(XML_LANG) or attributes.get("lang") or ""
        elif self._level == 3 and self._code is not None and _is_named(name, "seg"):
            code, self._code = self._code, None
            self.codes[code] = None
            self._fits = [_fit(code, language) for language in self._languages]
            self._text = io.StringIO()

    def _end(self, _: str) -> None:
        if self._level == 3 and self._text is not None:
            text, self._text = XML_SPACE.sub(" ", self._text.getvalue()), None
            for side, fit in enumerate(self._fits):
                if fit > self.fits[side]:
                    self.fits[side], self.texts[side], self.further[side] = fit, text, 0
                elif fit and fit == self.fits[side]:
                    self.further[side] += 1
        elif self._level == 2:
            self._code = None
        self._level -= 1

    def _characters(self, text: str) -> None:
        if self._text is not None and self._text.tell() <= MAX_LINE_BYTES:
            self._text.write(text)

    def _other(self, text: str) -> None:
        if text.startswith("&"):
            raise _NoUnitError


class _NoUnitError(Exception):
    """An entity that nothing defines; elements that go too deep."""


@lru_cache(maxsize=1000)
def _fit(code: str, language: str) -> int:
    return 2 if agree(code, language, exactly=True) else int(agree(code, language))


def _name_spaces(head: str) -> str:
    """The declarations of name spaces in front of the units, for each unit is read for itself."""
    return "".join(list(dict.fromkeys(NAME_SPACE.findall(head)))[:MOST_NAME_SPACES]) if "xmlns" in head else ""


def _is_named(tag: str, name: str) -> bool:
    """Whether this is its name, in whatever name space."""
    return tag == name or tag.endswith(f"}}{name}")
