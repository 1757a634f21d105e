"""The filter `language`: lines that are in another language than their corpus, by CLD2 (pycld2, decision 0021).

CLD2 knows 165 languages, needs no file beside the package, and says itself when a line is too short to tell.
"""

from __future__ import annotations

import importlib
from functools import lru_cache
from typing import Any

import numpy as np

from data_prep.filters.stretch import Stretch
from ernie_m.base.console import InputError
from ernie_m.base.language_codes import canonical

NAME, PACKAGE = "language", "pycld2"
FEWEST_LETTERS = 30
"""A shorter line is kept: CLD2 is wrong about several times as many of them."""
MOST_LETTERS = 100
"""The first letters of a line, by which it is judged."""
RELATIVES = (
    ("bs", "hr", "sr", "sh", "mk", "bg"),
    ("no", "nb", "nn", "da"),
    ("id", "ms"),
    ("cs", "sk"),
    ("gl", "pt"),
    ("fil", "tl"),
    ("zh", "ja"),  # the filter `script` tells them apart
)
"""Languages whose lines CLD2 takes for each other: neither is foreign in a corpus of the other."""
OTHER_CODES = {"iw": "he", "jw": "jv", "sh": "sr", "zh-Hant": "zh"}
"""Codes of CLD2 that are not the canonical ones."""


def foreign(stretch: Stretch, candidates: np.ndarray, limit: float) -> np.ndarray:
    """Lines of which surely less than `limit` is in the language of their side; none where CLD2 does not know it."""
    is_foreign = np.zeros(len(candidates), np.bool_)
    for texts, language in zip(stretch.sides, stretch.languages, strict=True):
        codes = codes_of(language)
        if codes:
            is_long = np.fromiter(map(len, texts), np.int64, len(texts)) >= FEWEST_LETTERS
            for index in np.flatnonzero(candidates & is_long & ~is_foreign).tolist():
                is_foreign[index] = _is_foreign(texts[index], codes, 100 * limit)
    return is_foreign


def _is_foreign(text: str, codes: tuple[str, ...], least_percent: float) -> bool:
    cld2 = engine()
    part = text[:MOST_LETTERS]
    try:
        is_sure, _, found = cld2.detect(part, hintLanguage=codes[0])
    except cld2.error:  # control characters and the like
        printable = "".join(letter if letter.isprintable() else " " for letter in part)
        is_sure, _, found = cld2.detect(printable, hintLanguage=codes[0])
    if not is_sure or (found[0][1] in codes and found[0][2] >= least_percent):  # nearly all lines
        return False
    return sum(percent for _, code, percent, _ in found if code in codes) < least_percent


@lru_cache(maxsize=1)
def engine() -> Any:
    """pycld2. Raises InputError where it is not installed."""
    try:
        return importlib.import_module(PACKAGE)
    except ImportError:
        advice = "pip install 'ernie-m[filters]', or switch it off: filters: {preset: strict, language: false}"
        raise InputError(f"the filter `{NAME}` needs {PACKAGE}, which is not installed: {advice}") from None


@lru_cache(maxsize=256)
def codes_of(language: str) -> tuple[str, ...]:
    """CLD2's codes of a language and, behind it, its relatives; none where CLD2 does not know the language."""
    base = _base(language)
    own = next((group for group in RELATIVES if base in group), (base,))
    cld2 = engine()
    known = {code for name, code in cld2.LANGUAGES if name in cld2.DETECTED_LANGUAGES and _base(code) in own}
    return tuple(sorted(known, key=lambda code: (_base(code) != base, code)))


def _base(code: str) -> str:
    """The language of a code, without its script and region."""
    if code in OTHER_CODES:
        return OTHER_CODES[code]
    try:
        return canonical(code).partition("-")[0]
    except InputError:
        return code
