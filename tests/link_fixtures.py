"""Links of all pairs of a corpus folder, written as `data_prep align` does: random ones, or those of a rule."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from ernie_m.corpus.columns import LINKS, ColumnTable, write_companion
from ernie_m.corpus.folder import HELD_OUT, CorpusFolder, Shard
from ernie_m.corpus.ragged import Ragged

Links = list[list[tuple[int, int]]]


def shards_of(folder: CorpusFolder) -> list[tuple[int, Shard]]:
    """(place, shard) of all pairs."""
    streams = [*folder.parallel(), *folder.parallel(HELD_OUT)]
    return [(int(p), s) for stream in streams for p, s in zip(stream.entries.places, stream.shards, strict=True)]


def random_links(shard: Shard, seed: int) -> Links:
    rng, lengths = np.random.default_rng(seed), [np.diff(offsets).tolist() for offsets in shard.offsets]
    return [
        sorted({(int(rng.integers(n)), int(rng.integers(m))) for _ in range(int(rng.integers(0, 5)))})
        for n, m in zip(*lengths, strict=True)
    ]


def ragged(links: Links) -> Ragged:
    values = np.array([number for row in links for link in row for number in link], np.int32)
    return Ragged(np.cumsum([0, *(2 * len(row) for row in links)]).astype(np.int32), values)


def write(folder: Path, links_of: Callable[[Shard, int], Links] = random_links) -> dict[str, Links]:
    """Write links of all pairs as `align` does; shard file -> its links."""
    opened, entries, links = CorpusFolder(folder), [], {}
    for place, shard in shards_of(opened):
        links[shard.entry.file] = links_of(shard, place)
        path = folder / LINKS.file_of(shard.entry.file)
        entries.append((place, write_companion(path, LINKS, ragged(links[shard.entry.file]))))
    columns = {LINKS.name: ColumnTable.of(entries[::-1])}
    replace(opened.manifest, columns=columns, columns_made={LINKS.name: {"by": "a test"}}).write(folder)
    return links


def diagonal_links(shard: Shard, seed: int) -> Links:
    """Each token of the shorter sentence linked with the one at about its place in the longer: as an aligner's might be."""
    lengths = [np.diff(offsets).tolist() for offsets in shard.offsets]
    return [[(i * n // k, i * m // k) for i in range(k)] for n, m in zip(*lengths, strict=True) for k in [min(n, m)]]


def many_links(shard: Shard, seed: int) -> Links:
    """About as many random links as tokens: some tokens have none, some several."""
    lengths = zip(*(np.diff(offsets).tolist() for offsets in shard.offsets), strict=True)
    return [[(i, j - n) for i, j in some_links([n, m], seed + row).tolist()] for row, (n, m) in enumerate(lengths)]


def some_links(lengths: list[int], seed: int) -> np.ndarray:
    """Random links of one pair, ascending, int64 [I, 2], as Example has them: the second sentence counts on."""
    rng, (n, m) = np.random.default_rng(seed), lengths
    return np.argwhere(rng.random((n, m)) < 1 / max(n, m)) + np.array([0, n])
