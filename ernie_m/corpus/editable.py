"""A tokenizer whose pieces can be removed and extended: what all kinds have in common.

A kind says how it cuts words into pieces, and which pieces need which others; and it writes itself with other pieces. Ids
keep their order. New pieces come after the last piece that is not special: before XLM-R's <mask>, which is the last id.
"""

from __future__ import annotations

import itertools
import unicodedata
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from ernie_m.corpus.joins import SPACE, NewPiece

A_TOKEN_SAVED = 0.05
"""Score of a new piece of a unigram model above the sum of the old pieces that it replaces, for each token saved. It is far
less than the usual difference between two ways to cut a text, and far more than the rounding of a 32-bit sum."""
MORE_FREQUENT = 0.025  # at most, for the piece with the greatest gain, so that two that overlap never tie
USUAL_SHARE = 1e-3
"""Least share of a corpus's letters for a script to count; below it, the script only occurs in quotations."""


@dataclass(frozen=True)
class RowSources:
    """Which old rows each new row starts from: the mean of ids[offsets[i] : offsets[i + 1]], of all where there are none."""

    ids: np.ndarray  # int64 [num_sources]
    offsets: np.ndarray  # int64 [new size + 1]
    is_same: np.ndarray
    """bool [new size]: this is an old piece under a new id; its one source is its old id."""

    @staticmethod
    def of(sources: Sequence[tuple[int, ...]], is_same: Sequence[bool]) -> RowSources:
        """From the old ids of each new one."""
        offsets = np.cumsum([0, *map(len, sources)], dtype=np.int64)
        return RowSources(np.array([i for ids in sources for i in ids], np.int64), offsets, np.array(is_same, np.bool_))

    def __len__(self) -> int:
        return len(self.is_same)

    def same(self) -> np.ndarray:
        """The old id of each new id, -1 for a new piece: int64 [new size]."""
        found = np.full(len(self), -1, np.int64)
        found[self.is_same] = self.ids[self.offsets[:-1][self.is_same]]
        return found


class Editable(Protocol):
    """A tokenizer's file, as a set of pieces."""

    path: Path
    names: dict[int, str]
    """Every token by its id."""
    fixed: set[int]
    """Tokens that stay, whatever the corpora use: special ones, bytes, and what the kind cannot be without."""
    with_steps: bool
    """Whether a long piece is made of shorter ones, which then have to be there (BPE)."""

    def words(self, line: str) -> Iterable[str]:
        """The line as the kind sees it, cut where no new piece may reach over."""

    def segmented(self, word: str) -> list[int]:
        """Ids of a word."""

    def joined(self, left: str, right: str) -> str | None:
        """The name of two neighbours as one piece; None where they cannot be one."""

    def text(self, name: str) -> str | None:
        """What a piece stands for, U+2581 for a space; None for bytes that are no whole character."""

    def with_needed(self, ids: set[int], new: Sequence[NewPiece]) -> set[int]:
        """The ids, and those old ones that they and the new pieces cannot be made without."""

    def rewritten(self, kept: set[int], new: Sequence[NewPiece]) -> tuple[bytes, RowSources]:
        """The file's content with these old ids, in their order, and the new pieces."""


def runs_of(editable: Editable, word: str) -> list[tuple[int, ...]]:
    """The stretches of a word's pieces within which joins may be made: of letters alone, as far as whole characters go."""
    runs: list[list[int]] = [[]]
    for i in editable.segmented(word):
        name = editable.names[i]
        if i in editable.fixed or editable.joined("", name) is None:
            runs.append([])
        else:
            runs[-1].append(i)
    return [tuple(run) for run in runs if len(run) > 1]


def counted_runs(editable: Editable, words: Counter[str]) -> Counter[tuple[int, ...]]:
    """Stretches of old pieces in which joins may be made -> how often they stand in the text."""
    runs: Counter[tuple[int, ...]] = Counter()
    for word, times in words.items():
        for run in runs_of(editable, word):
            runs[run] += times
    return runs


def script(character: str) -> str:
    """The script of a letter, by the first word of its name in Unicode: LATIN, CYRILLIC, CJK."""
    return unicodedata.name(character, "?").split()[0]


def is_letter(character: str) -> bool:
    """Whether a character belongs to a script: letters and their marks."""
    return unicodedata.category(character)[0] in "LM"


def usual_scripts(characters: Counter[str]) -> set[str]:
    """The scripts of at least USUAL_SHARE of the letters."""
    scripts: Counter[str] = Counter()
    for character, times in characters.items():
        if is_letter(character):
            scripts[script(character)] += times
    return {name for name, times in scripts.items() if times >= USUAL_SHARE * scripts.total()}


def characters_of(editable: Editable, scripts: Collection[str]) -> set[int]:
    """Pieces of one character, but for letters of other scripts: so other text in these scripts is not unknown."""
    found = set()
    for i, name in editable.names.items():
        text = editable.text(name)
        if text is None or len(text.removeprefix(SPACE)) > 1:
            continue
        character = text[-1:]
        if not character or not is_letter(character) or script(character) in scripts:
            found.add(i)
    return found


def scores_of(new: Sequence[NewPiece], score: Callable[[int], float]) -> list[float]:
    """Unigram scores of new pieces, in 32 bits.

    A piece stands for the old pieces that the best path has there, and its score is their sum and a little more. So it wins
    where the best path had a border at both its ends, and nowhere else: neighbours are joined, no border moves.
    """
    scores = []
    for place, piece in enumerate(new):
        bonus = A_TOKEN_SAVED * (len(piece.parts) - 1) + MORE_FREQUENT * (1 - place / len(new))
        scores.append(float(np.float32(sum(map(score, piece.parts)) + bonus)))
    return scores


def order_of(
    names: dict[int, str], is_special: Callable[[int], bool], kept: set[int], new: Sequence[NewPiece]
) -> list[int | NewPiece]:
    """Old ids and new pieces in the order of the new ids: behind the last kept token that is not special come the new."""
    ids = sorted(i for i in names if i in kept)
    last = max((at for at, i in enumerate(ids) if not is_special(i)), default=len(ids) - 1) + 1
    return [*ids[:last], *once(new), *ids[last:]]


def once(new: Sequence[NewPiece]) -> list[NewPiece]:
    """Each piece once, as it was made first."""
    first: dict[str, NewPiece] = {}
    for piece in new:
        first.setdefault(piece.name, piece)
    return [*first.values()]


def sources_of(order: Sequence[int | NewPiece]) -> RowSources:
    """Where the rows of that order come from."""
    sources = [(token,) if isinstance(token, int) else token.parts for token in order]
    return RowSources.of(sources, [isinstance(token, int) for token in order])


def steps_to(name: str, rank: Callable[[str, str], float | None]) -> list[tuple[str, str]]:
    """The merges that make a piece out of its characters, in order: the lowest rank first, and of those the leftmost.

    Pairs that reach over the piece's ends were not merged where it came out, so it is made as if it stood alone.
    """
    symbols, steps = [*name], []
    while len(symbols) > 1:
        ranks = [(rank(*pair), at) for at, pair in enumerate(itertools.pairwise(symbols))]
        found = [(value, at) for value, at in ranks if value is not None]
        if not found:
            break
        _, at = min(found)
        steps.append((symbols[at], symbols[at + 1]))
        symbols[at : at + 2] = [symbols[at] + symbols[at + 1]]
    return steps
