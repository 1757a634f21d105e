"""Hashes of what is kept out, in files of the data folder: `.excluded.hashes` (evaluation sets), `.held_out.hashes` (pairs).

An entry is the hash of a whole text (`letters` 0) or of a run of so many letters, and the name of where it comes from. The
files stay beside the finished shards, so that a lost shard can be built again and `show` can number rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from data_prep.exclusion.evaluation_files import sentences
from data_prep.exclusion.letters import FIRST_WIDE, Letters
from ernie_m.base.console import InputError
from ernie_m.base.files import written_atomically

WHOLE = 0
RUN, WIDE_RUN = 50, 20
"""Letters of a run that two texts do not share by chance: about 10 words; of Han, kana and Hangul 20."""
STEP = 8
"""Of an evaluation sentence the run at every eighth letter is kept, and the last one."""
SENTENCES_AT_ONCE = 8192


@dataclass(frozen=True)
class Entries:
    """uint64, uint8 and int32 [entries]: hash, letters of its run (0: a whole text), index of its source in `sources`."""

    hashes: np.ndarray
    letters: np.ndarray
    source: np.ndarray
    sources: tuple[str, ...]

    def write(self, path: Path) -> None:
        """Write them once each, the first source counting, sorted."""
        order = np.lexsort((self.source, self.hashes, self.letters))
        hashes, letters = self.hashes[order], self.letters[order]
        is_first = np.ones(len(order), np.bool_)
        is_first[1:] = (hashes[1:] != hashes[:-1]) | (letters[1:] != letters[:-1])
        source = pa.DictionaryArray.from_arrays(pa.array(self.source[order][is_first], pa.int32()), pa.array(self.sources))
        columns = {"hash": pa.array(hashes[is_first]), "letters": pa.array(letters[is_first]), "source": source}
        batch = pa.RecordBatch.from_pydict(columns)
        with written_atomically(path) as aside, pa.ipc.new_file(str(aside), batch.schema) as out:
            out.write_batch(batch)

    @staticmethod
    def read(path: Path) -> Entries:
        """Read what `write` wrote. Raises InputError for a damaged file."""
        try:
            with pa.memory_map(str(path)) as mapped:
                batch = pa.ipc.open_file(mapped).get_batch(0)
                hashes, letters = (batch.column(number).to_numpy().copy() for number in range(2))
                source = batch.column(2)
                return Entries(hashes, letters, source.indices.to_numpy().copy(), tuple(source.dictionary.to_pylist()))
        except (pa.ArrowException, ValueError) as error:
            raise InputError(f"{path}: damaged ({error}); build the folder again with --overwrite") from None

    @staticmethod
    def joined(parts: Sequence[Entries]) -> Entries:
        """All of them; earlier sources count first."""
        firsts = np.cumsum([0, *(len(part.sources) for part in parts)])
        source = [part.source + first for part, first in zip(parts, firsts, strict=False)]
        return Entries(
            np.concatenate([np.zeros(0, np.uint64), *(part.hashes for part in parts)]),
            np.concatenate([np.zeros(0, np.uint8), *(part.letters for part in parts)]),
            np.concatenate([np.zeros(0, np.int32), *source]).astype(np.int32),
            tuple(name for part in parts for name in part.sources),
        )


def of_texts(hashes: np.ndarray, source: str) -> Entries:
    """Whole texts of one source; a hash of 0 stands for no text."""
    hashes = hashes[hashes != 0]
    return Entries(hashes, np.zeros(len(hashes), np.uint8), np.zeros(len(hashes), np.int32), (source,))


def of_evaluation_files(paths: Iterable[Path], shown: Iterable[str]) -> Entries:
    """The sentences of evaluation sets and their runs of letters; `shown`: how a report names each file."""
    return Entries.joined([_of_file(path, name) for path, name in zip(paths, shown, strict=True)])


def _of_file(path: Path, name: str) -> Entries:
    found: list[Entries] = []
    texts = list(dict.fromkeys(sentences(path)))
    for first in range(0, len(texts), SENTENCES_AT_ONCE):
        letters = Letters(texts[first : first + SENTENCES_AT_ONCE])
        found.append(of_texts(letters.of_texts(), name))
        found += [_runs(letters, length, name) for length in (RUN, WIDE_RUN)]
    joined = Entries.joined(found)
    return Entries(joined.hashes, joined.letters, np.zeros_like(joined.source), (name,))


def _runs(letters: Letters, length: int, name: str) -> Entries:
    starts = letters.starts(length)
    text = letters.text_of(starts)
    inside, last = starts - letters.borders[text], letters.borders[text + 1] - length
    starts = starts[(inside % STEP == 0) | (starts == last)]
    if length == WIDE_RUN:
        starts = starts[letters.codes_C[starts] >= FIRST_WIDE]
    hashes = letters.of_runs(starts, length)
    return Entries(hashes, np.full(len(hashes), length, np.uint8), np.zeros(len(hashes), np.int32), (name,))
