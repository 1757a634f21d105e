"""From segments to the files of a corpus: pairs of the asked languages, held-out pairs of all with each other, and text."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import combinations
from pathlib import Path

from data_prep.fetch import pair_files
from data_prep.fetch.packages import Package
from data_prep.fetch.places.segments import Segments
from data_prep.fetch.places.selection import LEFT_OUT, documents_of, judged, pairs_of
from data_prep.fetch.places.splits import Splits
from ernie_m.base.console import Progress
from ernie_m.corpus.shard_table import HELD_OUT


def write(
    to: Path,
    corpus: str,
    asked: Sequence[tuple[str, str]],
    languages: list[str],
    segments: Segments,
    splits: Splits,
    brought: Iterable[Package],
) -> None:
    """Write all files of a corpus, add them to `to`/catalog.yaml, print what became of the places."""
    places = judged(segments, splits)
    apart = [place for place in places if place.split == HELD_OUT]
    wanted = _all_pairs(languages, asked)
    progress = Progress("choosing", len(wanted), "pairs of languages")
    found = []
    for pair in wanted:
        found.append(pairs_of(places if pair in asked else apart, pair))
        progress.advance(1)
    progress.close()
    texts = {language: documents_of(places, language) for language in languages}
    pair_files.write(to, corpus, asked, found, texts, brought, ("at one place", *LEFT_OUT))


def _all_pairs(languages: list[str], asked: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """The asked pairs, then all others."""
    present = {frozenset(pair) for pair in asked}
    return [*asked, *(pair for pair in combinations(languages, 2) if frozenset(pair) not in present)]
