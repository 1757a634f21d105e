"""Which texts of the segments become pairs, and which become text of one language; each choice is counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from data_prep.fetch.pair_files import Pairs
from data_prep.fetch.places.near_copies import words_of
from data_prep.fetch.places.segments import PIVOT, Segments, same_as_english
from data_prep.fetch.places.splits import Splits
from ernie_m.corpus.shard_table import TRAIN

LEAST_WORDS = 3
"""Of the English text of a pair."""
BEGINNING_WORDS, SAME_BEGINNING = 5, 8
"""Of templates ("Enter the amount of space ...") at most so many texts that begin with the same words stay."""
LEFT_OUT = ("not translated", "short", "repeats", "templates", "near held-out text")


class Judged(NamedTuple):
    """All that is said at one place: judged once, since many pairs of languages ask."""

    page: str
    words: tuple[str, ...]
    """Of the English text."""
    split: str | None
    texts: dict[str, str]


def judged(segments: Segments, splits: Splits) -> list[Judged]:
    """The segments, in their order."""
    return [
        Judged(page, words_of(texts[PIVOT]), splits.of(page, texts[PIVOT]), texts) for (page, _), texts in segments.items()
    ]


def pairs_of(places: Iterable[Judged], languages: tuple[str, str]) -> Pairs:
    """The pairs of two languages in the order of the places, the first of each English text."""
    found, seen, beginnings = Pairs(languages), set(), Counter[tuple[str, ...]]()
    for _, words, split, texts in places:
        if not all(language in texts for language in languages):
            continue
        if same_as_english(texts, languages) or texts[languages[0]].casefold() == texts[languages[1]].casefold():
            found.left_out["not translated"] += 1
        elif len(words) < LEAST_WORDS:
            found.left_out["short"] += 1
        elif words in seen:
            found.left_out["repeats"] += 1
        elif split is None:
            found.left_out["near held-out text"] += 1
        elif beginnings[words[:BEGINNING_WORDS]] >= SAME_BEGINNING and len(words) > BEGINNING_WORDS:
            found.left_out["templates"] += 1
        else:
            seen.add(words)
            beginnings[words[:BEGINNING_WORDS]] += 1
            found.by_split[split].append((texts[languages[0]], texts[languages[1]]))
    return found


def documents_of(places: Iterable[Judged], language: str) -> Iterator[list[str]]:
    """The training text of a language, page by page, each text once."""
    seen: set[str] = set()
    page_before, lines = "", list[str]()
    for page, _, split, texts in places:
        if page != page_before and lines:
            yield lines
            lines = []
        page_before = page
        text = texts.get(language, "")
        is_new = text and text.casefold() not in seen
        if is_new and split == TRAIN and not same_as_english(texts, [language]):
            seen.add(text.casefold())
            lines.append(text)
    if lines:
        yield lines
