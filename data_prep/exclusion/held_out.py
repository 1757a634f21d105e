"""What is held out of pairs is kept out of everything: a first pass over the pairs notes it, before any corpus is converted.

Which pairs are held out is a hash of one side (`is_held_out`); their other sides can only be known by reading all pairs. The
pass reads and cleans pairs, without tokenizing, which is a part of what converting them takes; other text is not read. Each
chunk leaves a file of hashes, so a stopped pass goes on where it was. Filters are not asked: a pair that one of them would
leave out counts as held out too.
"""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import numpy as np

from data_prep import readers, work_folder
from data_prep.catalog import Corpus
from data_prep.clean import clean, is_held_out
from data_prep.convert import Done, Task, peak_memory_bytes, this_process
from data_prep.exclusion.entries import Entries, of_texts
from data_prep.exclusion.letters import Letters
from data_prep.ownership import HELD_OUT_FILE


def note_held_out(task: Task) -> Done:
    """Write the hashes of the texts of a chunk's held-out pairs. Raises InputError, naming the corpus."""
    started, corpus = time.monotonic(), replace(task.corpus, filters=())
    order = np.argsort(corpus.languages).tolist()
    found = [np.zeros(0, np.uint64)]
    with readers.named(corpus):
        chunk = task.read()
        for lines in readers.parse(corpus, chunk):
            kept, texts, _ = clean(lines, corpus)
            first = [texts[order[0]][index] for index in kept.tolist()]
            held = kept[is_held_out(first, corpus.held_out)].tolist()
            found += [Letters([side[index] for index in held]).of_texts() for side in texts]
    work_folder.write_array(work_folder.held_path(task.out, corpus.name, chunk.index), np.unique(np.concatenate(found)))
    return Done(this_process(), time.monotonic() - started, 0, 0, readers.text_bytes(chunk), peak_memory_bytes())


def gather(out: Path, corpora: tuple[Corpus, ...], known: Path | None = None) -> None:
    """Put the hashes of all chunks into one file; a corpus that could not be read counts for nothing.

    known: the file of a finished folder, with the hashes of the corpora before these.
    """
    parts = [] if known is None else [Entries.read(known)]
    for corpus in corpora:
        if not (work_folder.end_of(out, corpus.name) or {}).get("error"):
            paths = work_folder.held_path(out, corpus.name, 0).parent.glob("held-*.npy")
            parts.append(of_texts(np.concatenate([np.zeros(0, np.uint64), *map(np.load, sorted(paths))]), corpus.name))
    Entries.joined(parts).write(out / HELD_OUT_FILE)
