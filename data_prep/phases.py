"""The phases of a build, as the root of each team runs them: their items, and what is done with the results.

Files that can be cut up are shared by all teams, chunk by chunk. Streams are dealt out whole, the largest first; one team
reads each, once, and its ranks convert the chunks.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TypeVar

from data_prep import readers, work_folder
from data_prep.catalog import Corpus
from data_prep.convert import Done, Task, convert
from data_prep.deduplicate import Bucket, Removal, find_repeated, num_bits, remove_repeated
from data_prep.exclusion.changes import note_concerned
from data_prep.exclusion.held_out import note_held_out
from data_prep.growth import Growth
from data_prep.near_duplicates import Near
from data_prep.rank_stats import RankStats
from data_prep.readers.text_file import Cut
from data_prep.records import Chunk
from data_prep.row_keys import EXACT, NEAR, Group, groups_of
from data_prep.team import Team
from ernie_m.base.console import InputError, Progress

T = TypeVar("T")
STOP, QUARANTINE = "stop", "quarantine"


@dataclass(frozen=True)
class Job:
    """What every team has to know."""

    corpora: tuple[Corpus, ...]
    tokenizer: Path
    out: Path
    chunk_bytes: int
    quarantines: bool
    """Whether a corpus that cannot be used is left out; else it stops the build."""
    allows_unknown: bool = False
    """Whether a language is taken that the tokenizer does not know."""
    keeps_held_out_apart: bool = True
    """Whether what is held out of pairs is kept out of all corpora."""
    growth: Growth | None = None
    """What may be taken over from another folder."""


Failure = InputError | OSError | None
Phase = Callable[[Team, Job], Failure]


def convert_corpora(team: Team, job: Job) -> Failure:
    """Convert every chunk of this team's share that has no marker yet."""
    return guarded(job.out, lambda: _Conversions(team, job).run())


def note_held_out_texts(team: Team, job: Job) -> Failure:
    """Note what is held out of every pair of this team's share that is not noted yet."""
    return guarded(job.out, lambda: _HeldOut(team, replace(job, corpora=held_out_of(job))).run())


def note_concerned_lines(team: Team, job: Job) -> Failure:
    """Look through this team's share for what is newly kept out or no longer; of a corpus to the first such line."""
    return guarded(job.out, lambda: _Concerned(team, job).run())


def held_out_of(job: Job) -> tuple[Corpus, ...]:
    """The corpora of which pairs are held out that must not stand in others."""
    return tuple(corpus for corpus in job.corpora if corpus.held_out and job.keeps_held_out_apart)


def find_repeated_rows(team: Team, job: Job) -> Failure:
    """Note the repeated rows of the corpora that ask for it."""
    return guarded(job.out, lambda: _deal_out(team, _buckets(job), find_repeated, "find repeated rows", "buckets"))


def remove_repeated_rows(team: Team, job: Job) -> Failure:
    """Write their shards without those rows."""
    return guarded(job.out, lambda: _deal_out(team, _removals(job), remove_repeated, "remove repeated rows", "chunks"))


def num_chunks(job: Job, corpus: Corpus) -> int:
    """How many chunks a converted corpus has; 0 when it could not be used."""
    if end := work_folder.end_of(job.out, corpus.name):
        return int(end.get("chunks", 0))
    places = readers.cuts(corpus, job.chunk_bytes)
    assert places is not None, f"stream {corpus.name} was read by nobody"
    return len(places)


def shares(sizes: list[int], num_teams: int) -> list[list[int]]:
    """Indices for each team: the largest first, each to the team that has the least so far."""
    loads: list[int] = [0] * num_teams
    owned: list[list[int]] = [[] for _ in range(num_teams)]
    for index in sorted(range(len(sizes)), key=lambda i: (-sizes[i], i)):
        team = loads.index(min(loads))
        loads[team] += sizes[index]
        owned[team].append(index)
    return owned


def guarded(out: Path, work: Callable[[], None]) -> Failure:
    """Do it; a failure is returned, and tells the other teams at work in `out` to start nothing new."""
    try:
        work()
    except (InputError, OSError) as error:
        with contextlib.suppress(OSError):  # the disk may be full
            work_folder.write_stop(out, str(error))
        return error
    return None


