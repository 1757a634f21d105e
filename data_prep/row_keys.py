"""Keys of rows, by which repeated ones are found: of exact copies and of near duplicates, written beside a shard."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from data_prep import near_duplicates, work_folder
from data_prep.catalog import ACROSS, Corpus
from data_prep.near_duplicates import Near, Signatures

KEY = np.dtype([("high", ">u8"), ("low", ">u8"), ("row", "<i8")])
EXACT, NEAR, SKETCHES = "keys", "near", "sketches"

Group = tuple[Near | None, str]
"""Corpora whose rows are compared with each other: settings of near duplicates (None: exact copies), and which corpora."""


def groups_of(name: str, languages: Iterable[str], deduplicate: bool | str, near: Near | None) -> list[Group]:
    """The groups of a corpus, by what its catalog entry says; first that for exact copies."""
    same_languages = str(sorted(languages))
    exact: list[Group] = [(None, same_languages if deduplicate == ACROSS else name)] if deduplicate else []
    return [*exact, (near, same_languages)] if near else exact


class RowKeys:
    """Keys of the rows of one split of one chunk, gathered until they are written; as far as the corpus asks for them."""

    def __init__(self, corpus: Corpus) -> None:
        self.corpus = corpus
        self.num_rows = 0
        self._exact: list[np.ndarray] = []
        self._near: list[Signatures] = []

    def add(self, sides: Sequence[Sequence[str]]) -> None:
        """Add some rows: their texts in each language."""
        if self.corpus.deduplicate:
            self._exact.append(row_keys(sides))
        if self.corpus.deduplicate_near:
            found = near_duplicates.signatures(sides, self.corpus.deduplicate_near)
            self._near.append(found._replace(rows_R=found.rows_R + self.num_rows))
        self.num_rows += len(sides[0])

    def write(self, out: Path, split: str, index: int) -> None:
        """Write the files that deduplicate.py reads."""
        if self._exact:
            self._write(out, split, index, EXACT, sorted_keys(np.concatenate(self._exact)))
        if self._near:
            sketches = np.zeros((self.num_rows, self._near[0].sketches_RP.shape[1]), np.uint8)
            for part in self._near:
                sketches[part.rows_R] = part.sketches_RP
            self._write(out, split, index, SKETCHES, sketches)
            del sketches, part
            rows, keys = (np.concatenate([part[column] for part in self._near]) for column in (0, 1))
            self._near.clear()  # a tenth of a gigabyte, of a chunk of short lines
            self._write(out, split, index, NEAR, near_duplicates.sorted_band_keys(rows, keys))

    def _write(self, out: Path, split: str, index: int, kind: str, array: np.ndarray) -> None:
        work_folder.write_array(work_folder.keys_path(out, self.corpus.name, split, index, kind), array)


def row_keys(sides: Sequence[Sequence[str]]) -> np.ndarray:
    """A key a row, KEY [rows], without row numbers; sides are joined by NUL-newline, which no line holds."""
    joined = b"".join(
        hashlib.blake2b("\0\n".join(texts).encode("utf-8"), digest_size=16).digest() for texts in zip(*sides, strict=True)
    )
    halves = np.frombuffer(joined, dtype=">u8").reshape(-1, 2)
    keys = np.zeros(len(halves), KEY)
    keys["high"], keys["low"] = halves[:, 0], halves[:, 1]
    return keys


def sorted_keys(keys: np.ndarray) -> np.ndarray:
    """The keys of a shard with their row numbers, in the order of the keys."""
    keys = keys.copy()
    keys["row"] = np.arange(len(keys))
    return keys[np.lexsort((keys["low"], keys["high"]))]
