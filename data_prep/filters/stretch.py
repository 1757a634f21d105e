"""Some lines that are judged together: the characters of a whole stretch are one array, which numpy looks up in tables.

L lines   C characters of a stretch
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property, lru_cache

import numpy as np

from ernie_m.base.language_codes import script_of, without_region

NUM_CODES = 0x110000
PARTS = {
    "Jpan": ("Hira", "Kana", "Hani"),
    "Kore": ("Hang", "Hani"),
    "Hans": ("Hani",),
    "Hant": ("Hani",),
    "Hanb": ("Hani", "Bopo"),
}
"""Scripts of languages that are several in Unicode's tables."""
SECOND_SCRIPTS = {
    "az": ("Cyrl", "Arab"),
    "bs": ("Cyrl",),
    "ha": ("Arab",),
    "kk": ("Arab", "Latn"),
    "ku": ("Arab",),
    "ky": ("Arab",),
    "mn": ("Mong",),
    "ms": ("Arab",),
    "pa": ("Arab",),
    "sd": ("Deva",),
    "sr": ("Latn",),
    "tk": ("Cyrl", "Arab"),
    "tt": ("Latn", "Arab"),
    "ug": ("Cyrl", "Latn"),
    "uz": ("Cyrl", "Arab"),
}
"""Languages that are written in further scripts; a code that names a script (sr-Cyrl) means that one alone."""
MARKS = "Zinh"  # combining marks, which go with any script


class Characters:
    """The characters of some texts: `codes_C` uint32, and where each text begins, `starts_L` int64."""

    def __init__(self, texts: Sequence[str]) -> None:
        self.lengths_L = np.fromiter(map(len, texts), np.int64, len(texts))
        self.starts_L = np.cumsum(self.lengths_L) - self.lengths_L
        self.codes_C = np.frombuffer("".join(texts).encode("utf-32-le", "surrogatepass"), np.uint32)

    def sums(self, numbers_C: np.ndarray) -> np.ndarray:
        """The sum of each text's numbers, int64 [L]."""
        sums_L, has_letters = np.zeros(len(self.lengths_L), np.int64), self.lengths_L > 0
        if len(numbers_C):  # reduceat knows no empty text
            sums_L[has_letters] = np.add.reduceat(numbers_C, self.starts_L[has_letters], dtype=np.int64)
        return sums_L

    @cached_property
    def are_spaces(self) -> np.ndarray:
        """Whether each character is white space, uint8."""
        return is_space()[self.codes_C]

    @cached_property
    def words(self) -> np.ndarray:
        """How many words `str.split` finds in each text, int64."""
        behind_space = np.ones_like(self.are_spaces)
        behind_space[1:] = self.are_spaces[:-1]
        behind_space[self.starts_L[self.lengths_L > 0]] = 1
        return self.sums(behind_space > self.are_spaces)


class Stretch:
    """Texts of some lines, a column a side, with the languages of the sides and the number of each line's document."""

    def __init__(self, sides: Sequence[Sequence[str]], languages: Sequence[str], documents: np.ndarray) -> None:
        self.sides, self.languages, self.documents = sides, languages, documents
        self.num_lines = len(documents)

    @cached_property
    def characters(self) -> list[Characters]:
        """Of each side."""
        return [Characters(side) for side in self.sides]


@lru_cache(maxsize=32)
def in_script(language: str) -> np.ndarray | None:
    """Whether each code point is of a script of the language, uint8 [NUM_CODES]; None where nobody knows its script."""
    script = script_of(language)
    if script is None:
        return None
    code = without_region(language)
    wanted = {MARKS, *PARTS.get(script, (script,)), *SECOND_SCRIPTS.get(code, ())}
    return of_scripts(frozenset(wanted))


@lru_cache(maxsize=32)
def of_scripts(wanted: frozenset[str]) -> np.ndarray:
    """Whether each code point is of one of these scripts, uint8 [NUM_CODES]."""
    from fontTools.unicodedata import Scripts  # large, and for filters alone

    borders = np.array([*Scripts.RANGES, NUM_CODES])
    is_wanted = np.array([value in wanted for value in Scripts.VALUES], np.uint8)
    return np.repeat(is_wanted, np.diff(borders))


@lru_cache(maxsize=1)
def is_space() -> np.ndarray:
    """Whether each code point is white space, uint8 [NUM_CODES]."""
    table = np.zeros(NUM_CODES, np.uint8)
    table[[code for code in range(0x3001) if chr(code).isspace()]] = 1
    return table


@lru_cache(maxsize=1)
def widths() -> np.ndarray:
    """How many letters of an alphabet a character stands for in lengths: Han and kana 3, Hangul 2; uint8 [NUM_CODES]."""
    wide = 2 * of_scripts(frozenset(["Hani", "Hira", "Kana"])) + of_scripts(frozenset(["Hang"]))
    return np.asarray(1 + wide, np.uint8)
