"""Lines of text translated in batches of lines of about one length, and given back in their order."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from ernie_m.base.command_line import nearest
from ernie_m.base.console import InputError, Progress
from ernie_m.corpus.any_vocabulary import AnyVocabulary
from ernie_m.models.decoding import translated
from ernie_m.models.translation import TranslationModel

NUM_SPECIAL = 2  # around a sentence


def language_numbers(direction: str, languages: Sequence[str]) -> tuple[int, int]:
    """Numbers of source and target language of a direction such as fr-en; InputError for one that the model has not."""
    for number, source in enumerate(languages, start=1):  # a language may have a hyphen in its name
        target = direction.removeprefix(f"{source}-")
        if target != direction and target in languages and target != source:
            return number, 1 + list(languages).index(target)
    pairs = [f"{source}-{target}" for source in languages for target in languages if source != target]
    shown = ", ".join(pairs[:6]) + (" ..." if len(pairs) > 6 else "")
    raise InputError(
        f"--direction {direction}{nearest(direction, pairs) or ':'} expected two languages of the model: {shown}"
    )


@dataclass(frozen=True)
class Translator:
    """Translates lines from one language to another. `longest`: positions that the model has for a sentence."""

    model: TranslationModel
    vocabulary: AnyVocabulary
    languages: tuple[int, int]
    longest: int
    batch_tokens: int

    def lines(self, lines: Sequence[str]) -> list[str]:
        """A translation of each line, of an empty one an empty one. Tells which lines are too long, and how far it is."""
        texts = self.vocabulary.encode_batch(list(lines))
        sources = [texts.values[a:b] for a, b in zip(texts.offsets[:-1], texts.offsets[1:], strict=True)]
        most, found = self.longest - NUM_SPECIAL, [""] * len(lines)
        for number, source in enumerate(sources, start=1):
            if len(source) > most:
                print(f"line {number}: {len(source)} tokens, the model reads {most}; the rest is left out", file=sys.stderr)
        sources = [source[:most] for source in sources]
        progress = Progress("translating", sum(map(len, sources)), "tokens")
        for batch in self._batches([len(source) for source in sources]):
            chosen = [sources[i] for i in batch]
            targets = translated(self.model, chosen, self.languages, self.longest)
            for i, target in zip(batch, targets, strict=True):
                found[i] = " ".join(self.vocabulary.decode(np.asarray(target).tolist()).split())
            progress.advance(sum(map(len, chosen)))
        progress.close()
        return found

    def _batches(self, lengths: Sequence[int]) -> Iterator[list[int]]:
        """Numbers of the lines that have tokens, longest first, as many at a time as `batch_tokens` allows; at least one."""
        order = sorted((i for i, length in enumerate(lengths) if length), key=lambda i: (-lengths[i], i))
        while order:
            count = max(1, self.batch_tokens // (lengths[order[0]] + NUM_SPECIAL))
            yield order[:count]
            order = order[count:]
