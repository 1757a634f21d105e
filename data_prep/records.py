"""What travels through the pipeline: file -> chunk -> lines -> rows of ids -> shard."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

Count = Callable[[int], None]
"""Told how many (compressed) bytes of input have just been read."""


def no_count(num_bytes: int) -> None:
    """A `Count` for callers that show no progress."""


@dataclass(frozen=True)
class Chunk:
    """A stretch of a corpus: the unit of work and of restart. Chunks of a corpus are numbered from 0 in file order.

    `content` is what the format's reader cuts and later parses: whole lines, a text a side; of TMX a line a unit.
    """

    index: int
    content: tuple[bytes, ...]
    starts_document: bool = True
    """Monolingual: whether its first line is the first of a document."""
    faults: bytes = b""
    """TMX: what is wrong with each unit, a byte each."""
    noted: Mapping[str, int] = field(default_factory=dict)
    """TMX: what a person should know of units that are kept -> how often."""


class Lines(NamedTuple):
    """Some lines (pairs, units) of a chunk, a column a language, in the catalog's order of languages.

    A line in `rejected` cannot be used, for that reason; its texts are there to be shown.
    """

    numbers: np.ndarray
    """Line in the chunk, from 1: int64 [lines]."""
    texts: tuple[list[str], ...]
    rejected: dict[int, str]
    """Index in these lines -> reason."""
    documents: np.ndarray
    """Number of the document in the chunk: int64 [lines]; zeros for pairs."""
    noted: dict[str, int] = {}  # noqa: RUF012 - never changed
    """What a person should know of lines that are kept -> how often."""
