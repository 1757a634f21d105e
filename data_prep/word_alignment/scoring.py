"""How good links are: those of a file, or of a corpus in a data folder, against gold."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ernie_m.base.console import InputError
from ernie_m.corpus.any_vocabulary import open_vocabulary
from ernie_m.corpus.columns import LINKS
from ernie_m.corpus.folder import CorpusFolder, Shard
from ernie_m.corpus.word_links import GoldPair, Link, Score, check_first_index, check_range, parsed_links, read_lines, score
from ernie_m.corpus.words import begins_word, word_numbers


def pharaoh_links(path: Path, first_index: int | None = None) -> list[set[Link]]:
    """The links of each line, counted from 0 unless it is said. Raises InputError naming the line."""
    lines = enumerate(read_lines(path), 1)
    links = [{(i, j) for i, j, _ in parsed_links(line, f"{path}:{number}", first_index or 0)} for number, line in lines]
    if first_index is None:
        check_first_index(links, path, "--links_first_index")
    return links


def folder_links(data: Path, corpus: str) -> list[set[Link]]:
    """Links between words of each row of a corpus, in the order of its shards."""
    folder = CorpusFolder(data)
    entries = {entry.name: entry for entry in folder.manifest.corpora if len(entry.languages) == 2}
    if corpus not in entries:
        raise InputError(f"--corpus {corpus}: not a corpus of pairs of {data}; it has {', '.join(entries) or 'none'}")
    begins, links = begins_word(open_vocabulary(folder.tokenizer_path)), []
    for place in entries[corpus].shards.places.tolist():
        links += _of_words(folder.shard(place, 2), begins)
    return links


def _of_words(shard: Shard, begins: np.ndarray) -> list[set[Link]]:
    items_L2, starts = shard.items(LINKS.name, 0, shard.entry.rows)
    links = []
    for row in range(shard.entry.rows):
        words = [word_numbers(v[o[row] : o[row + 1]], begins) for v, o in zip(shard.values, shard.offsets, strict=True)]
        items = items_L2[starts[row] : starts[row + 1]]
        links.append(set(zip(words[0][items[:, 0]].tolist(), words[1][items[:, 1]].tolist(), strict=True)))
    return links


def scored(found: Sequence[set[Link]], gold: Sequence[GoldPair], where: str, gold_file: str) -> Score:
    """The score. Raises InputError unless there are links, maybe none, for each pair of the gold, within its words."""
    if len(found) != len(gold):
        raise InputError(f"{where}: {len(found):,} pairs, {gold_file} has {len(gold):,}; expected the same ones")
    for number, (links, pair) in enumerate(zip(found, gold, strict=True), 1):
        if pair.source is not None and pair.target is not None:
            check_range(links, len(pair.source), len(pair.target), f"{where}, pair {number}")
    return score(found, gold)