@dataclass
class _Stream:
    """What is known of a stream while its chunks are being converted."""

    num_chunks: int | None = None
    """Known at its end."""
    open_chunks: set[int] = field(default_factory=set)


class _Conversions:
    """The chunks of one team."""

    name = "build"

    def __init__(self, team: Team, job: Job) -> None:
        self.team, self.job = team, job
        self.failed: set[str] = set()
        self.streams: dict[str, _Stream] = {}
        self.places = {corpus.name: self._places(corpus) for corpus in job.corpora}
        streams = [corpus for corpus in job.corpora if self.places[corpus.name] is None]  # the same in every team
        owned = shares([readers.input_bytes(corpus) for corpus in streams], team.num_teams)[team.number]
        self.own_streams = {streams[index].name for index in owned}
        self.progress = Progress(self.name, sum(map(self._input_bytes, job.corpora)), "bytes")
        self.stats = RankStats(job.out, team)

    def run(self) -> None:
        work = partial(_attempt, self.work()) if self.job.quarantines else self.work()
        self.team.deal_out(self.tasks(), work, self.finished, lambda task: isinstance(task.chunk, Chunk))
        if self.team.number == 0:
            self.progress.close()
        self.stats.write()

    def work(self) -> Callable[[Task], Done]:
        """What is done with each chunk."""
        return convert

    def tasks(self) -> Iterator[Task]:
        """The chunks that are not done; reads streams as they are asked for."""
        for corpus in self.job.corpora:
            if work_folder.end_of(self.job.out, corpus.name) is not None:
                continue
            for chunk in self._chunks(corpus):
                if work_folder.is_stopped(self.job.out):
                    return
                if corpus.name in self.failed:
                    break
                yield Task(corpus, chunk, self.job.tokenizer, self.job.out)

    def _is_done(self, corpus: Corpus, index: int) -> bool:
        return work_folder.is_done(self.job.out, corpus.name, index)

    def _places(self, corpus: Corpus) -> list[Cut] | None:
        """A function of the file alone, also for corpora that have ended: another team may see them end only later."""
        try:
            with readers.named(corpus):
                return readers.cuts(corpus, self.job.chunk_bytes)
        except InputError as error:
            self._fail(corpus, error)
            return []

    def _input_bytes(self, corpus: Corpus) -> int:
        places = self.places[corpus.name]
        if places is None:
            return readers.input_bytes(corpus) if corpus.name in self.own_streams else 0
        return readers.input_bytes(corpus) // self.team.num_teams if places else 0

    def _chunks(self, corpus: Corpus) -> Iterator[Chunk | Cut]:
        """Those of this team that are not done."""
        places = self.places[corpus.name]
        if places is not None:
            own = places[self.team.number :: self.team.num_teams]
            yield from (place for place in own if not self._is_done(corpus, place.index))
        elif corpus.name in self.own_streams:
            yield from self._read(corpus)

    def _read(self, corpus: Corpus) -> Iterator[Chunk]:
        stream = self.streams.setdefault(corpus.name, _Stream())
        found = 0
        try:
            with readers.named(corpus):
                for chunk in readers.chunks(corpus, self.job.chunk_bytes, self._advance):
                    found += 1
                    if not self._is_done(corpus, chunk.index):
                        stream.open_chunks.add(chunk.index)
                        yield chunk
        except InputError as error:
            self._fail(corpus, error)
            return
        stream.num_chunks = found
        self._close(corpus)

    def finished(self, task: Task, result: Done | InputError) -> None:
        """Count a chunk that has been converted, or give its corpus up."""
        if isinstance(result, InputError):
            self._fail(task.corpus, result)
            return
        self.stats.add(result)
        if stream := self.streams.get(task.corpus.name):
            stream.open_chunks.discard(task.index)
            self._close(task.corpus)
        elif places := self.places[task.corpus.name]:
            self._advance(readers.input_bytes(task.corpus) // len(places))

    def _close(self, corpus: Corpus) -> None:
        stream = self.streams[corpus.name]
        if stream.num_chunks is not None and not stream.open_chunks and corpus.name not in self.failed:
            work_folder.mark_end(self.job.out, corpus.name, {"chunks": stream.num_chunks})

    def _fail(self, corpus: Corpus, error: InputError) -> None:
        if not self.job.quarantines:
            raise error
        if corpus.name not in self.failed:
            self.failed.add(corpus.name)
            if work_folder.end_of(self.job.out, corpus.name) is None:
                work_folder.mark_end(self.job.out, corpus.name, {"error": str(error)})

    def _advance(self, num_bytes: int) -> None:
        if self.team.number == 0:
            self.progress.advance(num_bytes)


class _HeldOut(_Conversions):
    """The first pass over pairs; their ends are marked by the second one."""

    name = "note what is held out"

    def work(self) -> Callable[[Task], Done]:
        return note_held_out

    def _is_done(self, corpus: Corpus, index: int) -> bool:
        return work_folder.held_path(self.job.out, corpus.name, index).exists()

    def _close(self, corpus: Corpus) -> None:
        pass


class _Concerned(_Conversions):
    """The look at what could be kept; a corpus with one such line is built, and need not be read further."""

    name = "look for what is newly kept out"

    def work(self) -> Callable[[Task], Done]:
        return note_concerned

    def finished(self, task: Task, result: Done | InputError) -> None:
        if isinstance(result, Done) and result.rows:
            self.failed.add(task.corpus.name)
        super().finished(task, result)

    def _is_done(self, corpus: Corpus, index: int) -> bool:
        return work_folder.concerned_path(self.job.out, corpus.name, index).exists()

    def _close(self, corpus: Corpus) -> None:
        pass


def _attempt(work: Callable[[Task], Done], task: Task) -> Done | InputError:
    """The work, whose refusal of the input is a result like others."""
    try:
        return work(task)
    except InputError as error:
        return error


def _buckets(job: Job) -> Iterator[Bucket]:
    for near, group, bits in _compared(job):
        for number in range(1 << bits):
            yield Bucket(job.out, group, number, bits, near)


def _removals(job: Job) -> Iterator[Removal]:
    bits_of: dict[str, list[tuple[str, int]]] = {}
    chunks_of: dict[str, int] = {}
    for near, group, bits in _compared(job):
        for name, chunks in group:
            bits_of.setdefault(name, []).append((NEAR if near else EXACT, bits))
            chunks_of[name] = chunks
    for corpus in job.corpora:
        for index in range(chunks_of.get(corpus.name, 0)):
            yield Removal(job.out, corpus.name, len(corpus.languages), index, tuple(bits_of[corpus.name]))


def _compared(job: Job) -> Iterator[tuple[Near | None, tuple[tuple[str, int], ...], int]]:
    """Groups of corpora whose rows are compared, first for exact copies: (settings of near duplicates, (corpus, number of
    its chunks) in the catalog's order, bits of the buckets)."""
    groups: dict[Group, list[tuple[str, int]]] = {}
    for corpus in job.corpora:
        if corpus.is_compared and (chunks := num_chunks(job, corpus)):
            for key in groups_of(corpus.name, corpus.languages, corpus.deduplicate, corpus.deduplicate_near):
                groups.setdefault(key, []).append((corpus.name, chunks))
    for (near, _), group in sorted(groups.items(), key=lambda item: item[0][0] is not None):
        rows = 0
        for name, chunks in group:
            markers = (work_folder.read_marker(job.out, name, index) for index in range(chunks))
            rows += sum(shard["rows"] for marker in markers for shard in marker["shards"])
        yield near, tuple(group), num_bits(rows * (near.bands if near else 1))


def _deal_out(team: Team, items: Iterator[T], work: Callable[[T], None], what: str, unit: str) -> None:
    """Have this team's share of the items worked on, whose markers tell what was done; the first team says how far it is."""
    own = [item for index, item in enumerate(items) if index % team.num_teams == team.number]
    progress = Progress(what, len(own), unit)

    def advance(item: T, result: None) -> None:
        if team.number == 0:
            progress.advance(1)

    team.deal_out(own, work, advance)
    if team.number == 0:
        progress.close()
