"""The work of `align`, as ranks do it: a model for each stream, then the links of each shard. Any rank gives the same.

A stream's model is trained on a sample of its rows, chosen by a number that each row has of its own: those of the lowest
numbers, as many as asked for and as fit into memory.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from pathlib import Path

import numpy as np

from data_prep.word_alignment import model_files
from data_prep.word_alignment.cells import SortedPairs, taken
from data_prep.word_alignment.decoding import links_of
from data_prep.word_alignment.engines import engine
from data_prep.word_alignment.link_files import Place, read_rows
from data_prep.word_alignment.model import Settings, train
from ernie_m.base.console import InputError, Progress
from ernie_m.base.files import sha256_of
from ernie_m.base.sampling import key_of, mix
from ernie_m.corpus.columns import LINKS, ColumnEntry, Companion, write_companion
from ernie_m.corpus.folder import HELD_OUT, TRAIN, CorpusFolder, Shard, Stream
from ernie_m.corpus.mapped_file import mapped_batch
from ernie_m.corpus.ragged import EncodedTexts

TRAIN_CELLS = 1 << 28
"""Most cells to train on. Their types take 21 bytes each, numpy's engine 4 a cell more."""
TRAIN_TOKENS = 200
"""Longer sentences are aligned, but not trained on: they have many cells, which say little."""


@dataclass(frozen=True)
class Method:
    """How links are made; all that they depend on beside the data."""

    symmetrization: str
    settings: Settings
    train_pairs: int
    seed: int


@dataclass(frozen=True)
class Training:
    """One stream's model to train, into `folder`."""

    data: Path
    stream: str
    folder: Path
    method: Method
    engine: str
    shows: bool
    """Whether its progress is shown."""


@dataclass(frozen=True)
class Aligning:
    """One shard's links to make: by the model in `model`, or from the file at `place`."""

    data: Path
    place: int
    """Of the shard, in the manifest's order."""
    model: Path | None
    links: Place | None
    tokenizer: Path | None
    """Where the file's links are between words."""
    method: Method
    engine: str


@dataclass(frozen=True)
class Aligned:
    """A shard with its links."""

    place: int
    entry: ColumnEntry
    linked: tuple[int, int]
    """Source and target tokens with a link."""


def train_stream(task: Training) -> None:
    """Train and save a stream's model, unless it is there."""
    if model_files.is_whole(task.folder):
        return
    folder = CorpusFolder(task.data)
    stream = next(s for s in pair_streams(folder) if s.name == task.stream)
    pairs, settings = SortedPairs.of(*sample(stream, task.method)), task.method.settings
    progress = Progress(f"train {task.stream}", 2 * (settings.iterations - 1) * pairs.num_cells, "cells")
    advance = progress.advance if task.shows else (lambda _: None)
    model = train(pairs, folder.manifest.vocab_size, settings, engine(task.engine), advance)
    model_files.save(task.folder, model, len(pairs.order))
    if task.shows:
        progress.close()


def pair_streams(folder: CorpusFolder) -> list[Stream]:
    """Each pair of languages once: the training split where there is one."""
    streams = {stream.name: stream for split in (HELD_OUT, TRAIN) for stream in folder.parallel(split)}
    return list(streams.values())


def sample(stream: Stream, method: Method) -> tuple[EncodedTexts, EncodedTexts]:
    """The pairs that a stream's model is trained on: the text of both sides, in the stream's order."""
    share = min(1.0, method.train_pairs / max(1, stream.num_rows))
    key, borders = key_of(method.seed, stream.name, "align") & (2**64 - 1), [0]
    rows_R, numbers_R, cells_R = [np.zeros(0, np.int64)], [np.zeros(0, np.uint64)], [np.zeros(0, np.int64)]
    for shard in stream.shards:
        rows = np.arange(borders[-1], borders[-1] + shard.entry.rows)
        borders.append(borders[-1] + shard.entry.rows)
        numbers = mix(rows.astype(np.uint64) + np.uint64(key))
        lengths = np.diff(shard.borders(0, shard.entry.rows), axis=0)
        is_chosen = ((numbers >> np.uint64(11)) < share * 2.0**53) & (lengths.max(axis=1) <= TRAIN_TOKENS)
        rows_R.append(rows[is_chosen])
        numbers_R.append(numbers[is_chosen])
        cells_R.append(lengths[is_chosen].prod(axis=1))
    by_number = np.argsort(np.concatenate(numbers_R), kind="stable")
    fitting = by_number[np.cumsum(np.concatenate(cells_R)[by_number]) <= TRAIN_CELLS][: method.train_pairs]
    if not len(fitting):
        raise InputError(f"{stream.name}: no pair of at most {TRAIN_TOKENS} tokens a side; nothing to learn links from")
    kept = np.concatenate(rows_R)[np.sort(fitting)]
    texts: tuple[list[EncodedTexts], list[EncodedTexts]] = [], []
    for shard, (first, last) in zip(stream.shards, pairwise(borders), strict=True):
        of_shard = kept[slice(*np.searchsorted(kept, [first, last]))] - first
        for side, values, offsets in zip(texts, shard.values, shard.offsets, strict=True):
            side.append(taken(EncodedTexts(values, offsets), of_shard))
    return _joined(texts[0]), _joined(texts[1])


def _joined(texts: list[EncodedTexts]) -> EncodedTexts:
    lengths = np.concatenate([np.diff(part.offsets) for part in texts])
    return EncodedTexts(np.concatenate([part.values for part in texts]), np.concatenate([[0], np.cumsum(lengths)]))


@lru_cache(maxsize=1)
def _opened(data: Path) -> CorpusFolder:
    return CorpusFolder(data)


def align_shard(task: Aligning) -> Aligned:
    """Write a shard's links, unless they are there."""
    table = _opened(task.data).manifest.corpora[0].shards.table
    entry = next(table.entries(np.array([task.place]), 2))
    shard, path = Shard(task.data, entry, 2), task.data / LINKS.file_of(entry.file)
    if path.is_file():  # whole, since it has its name; and of this plan, since others' are removed first
        written = _entry_of(path)
    else:
        if task.links is not None:
            rows = read_rows(shard, task.links, task.tokenizer)
        else:
            assert task.model is not None
            sides = [EncodedTexts(*side) for side in zip(shard.values, shard.offsets, strict=True)]
            rows = links_of(
                model_files.load(task.model), sides[0], sides[1], task.method.symmetrization, engine(task.engine)
            )
        written = write_companion(path, LINKS, rows)
    return Aligned(task.place, written, _linked(shard, written, task.data))


def _entry_of(path: Path) -> ColumnEntry:
    size = path.stat().st_size
    _, batch = mapped_batch(path, size)
    return ColumnEntry(len(batch.column(0).values), size, sha256_of(path))


def _linked(shard: Shard, written: ColumnEntry, data: Path) -> tuple[int, int]:
    companion = Companion(data, shard.entry.file, shard.entry.rows, LINKS, written)
    borders = shard.borders(0, shard.entry.rows)
    items_L2, starts = companion.items(0, shard.entry.rows, np.diff(borders, axis=0))
    places = items_L2 + borders[:-1][np.repeat(np.arange(shard.entry.rows), np.diff(starts))]
    return len(np.unique(places[:, 0])), len(np.unique(places[:, 1]))
