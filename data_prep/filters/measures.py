"""Filters that measure the characters of a line: each takes (lines, candidates bool [L], limit), and marks faulty lines."""

from __future__ import annotations

import re

import numpy as np

from data_prep.filters.stretch import Characters, Stretch, in_script, widths

MARKUP = re.compile(
    r"(?:(?:https?|ftp)://|www\.)[^\s<>]+"  # addresses
    r"|[\w.+-]{1,64}@[\w-]+\.[\w.-]+"
    r"|</?[A-Za-z!][^<>]{0,300}>|&#?\w{1,10};"  # HTML
    r"|[{}\[\]|\\^~=_*#<>/]{2,}"  # tables, wikis, programs
)
SIGNS = "{}[]|\\^~=_*#<>/@&"
"""A line with none of these, and no `www.`, has no markup."""
WORDS, FEWEST_WORDS = 3, 12
LETTERS, FEWEST_LETTERS = 8, 40
LETTERS_A_SPACE = 15
"""Text with fewer spaces is not divided into words."""


def identical(stretch: Stretch, candidates: np.ndarray, limit: float) -> np.ndarray:
    """Pairs whose sides are the same but for case, white space, digits and punctuation."""
    pairs = zip(*stretch.sides, strict=True)
    return np.fromiter((one == other or _letters(one) == _letters(other) for one, other in pairs), np.bool_, len(candidates))


def _letters(text: str) -> str:
    return "".join(filter(str.isalpha, text.casefold()))


def length_ratio(stretch: Stretch, candidates: np.ndarray, limit: float) -> np.ndarray:
    """Pairs of which one side is too long for the other; a character of Han or kana counts 3, of Hangul 2."""
    lengths = [side.sums(widths()[side.codes_C]) for side in stretch.characters]
    return np.asarray(np.maximum(*lengths) > limit * np.minimum(*lengths))


def copies(stretch: Stretch, candidates: np.ndarray, limit: float) -> np.ndarray:
    """Lines that have stood `limit` times in their document already."""
    texts, documents = stretch.sides[0], stretch.documents.tolist()
    counts: dict[tuple[int, str], int] = {}
    is_copy = np.zeros(len(candidates), np.bool_)
    for index in np.flatnonzero(_may_be_copied(stretch)).tolist():
        key = documents[index], texts[index]
        counts[key] = counts.get(key, 0) + 1
        is_copy[index] = counts[key] > limit
    return is_copy


def _may_be_copied(stretch: Stretch) -> np.ndarray:
    """All lines of which an equal one stands in their document, and by chance others."""
    hashes = np.fromiter(map(hash, stretch.sides[0]), np.int64, stretch.num_lines)
    _, groups, sizes = np.unique(hashes ^ stretch.documents, return_inverse=True, return_counts=True)
    return np.asarray(sizes[groups] > 1)


def script(stretch: Stretch, candidates: np.ndarray, limit: float) -> np.ndarray:
    """Lines with too few letters of the language's script among their characters (white space apart)."""
    is_faulty = np.zeros(len(candidates), np.bool_)
    for side, language in zip(stretch.characters, stretch.languages, strict=True):
        table = in_script(language)
        if table is not None:
            visible = side.lengths_L - side.sums(side.are_spaces)
            is_faulty |= side.sums(table[side.codes_C]) < limit * visible
    return is_faulty


def markup(stretch: Stretch, candidates: np.ndarray, limit: float) -> np.ndarray:
    """Lines that are too much addresses, tags, entities and rows of signs."""
    is_faulty = np.zeros(len(candidates), np.bool_)
    for texts, side in zip(stretch.sides, stretch.characters, strict=True):
        for index in np.flatnonzero(candidates & _may_have_markup(side)).tolist():
            text = texts[index]
            marked = sum(found.end() - found.start() for found in MARKUP.finditer(text))
            is_faulty[index] |= marked > limit * len(text)
    return is_faulty


def _may_have_markup(side: Characters) -> np.ndarray:
    codes = side.codes_C
    is_sign = _SIGN[np.minimum(codes, len(_SIGN) - 1)]
    is_w = codes == ord("w")
    is_sign[2:] |= is_w[2:] & is_w[1:-1] & is_w[:-2]
    return side.sums(is_sign) > 0


_SIGN = np.zeros(129, np.bool_)
_SIGN[[ord(sign) for sign in SIGNS]] = True


def repeats(stretch: Stretch, candidates: np.ndarray, limit: float) -> np.ndarray:
    """Lines of which too many runs of 3 words (without spaces: of 8 letters) stand earlier in them."""
    is_faulty = np.zeros(len(candidates), np.bool_)
    for texts, side in zip(stretch.sides, stretch.characters, strict=True):
        for index in np.flatnonzero(candidates & _may_repeat(side)).tolist():
            is_faulty[index] |= repeated_share(texts[index], limit) > limit
    return is_faulty


def _may_repeat(side: Characters) -> np.ndarray:
    """All texts of which `repeated_share` may be above 0 and that are long enough to be judged."""
    is_divided = side.words * LETTERS_A_SPACE >= side.lengths_L
    return (side.lengths_L >= FEWEST_LETTERS) & (~is_divided | (side.words >= FEWEST_WORDS))


def repeated_share(text: str, least: float = 0.0) -> float:
    """Share of a text's runs of words that stand earlier in it; 0 for one that is surely not above `least`."""
    words = text.split()
    if len(words) * LETTERS_A_SPACE < len(text):
        runs = len(text) - LETTERS + 1
        return 1 - len({text[at : at + LETTERS] for at in range(runs)}) / runs
    runs = len(words) - WORDS + 1
    if len(words) < FEWEST_WORDS or len(words) - len(set(words)) < least * runs:
        return 0.0  # for a run that stands earlier begins with a word that does
    return 1 - len(set(zip(words, words[1:], words[2:], strict=False))) / runs
