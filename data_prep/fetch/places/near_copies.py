"""Which text is nearly one of many: exact Jaccard similarity of word sets, found by the rarest words (prefix filtering).

Two sets that share enough words share one of the rarest of each (Chaudhuri, Ganti and Kaushik 2006; Bayardo et al. 2007).
"""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable

WORD = re.compile(r"\w+")
DIGIT = re.compile(r"\d")
LEAST = 0.7
"""Shared words per word of either: at 0.7, 15 words may differ in two."""


def words_of(text: str) -> tuple[str, ...]:
    """Lower case, digits alike: what two texts are compared by."""
    return tuple(WORD.findall(DIGIT.sub("0", text.lower())))


class NearCopies:
    """Many texts, asked whether a further one is nearly one of them."""

    def __init__(self, texts: Iterable[tuple[str, ...]]) -> None:
        sets = [frozenset(words) for words in dict.fromkeys(texts) if words]
        self.counts = Counter(word for words in sets for word in words)
        self.by_word: dict[str, list[frozenset[str]]] = defaultdict(list)
        for words in sets:
            for word in self._rarest(words):
                self.by_word[word].append(words)

    def _rarest(self, words: frozenset[str]) -> list[str]:
        needed = len(words) - math.ceil(LEAST * len(words)) + 1
        return sorted(words, key=lambda word: (self.counts[word], word))[:needed]

    def has(self, text: tuple[str, ...]) -> bool:
        """Whether one of the texts shares LEAST of the words with this one."""
        words = frozenset(text)
        return any(
            len(words & other) >= LEAST * len(words | other)
            for word in self._rarest(words)
            for other in self.by_word.get(word, ())
            if LEAST * len(words) <= len(other) <= len(words) / LEAST
        )
