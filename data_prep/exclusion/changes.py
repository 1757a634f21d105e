"""What a folder keeps out and another does not: which corpora does the difference concern?

`write_changes` writes the entries in which two folders differ into a work folder, in files of the same names, so that
`lookup_of` finds lines with them. `note_concerned` counts such lines in a chunk, by reading and cleaning it.
"""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np

from data_prep import readers, work_folder
from data_prep.catalog import SPLIT
from data_prep.clean import clean, is_held_out, split_long
from data_prep.convert import Done, Task, peak_memory_bytes, this_process
from data_prep.exclusion.entries import Entries
from data_prep.exclusion.lookup import lookup_of
from data_prep.ownership import EXCLUDED_FILE, HELD_OUT_FILE

ENTRY = np.dtype([("hash", "<u8"), ("letters", "u1"), ("source", "<i4")])


def write_changes(old: Path, new: Path, work: Path) -> bool:
    """Write into `work` in which entries the folders `old` and `new` differ; whether there are any."""
    found = False
    for name in (EXCLUDED_FILE, HELD_OUT_FILE):
        before, now = (_entries(folder / name) for folder in (old, new))
        different = changes(before, now)
        if len(different.hashes):
            different.write(work / name)
            found = True
        else:
            (work / name).unlink(missing_ok=True)
    return found


def changes(before: Entries, now: Entries) -> Entries:
    """The entries that only one of them has, or that come from another source in it."""
    sources = tuple(dict.fromkeys((*before.sources, *now.sources)))
    number = {source: index for index, source in enumerate(sources)}
    different = np.setxor1d(_records(before, number), _records(now, number))
    return Entries(different["hash"], different["letters"], different["source"], sources)


def note_concerned(task: Task) -> Done:
    """Write how many lines of a chunk hold what is in the work folder's entries. Raises InputError, naming the corpus."""
    started, corpus, lookup = time.monotonic(), task.corpus, lookup_of(task.out / work_folder.WORK_FOLDER)
    order = np.argsort(corpus.languages).tolist()
    found = 0
    with readers.named(corpus):
        chunk = task.read()
        for lines in readers.parse(corpus, chunk):
            if corpus.long_lines == SPLIT:
                lines = split_long(lines, corpus.max_characters)
            kept, texts, _ = clean(lines, corpus)
            sides = [[texts[side][index] for index in kept.tolist()] for side in order]
            found += len(lookup.reasons(sides, is_held_out(sides[0], corpus.held_out)))
    work_folder.write_array(work_folder.concerned_path(task.out, corpus.name, chunk.index), np.array([found]))
    return Done(this_process(), time.monotonic() - started, found, 0, readers.text_bytes(chunk), peak_memory_bytes())


def is_concerned(out: Path, corpus: str) -> bool:
    """Whether `note_concerned` has found a line of a corpus."""
    paths = work_folder.concerned_path(out, corpus, 0).parent.glob("concerned-*.npy")
    return any(np.load(path)[0] > 0 for path in paths)


def _entries(path: Path) -> Entries:
    return Entries.read(path) if path.exists() else Entries.joined([])


def _records(entries: Entries, number: dict[str, int]) -> np.ndarray:
    records = np.zeros(len(entries.hashes), ENTRY)
    records["hash"], records["letters"] = entries.hashes, entries.letters
    records["source"] = np.array([number[source] for source in entries.sources] or [0], np.int32)[entries.source]
    return records
