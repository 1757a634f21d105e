"""Stretches `<tu ...> ... </tu>` of a TMX file as text, each for itself, so that a broken one does not cost the others.

1. The bytes are decoded as the file says (XML declaration, byte-order mark; else UTF-8), in any encoding that Python knows.
   What cannot be decoded becomes a mark that no text has.
2. A unit begins at `<tu` and ends at `</tu>`; comments and CDATA are passed over. One that does not end before the next
   begins is broken, and so is one without an end in sight: memory is bounded.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterable, Iterator

from data_prep.inputs import Input
from data_prep.readers.lines import MAX_LINE_BYTES
from ernie_m.base.console import InputError

MAX_UNIT = 2 * MAX_LINE_BYTES
"""Characters of a unit, or of a comment: a unit may hold a text in each of many languages."""
UNDECODABLE = "\udcff"
"""Stands for bytes that are not of the file's encoding: a lone surrogate, which no decoder makes of text."""
BOMS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),  # begins with that of UTF-16
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
WITHOUT_BOM = (
    (b"<\0\0\0", "utf-32-le"),
    (b"\0\0\0<", "utf-32-be"),
    (b"<\0", "utf-16-le"),
    (b"\0<", "utf-16-be"),
)
DECLARED = re.compile(rb"""<\?xml[^>]*?encoding\s*=\s*["']([^"'>]{1,40})["']""")
PROBE = rb"<a b='.xn--bcher-kva.'>+AGE- \u0041</a>"
"""A character a byte in the encoding of any XML file; not so in those of escapes and of host names."""
WIDER = {"gb2312": "gb18030", "gbk": "gb18030", "shift_jis": "cp932", "euc_kr": "cp949"}
"""Encodings whose files use more than their standard has, as browsers know; these read all of it."""
MARK = re.compile(r"<!--|<!\[CDATA\[|<(?:[\w.-]+:)?tu(?=[\s/>])[^<>]*>|</(?:[\w.-]+:)?tu\s*>")
ENDS = {"<!--": "-->", "<![CDATA[": "]]>"}


def _marked(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeDecodeError)
    return UNDECODABLE, error.end


codecs.register_error("data_prep.marked", _marked)


def encoding_of(head: bytes, path: Input) -> str:
    """The encoding of an XML file by its first bytes; raises InputError for one that nobody knows."""
    for start, encoding in (*BOMS, *WITHOUT_BOM):
        if head.startswith(start):
            return encoding
    declared = DECLARED.match(head)
    name = declared[1].decode("ascii", "replace") if declared else "utf-8"
    try:
        found = codecs.lookup(name)
        if found.name.startswith(("utf-16", "utf-32")):
            return "utf-8"  # these bytes are ASCII's: the declaration was kept when the file was converted
        if len(PROBE.decode(found.name)) != len(PROBE):  # also refuses codecs that are not of text, such as base64
            raise LookupError
    except (LookupError, UnicodeError):
        raise InputError(f"{path}: says its encoding is {name}, which is not known; convert it to UTF-8") from None
    return WIDER.get(found.name, found.name)


def decoded(pieces: Iterable[bytes], path: Input) -> Iterator[str]:
    """The file's text, with UNDECODABLE in it. Raises InputError for an unknown encoding."""
    decoder = None
    for piece in pieces:
        decoder = decoder or codecs.getincrementaldecoder(encoding_of(piece, path))("data_prep.marked")
        yield decoder.decode(piece)
    if decoder is not None:
        yield decoder.decode(b"", final=True)


class Units:
    """The units of a text that comes in pieces, and what stands before the first and behind the last of them."""

    def __init__(self, pieces: Iterable[str]) -> None:
        self._pieces = iter(pieces)
        self.head = ""
        """What stands before the first unit: the root element with its name spaces."""
        self.tail = ""
        """What stands behind the last one; without its end tag the file is cut."""

    def __iter__(self) -> Iterator[tuple[str, bool]]:
        """(unit as XML, whether it has an end)."""
        text, place, start, is_first = "", 0, -1, True
        awaited: tuple[str, ...] = ()  # before one of them comes, there is nothing to be found: nothing is searched twice
        for piece in self._pieces:
            known, begin = max(place, len(text) - 2), start if start >= 0 else place
            text += piece
            if awaited and len(text) - begin <= MAX_UNIT and all(text.find(end, known) < 0 for end in awaited):
                continue
            awaited = ()
            while mark := MARK.search(text, place):
                kind = mark.group()
                if kind in ENDS:
                    stop = text.find(ENDS[kind], mark.end())
                    if stop < 0 and len(text) - mark.start() < MAX_UNIT:
                        place, awaited = mark.start(), (ENDS[kind],)
                        break
                    place = stop + 3 if stop >= 0 else mark.end()
                    continue
                place = mark.end()
                if kind.startswith("</"):
                    if start >= 0:
                        yield text[start:place], True
                    start = -1
                    continue
                if start >= 0:
                    yield text[start : mark.start()], False
                elif is_first:
                    self.head, is_first = text[: mark.start()], False
                start = mark.start()
                if kind.endswith("/>"):
                    yield kind, True
                    start = -1
            else:
                last = _open_tag(text)
                place, awaited = max(place, last), ("<", ">") if last < len(text) else ()
            if start >= 0 and len(text) - start > MAX_UNIT:
                yield text[start : start + MAX_LINE_BYTES], False
                start, place = -1, len(text)
            elif not is_first and start < 0 and len(text) - place > MAX_UNIT:  # a tag without an end in sight
                yield text[place : place + MAX_LINE_BYTES], False
                place = len(text)
            done = start if start >= 0 else place
            if start < 0:
                self.tail = (self.tail + text[:done])[-200:] if not is_first else self.tail
            if not is_first:
                text, place, start = text[done:], place - done, start - done if start >= 0 else -1
            elif len(text) > MAX_UNIT:
                text, place, awaited = "", 0, ()
        self.tail += text
        if start >= 0:
            yield text[start:], False


def _open_tag(text: str) -> int:
    """Where the text may be entered when it goes on: at a tag that has not ended, or at its end."""
    last = text.rfind("<")
    return last if last >= 0 and ">" not in text[last:] else len(text)
