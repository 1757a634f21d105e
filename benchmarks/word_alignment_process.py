"""Our aligner in a process of its own, for benchmarks/word_alignment.py: it imports what the aligner needs and nothing more.

    python -P benchmarks/word_alignment_process.py text.npz numba links.npz [all]

`text.npz` has the ids of both sides end to end (source, target) and where each sentence begins (source_offsets,
target_offsets). Written: the links by intersection, with `all` by the other ways too (their offsets and values), the seconds
from ids to links, and how many pairs of ids the model keeps.
"""

from __future__ import annotations

import sys
import time

import numpy as np

from data_prep.word_alignment.cells import SortedPairs
from data_prep.word_alignment.decoding import links_of
from data_prep.word_alignment.engines import engine
from data_prep.word_alignment.model import Settings, train
from data_prep.word_alignment.symmetrization import SYMMETRIZATIONS
from ernie_m.corpus.ragged import EncodedTexts


def read(text: str) -> list[EncodedTexts]:
    """Both sides."""
    content = np.load(text)
    return [EncodedTexts(content[side], content[f"{side}_offsets"]) for side in ("source", "target")]


def main(text: str, name: str, to: str, *which: str) -> None:
    """See above."""
    small = EncodedTexts(np.array([1, 2, 2], np.int32), np.array([0, 2, 3]))
    tried = train(SortedPairs.of(small, small), 3, Settings(), engine(name))  # what numba compiles comes first
    links_of(tried, small, small, SYMMETRIZATIONS[1], engine(name))
    started = time.perf_counter()
    pairs = SortedPairs.of(*read(text))  # each reads the text for itself, as in `align`: training's copy is a sorted one
    model = train(pairs, 1 + int(max(side.values.max() for side in (pairs.source, pairs.target))), Settings(), engine(name))
    del pairs
    found = [links_of(model, *read(text), SYMMETRIZATIONS[0], engine(name))]
    seconds = time.perf_counter() - started
    found += [links_of(model, *read(text), method, engine(name)) for method in SYMMETRIZATIONS[1:] if which]
    arrays = {f"{key}_{number}": getattr(links, key) for number, links in enumerate(found) for key in links._fields}
    np.savez(to, seconds=seconds, types=len(model.types.targets), **arrays)


if __name__ == "__main__":
    main(*sys.argv[1:])
