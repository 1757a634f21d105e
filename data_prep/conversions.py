"""The chunks of one team, from the corpora to what is done with each; a first pass over pairs, and a look, go the same way.

Files that can be cut up are shared by all teams, chunk by chunk. Streams are dealt out whole, the largest first; one team
reads each, once, and its ranks convert the chunks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial

from data_prep import readers, work_folder
from data_prep.catalog import Corpus
from data_prep.convert import Done, Task, convert
from data_prep.exclusion.changes import note_concerned
from data_prep.exclusion.held_out import note_held_out
from data_prep.job import Job
from data_prep.rank_stats import RankStats
from data_prep.readers.text_file import Cut
from data_prep.records import Chunk
from data_prep.team import Team, shares
from ernie_m.base.console import InputError, Progress


@dataclass
class _Stream:
    """What is known of a stream while its chunks are being converted."""

    num_chunks: int | None = None
    """Known at its end."""
    open_chunks: set[int] = field(default_factory=set)


class Conversions:
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


class HeldOut(Conversions):
    """The first pass over pairs; their ends are marked by the second one."""

    name = "note what is held out"

    def work(self) -> Callable[[Task], Done]:
        return note_held_out

    def _is_done(self, corpus: Corpus, index: int) -> bool:
        return work_folder.held_path(self.job.out, corpus.name, index).exists()

    def _close(self, corpus: Corpus) -> None:
        pass


class Concerned(Conversions):
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
