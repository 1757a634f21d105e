"""Units of the shape that nearly all have, read by regular expressions: several times as fast as by a parser.

    <tu tuid="1"> <prop type="x">...</prop>  <tuv xml:lang="en"> <seg>text &amp; text</seg> </tuv> ... </tu>

What matches is well-formed XML, and its segments are those that a parser finds. Whatever else a unit may hold (inline
elements, comments, CDATA, other entities, prefixes, damage) is left to the parser. No character is looked at twice: what a
loop takes is nothing that may follow it, and possessive loops give nothing back.
"""

from __future__ import annotations

import re
from functools import lru_cache

from data_prep.readers.lines import MAX_LINE_BYTES

ENTITIES = {"&lt;": "<", "&gt;": ">", "&quot;": '"', "&apos;": "'", "&amp;": "&"}
"""Those that every XML file has; `&` comes last, for the others hold one."""
MOST_OF_ATTRIBUTE = 200  # characters
_SPACE = r"[ \t\r\n]"
_NO_TEXT = r"<&\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff"  # markup, and what XML does not allow
_TEXT = f"[^{_NO_TEXT}]*+(?:(?:{'|'.join(ENTITIES)})[^{_NO_TEXT}]*+)*+"
_ATTRIBUTE = f'{_SPACE}++(?!xmlns)[A-Za-z-]++(?:(?<=xml):lang)?+="[^">{_NO_TEXT}]{{0,{MOST_OF_ATTRIBUTE}}}+"'
_ITEMS = f"(?:{_SPACE}*+<(?:prop(?:{_ATTRIBUTE})?+>{_TEXT}</prop|note(?:{_ATTRIBUTE})?+>{_TEXT}</note)>)*+{_SPACE}*+"
_ATTRIBUTES = f"((?:{_ATTRIBUTE}){{0,8}}+)"
BEGIN = re.compile(f"<tu{_ATTRIBUTES}{_SPACE}*+>{_ITEMS}")
EMPTY = re.compile(f"<tu{_ATTRIBUTES}{_SPACE}*+/>")
VARIANT = re.compile(f"<tuv{_ATTRIBUTES}{_SPACE}*+>{_ITEMS}<seg>({_TEXT})</seg>{_SPACE}*+</tuv>{_SPACE}*+")
NAME = re.compile('([A-Za-z:-]+)="([^"]*)"')
END = "</tu>"


def plain_segments(xml: str) -> list[tuple[str, str]] | None:
    """(code, text) of each variant of a unit, in its order; None for a unit that a parser must read."""
    if len(xml) > MAX_LINE_BYTES or "]]>" in xml:  # of long segments the parser keeps less; the other is no text
        return None
    begin = BEGIN.match(xml) or EMPTY.fullmatch(xml)
    if begin is None or _code(begin[1]) is None:
        return None
    if begin.re is EMPTY:
        return []
    segments, place = [], begin.end()
    while variant := VARIANT.match(xml, place):
        attributes, text = variant.groups()
        if (code := _code(attributes)) is None:
            return None
        segments.append((code, _without_entities(text) if "&" in text else text))
        place = variant.end()
    return segments if xml.startswith(END, place) and len(xml) == place + len(END) else None


@lru_cache(maxsize=1000)
def _code(attributes: str) -> str | None:
    """The language that a tag gives, "" for none; None when a name is there twice."""
    found = NAME.findall(attributes)
    values = dict(found)
    return values.get("xml:lang") or values.get("lang") or "" if len(values) == len(found) else None


def _without_entities(text: str) -> str:
    for entity, character in ENTITIES.items():
        text = text.replace(entity, character)
    return text
