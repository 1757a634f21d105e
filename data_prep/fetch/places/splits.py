"""What is held out: pages or texts, chosen by a hash of name or words, less what the others say in nearly the same words.

The English text decides, for all languages at once, so that a sentence of one pair is not trained on in another. All is
judged against one reference, the English help and all English messages: the same text is in the same split whichever
languages are asked for, today or later.
"""

from __future__ import annotations

from collections.abc import Iterable

from data_prep.chosen_by_hash import is_chosen
from data_prep.fetch.places.near_copies import NearCopies, words_of
from ernie_m.base.console import Progress
from ernie_m.corpus.shard_table import HELD_OUT, TRAIN

HELD_OUT_PAGES = 0.05
"""Of the pages of the help and of the windows, or of the texts."""


class Splits:
    """Which split a text is in; None: in neither, since it would cross."""

    def __init__(self, reference: Iterable[tuple[str, str]], by_text: bool = False) -> None:
        """`reference` holds (page, English text). `by_text`: single texts are held out, where a page is a whole program."""
        self.by_text = by_text
        trained, apart = dict[tuple[str, ...], None](), dict[tuple[str, ...], None]()
        for page, english in reference:
            (apart if self._is_chosen(page, english) else trained)[words_of(english)] = None
        kept = NearCopies(trained)
        progress = Progress("held out: near copies", len(apart), "texts")
        self.held_out = set()
        for words in apart:
            if words and not kept.has(words):
                self.held_out.add(words)
            progress.advance(1)
        progress.close()
        self.trained = set(trained)
        self.apart = NearCopies(self.held_out)

    def of(self, page: str, english: str) -> str | None:
        """`train`, `held_out` or None."""
        words = words_of(english)
        if words in self.trained:
            return None if self._is_chosen(page, english) else TRAIN
        if words in self.held_out:
            return HELD_OUT
        return None if self._is_chosen(page, english) or self.apart.has(words) else TRAIN

    def _is_chosen(self, page: str, english: str) -> bool:
        return is_chosen(" ".join(words_of(english)) if self.by_text else page, HELD_OUT_PAGES)
