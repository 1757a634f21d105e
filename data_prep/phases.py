"""The phases of a build, as the root of each team runs them: the chunks (data_prep.conversions), then repeated rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TypeVar

from data_prep import readers, work_folder
from data_prep.catalog import Corpus
from data_prep.conversions import Concerned, Conversions, HeldOut
from data_prep.deduplicate import Bucket, Removal, find_repeated, num_bits, remove_repeated
from data_prep.job import Job
from data_prep.near_duplicates import Near
from data_prep.row_keys import EXACT, NEAR, Group, groups_of
from data_prep.team import Team
from data_prep.work_folder import Failure, guarded
from ernie_m.base.console import Progress

T = TypeVar("T")
Phase = Callable[[Team, Job], Failure]


def convert_corpora(team: Team, job: Job) -> Failure:
    """Convert every chunk of this team's share that has no marker yet."""
    return guarded(job.out, lambda: Conversions(team, job).run())


def note_held_out_texts(team: Team, job: Job) -> Failure:
    """Note what is held out of every pair of this team's share that is not noted yet."""
    return guarded(job.out, lambda: HeldOut(team, replace(job, corpora=job.held_out)).run())


def note_concerned_lines(team: Team, job: Job) -> Failure:
    """Look through this team's share for what is newly kept out or no longer; of a corpus to the first such line."""
    return guarded(job.out, lambda: Concerned(team, job).run())


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
