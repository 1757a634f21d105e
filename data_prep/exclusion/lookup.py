"""Which lines of a corpus have text that is kept out, and why."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np

from data_prep.exclusion.entries import RUN, WHOLE, WIDE_RUN, Entries
from data_prep.exclusion.letters import FIRST_WIDE, Letters
from data_prep.ownership import EXCLUDED_FILE, HELD_OUT_FILE

MOST_BITS = 26
"""Of the table that is looked at first: 64 MiB at most."""


class _Table:
    """Sorted hashes, and a table of the leading bits that occur: nearly all questions end there."""

    def __init__(self, entries: Entries, letters: int) -> None:
        chosen = entries.letters == letters
        order = np.argsort(entries.hashes[chosen], kind="stable")
        self.hashes, self.source = entries.hashes[chosen][order], entries.source[chosen][order]
        self._shift = np.uint64(64 - min(MOST_BITS, max(16, len(order).bit_length() + 4)))
        self._occurs = np.zeros(1 << (64 - int(self._shift)), np.bool_)
        self._occurs[self.hashes >> self._shift] = True

    def find(self, hashes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(which of the hashes are known, the source of each of these)."""
        candidates = np.flatnonzero(self._occurs[hashes >> self._shift])
        places = np.searchsorted(self.hashes, hashes[candidates])
        places = np.minimum(places, max(0, len(self.hashes) - 1))
        is_known = self.hashes[places] == hashes[candidates] if len(self.hashes) else np.zeros(0, np.bool_)
        return candidates[is_known], self.source[places[is_known]]


class KeptOut:
    """Looks texts up. `runs`: also whether they share a run of letters with an evaluation sentence."""

    def __init__(self, entries: Entries, reason: str, reason_of_runs: str = "") -> None:
        self._sources, self._reason, self._reason_of_runs = entries.sources, reason, reason_of_runs
        self._tables = {
            length: _Table(entries, length) for length in (WHOLE, RUN, WIDE_RUN) if (entries.letters == length).any()
        }

    def reasons(self, sides: Sequence[Letters]) -> dict[int, str]:
        """Line -> why it is kept out; a whole text before a run, the first side before the second."""
        found: dict[int, str] = {}
        for length, table in self._tables.items():
            for side in sides:
                lines, sources = table.find(side.of_texts()) if length == WHOLE else _of_runs(side, table, length)
                reason = self._reason if length == WHOLE else self._reason_of_runs
                for line, source in zip(lines.tolist(), sources.tolist(), strict=True):
                    found.setdefault(line, reason.format(source=self._sources[source], letters=length))
        return found


def _of_runs(side: Letters, table: _Table, length: int) -> tuple[np.ndarray, np.ndarray]:
    starts = side.starts(length)
    if length == WIDE_RUN:
        starts = starts[side.codes_C[starts] >= FIRST_WIDE]
    runs, sources = table.find(side.of_runs(starts, length))
    return side.text_of(starts[runs]), sources


class Lookup:
    """All that is kept out of the corpora of a folder."""

    def __init__(self, evaluation: KeptOut | None, held_out: KeptOut | None) -> None:
        self.evaluation, self.held_out = evaluation, held_out

    def reasons(self, sides: Sequence[list[str]], is_held_out: np.ndarray) -> dict[int, str]:
        """Line -> why it is kept out. What is held out itself may be so."""
        if not (self.evaluation or self.held_out):
            return {}
        letters = [Letters(side) for side in sides]
        found = self.held_out.reasons(letters) if self.held_out else {}
        found = {line: reason for line, reason in found.items() if not is_held_out[line]}
        return {**found, **(self.evaluation.reasons(letters) if self.evaluation else {})}


def lookup_of(out: Path) -> Lookup:
    """What the data folder `out` keeps out, read once by each process."""
    return _lookup(*(_stamp(out / name) for name in (EXCLUDED_FILE, HELD_OUT_FILE)))


def _stamp(path: Path) -> tuple[Path, int, int] | None:
    return (path, path.stat().st_mtime_ns, path.stat().st_ino) if path.exists() else None


@lru_cache(maxsize=1)
def _lookup(evaluation: tuple[Path, int, int] | None, held_out: tuple[Path, int, int] | None) -> Lookup:
    return Lookup(
        evaluation
        and KeptOut(Entries.read(evaluation[0]), "a sentence of {source}", "shares {letters} letters with {source}"),
        held_out and KeptOut(Entries.read(held_out[0]), "held out of {source}"),
    )
