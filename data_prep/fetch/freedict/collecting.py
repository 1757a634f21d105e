"""The pairs of two languages out of the entries of their dictionaries: a few of each headword, and words held out."""

from __future__ import annotations

from collections import Counter

from data_prep.chosen_by_hash import is_chosen
from data_prep.fetch.freedict.entry import Entry
from data_prep.fetch.pair_files import Pairs
from ernie_m.base.language_codes import canonical
from ernie_m.corpus.shard_table import HELD_OUT, TRAIN

OF_A_SENSE, OF_A_HEADWORD = 3, 6
"""Translations that are taken, the first ones: later ones are rarer words, and a headword in twenty lines would weigh twenty
times as much as others."""
HELD_OUT_WORDS = 0.025
"""Of the words of each language, in all its pairs: about 5 % of the pairs of two."""
UNCLEAR, EXPLANATIONS, BEYOND, SAME, REPEATS = LEFT_OUT = (
    "unclear",
    "explanations",
    "beyond the first",
    "same in both",
    "repeats",
)


class Collected:
    """Pairs of two languages, of one dictionary or of both directions."""

    def __init__(self, languages: tuple[str, str]) -> None:
        self.languages = languages
        self.left_out: Counter[str] = Counter()
        self.taken: Counter[tuple[bool, str]] = Counter()
        """Translations of (direction, headword)."""
        self.found: dict[tuple[str, str], tuple[str, str]] = {}
        """What is compared -> the pair, in the order of `languages`."""
        self.apart: set[tuple[str, str]] = set()

    def add(self, entry: Entry, is_turned: bool) -> None:
        """`is_turned`: its headwords are in the second language."""
        self.left_out[UNCLEAR] += entry.unclear
        self.left_out[EXPLANATIONS] += entry.explanations
        for headword in entry.headwords:
            key = (is_turned, headword.casefold())
            for sense in entry.senses:
                for number, translation in enumerate(sense):
                    if number >= OF_A_SENSE or self.taken[key] >= OF_A_HEADWORD:
                        self.left_out[BEYOND] += 1
                        continue
                    self.taken[key] += 1
                    self._add((headword, translation), is_turned, False)
        is_apart = any(self._is_apart(headword, is_turned) for headword in entry.headwords)
        for example in entry.examples:
            self._add(example, is_turned, is_apart)

    def _add(self, pair: tuple[str, str], is_turned: bool, is_apart: bool) -> None:
        ours = pair[::-1] if is_turned else pair
        key = (ours[0].casefold(), ours[1].casefold())
        if key[0] == key[1]:
            self.left_out[SAME] += 1
            return
        if key in self.found:
            self.left_out[REPEATS] += 1
        self.found.setdefault(key, ours)
        if is_apart or self._is_apart(ours[0], False) or self._is_apart(ours[1], True):
            self.apart.add(key)

    def _is_apart(self, word: str, is_second: bool) -> bool:
        return is_chosen(f"{canonical(self.languages[is_second])} {word.casefold()}", HELD_OUT_WORDS)

    def pairs(self) -> Pairs:
        """All, in the order of the dictionaries."""
        pairs = Pairs(self.languages, left_out=self.left_out)
        for key, pair in self.found.items():
            pairs.by_split[HELD_OUT if key in self.apart else TRAIN].append(pair)
        return pairs
