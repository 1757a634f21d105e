"""Lines of text translated in batches of lines of about one length, and given back in their order."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ernie_m.base.console import Progress
from ernie_m.corpus.any_vocabulary import AnyVocabulary
from ernie_m.models.beams import Search, searched
from ernie_m.models.decoding import Translates, longest_target
from ernie_m.models.packed import packed

NUM_SPECIAL = 2  # around a sentence
BATCH = 4096
"""Tokens of the sentences that are translated together, padding and beams included."""


@dataclass(frozen=True)
class Share:
    """Which of several processes this one is, and `gathered`: what all have, in their order, for the first of them."""

    rank: int = 0
    world_size: int = 1
    gathered: Callable[[Any], list[Any] | None] = lambda mine: [mine]


@dataclass(frozen=True)
class Translator:
    """Translates lines from one language to another. `positions`: that the model has for a sentence.

    `longest`: most tokens of a translation; None: 1.5 n + 10, n of its source.
    """

    model: Translates
    vocabulary: AnyVocabulary
    languages: tuple[int, int]
    positions: int
    batch_tokens: int = BATCH
    search: Search = field(default_factory=Search)
    longest: int | None = None

    def lines(self, lines: Sequence[str], share: Share | None = None) -> list[str]:
        """A translation of each line, of an empty one an empty one. Tells which lines are too long, and how far it is.

        Of several processes each translates its share; only the first gets lines, and all of them.
        """
        share = share or Share()
        sources = self._sources(lines, tells=share.rank == 0)
        batches = list(self._batches([len(source) for source in sources]))[share.rank :: share.world_size]
        progress = Progress("translating", sum(len(sources[i]) for batch in batches for i in batch), "tokens")
        found: dict[int, str] = {}
        with packed(self.model):
            for batch in batches:
                chosen = [sources[i] for i in batch]
                limits = [self._limit(len(source)) for source in chosen]
                targets = searched(self.model, chosen, self.languages, limits, self.search)
                found |= {i: self._text(target) for i, target in zip(batch, targets, strict=True)}
                if share.rank == 0:
                    progress.advance(sum(map(len, chosen)))
        if share.rank == 0:
            progress.close()
        whole: dict[int, str] = {}
        for part in share.gathered(found) or []:
            whole |= part
        return [whole.get(i, "") for i in range(len(lines))] if share.rank == 0 else []

    def _sources(self, lines: Sequence[str], tells: bool) -> list[np.ndarray]:
        texts = self.vocabulary.encode_batch(list(lines))
        sources = [texts.values[a:b] for a, b in zip(texts.offsets[:-1], texts.offsets[1:], strict=True)]
        most = self.positions - NUM_SPECIAL
        for number, source in enumerate(sources, start=1):
            if len(source) > most and tells:
                print(f"line {number}: {len(source)} tokens, the model reads {most}; the rest is left out", file=sys.stderr)
        return [source[:most] for source in sources]

    def _limit(self, num_tokens: int) -> int:
        return min(longest_target(num_tokens) if self.longest is None else self.longest, self.positions - NUM_SPECIAL)

    def _text(self, target: np.ndarray) -> str:
        return " ".join(self.vocabulary.decode(target.tolist()).split())

    def _batches(self, lengths: Sequence[int]) -> Iterator[list[int]]:
        """Numbers of the lines that have tokens, longest first, as many at a time as `batch_tokens` allows; at least one.

        Each beam counts.
        """
        order = sorted((i for i, length in enumerate(lengths) if length), key=lambda i: (-lengths[i], i))
        while order:
            count = max(1, self.batch_tokens // ((lengths[order[0]] + NUM_SPECIAL) * self.search.beams))
            yield order[:count]
            order = order[count:]
