"""What every team of a build has to know."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from data_prep.catalog import Corpus
from data_prep.growth import Growth

STOP, QUARANTINE = "stop", "quarantine"
"""What is done with a corpus that cannot be used."""


@dataclass(frozen=True)
class Job:
    """A build: its corpora, tokenizer and folder, and how it goes about them."""

    corpora: tuple[Corpus, ...]
    tokenizer: Path
    out: Path
    chunk_bytes: int
    quarantines: bool
    """Whether a corpus that cannot be used is left out; else it stops the build."""
    allows_unknown: bool = False
    """Whether a language is taken that the tokenizer does not know."""
    keeps_held_out_apart: bool = True
    """Whether what is held out of pairs is kept out of all corpora."""
    growth: Growth | None = None
    """What may be taken over from another folder."""

    @property
    def held_out(self) -> tuple[Corpus, ...]:
        """The corpora of which pairs are held out that must not stand in others."""
        return tuple(corpus for corpus in self.corpora if corpus.held_out and self.keeps_held_out_apart)
