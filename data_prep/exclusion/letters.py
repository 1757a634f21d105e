"""Texts in normal form, and 64-bit hashes of them: the same for `Wer ist das?` and `WER IST DAS`.

Letters, their marks and digits count, in lower case and NFKC; digits of all scripts as 0 to 9. What is not seen does not
count (selectors behind an emoji, fillers), nor does the line that stretches Arabic words.

The letters of many texts are one array, and a hash of any run of them comes from sums up to its two ends (a polynomial
modulo 2 ** 64), so all runs of a length cost a few operations a letter.

    T texts   C letters of all texts
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from functools import lru_cache

import numpy as np

BASE = 0x9E3779B97F4A7C15  # odd, so it has an inverse
INVERSE = pow(BASE, -1, 1 << 64)
SPREAD = np.uint64(0xBF58476D1CE4E5B9)
LENGTH_FACTOR = np.uint64(0x94D049BB133111EB)
NOT_SEEN = (
    *((0x34F, 0x34F), (0x640, 0x640), (0x115F, 0x1160), (0x17B4, 0x17B5), (0x180B, 0x180F), (0x3164, 0x3164)),
    *((0xFE00, 0xFE0F), (0xFFA0, 0xFFA0), (0xE0100, 0xE01EF)),
)
"""First and last of letters and marks, by their category, of which a reader sees nothing."""
FIRST_WIDE = 0x1100  # Hangul, kana, Han: a letter is a syllable or a word


class Letters:
    """The letters of some texts: `codes_C` uint32, and where each text begins, `borders` int64 [T + 1]."""

    def __init__(self, texts: Sequence[str]) -> None:
        joined = unicodedata.normalize("NFKC", "".join(f"{text}\n" for text in texts)).casefold()
        codes_C = np.frombuffer(joined.encode("utf-32-le", "surrogatepass"), np.uint32)
        letters_C, is_end_C = _letters()[codes_C], codes_C == ord("\n")
        is_letter_C = letters_C > 0
        totals = np.cumsum(is_letter_C, dtype=np.int64)
        self.borders = np.concatenate([np.zeros(1, np.int64), totals[is_end_C]])
        assert len(self.borders) == len(texts) + 1, "a text has no line end"
        self.codes_C = letters_C[is_letter_C]
        self._kept = is_letter_C  # of all characters
        self._sums = _sums(self.codes_C)

    @property
    def lengths(self) -> np.ndarray:
        """Letters of each text, int64 [T]."""
        return np.diff(self.borders)

    def of_texts(self) -> np.ndarray:
        """The hash of each text, uint64 [T]; 0 for one without letters."""
        return np.where(self.lengths > 0, self.between(self.borders[:-1], self.borders[1:]), np.uint64(0))

    def between(self, starts: np.ndarray, stops: np.ndarray) -> np.ndarray:
        """The hash of the letters from each start to its stop, uint64."""
        return _spread(self._hashes(starts, stops) + (stops - starts).astype(np.uint64) * LENGTH_FACTOR)

    def starts(self, length: int) -> np.ndarray:
        """The first letter of each run of `length` letters within a text, int64."""
        ends = np.repeat(self.borders[1:], self.lengths)
        return np.flatnonzero(np.arange(len(self.codes_C)) + length <= ends)

    def words(self, stands_alone: np.ndarray) -> np.ndarray:
        """The first letter of each word, int64; bool [0x110000] says which letters are words by themselves."""
        is_alone_C = stands_alone[self.codes_C]
        begins_C = np.ones(len(self.codes_C), np.bool_)
        begins_C[1:] = ~self._kept[np.flatnonzero(self._kept)[1:] - 1] | is_alone_C[1:] | is_alone_C[:-1]
        return np.flatnonzero(begins_C)

    def of_runs(self, starts: np.ndarray, length: int) -> np.ndarray:
        """The hash of the run at each start, uint64."""
        return _spread(self._hashes(starts, starts + length))

    def text_of(self, letters: np.ndarray) -> np.ndarray:
        """The text that each of these letters is in."""
        return np.searchsorted(self.borders, letters, side="right") - 1

    def _hashes(self, starts: np.ndarray, stops: np.ndarray) -> np.ndarray:
        return (self._sums[stops] - self._sums[starts]) * _powers(INVERSE, len(self.codes_C) + 1)[starts]


def _sums(codes_C: np.ndarray) -> np.ndarray:
    terms = _spread(codes_C.astype(np.uint64) + np.uint64(1)) * _powers(BASE, len(codes_C) + 1)[:-1]
    return np.concatenate([np.zeros(1, np.uint64), np.cumsum(terms, dtype=np.uint64)])


def _spread(values: np.ndarray) -> np.ndarray:
    """Every bit of the result depends on every bit of the value; modulo 2 ** 64."""
    values = (values ^ (values >> np.uint64(32))) * SPREAD
    values = (values ^ (values >> np.uint64(29))) * LENGTH_FACTOR
    return np.asarray(values ^ (values >> np.uint64(32)))


_POWERS: dict[int, np.ndarray] = {}


def _powers(base: int, count: int) -> np.ndarray:
    """base ** 0, 1, ... modulo 2 ** 64, uint64 [count]; kept, for the next stretch needs them too."""
    known = _POWERS.get(base)
    if known is None or len(known) < count:
        factors = np.full(max(count, 1 << 16), base, np.uint64)
        factors[0] = 1
        known = _POWERS[base] = np.cumprod(factors, dtype=np.uint64)
    return known[:count]


@lru_cache(maxsize=1)
def _letters() -> np.ndarray:
    """What each code point counts as, 0 for what does not count: uint32 [0x110000]."""
    categories = [unicodedata.category(chr(code)) for code in range(0x110000)]
    counts_as = np.arange(0x110000, dtype=np.uint32)
    counts_as[[category[0] not in "LMN" for category in categories]] = 0
    for code, category in enumerate(categories):
        if category == "Nd":
            counts_as[code] = ord("0") + unicodedata.decimal(chr(code))
    for first, last in NOT_SEEN:
        counts_as[first : last + 1] = 0
    return counts_as
