"""What travels through the pipeline: reader -> cleaner -> tokenizer -> shard writer."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

Count = Callable[[int], None]
"""Told how many (compressed) bytes of input have just been read."""


def no_count(num_bytes: int) -> None:
    """A `Count` for callers that show no progress."""


class Record(NamedTuple):
    """One line of a monolingual corpus or one pair of a parallel one; rejected when `reason` is set.

    `line` counts from 1 (the unit of a TMX file); `document` numbers a CC-100 file's documents.
    """

    line: int
    texts: tuple[str, ...]
    document: int = 0
    reason: str | None = None

    def rejected(self, reason: str) -> Record:
        """The same record, marked as not to be kept."""
        return Record(self.line, (), self.document, reason)
