"""`align`: the column of links of a finished data folder, on one process or on many hosts, with the same bytes.

1. Rank 0 checks everything that can be wrong, and writes the plan: work/.align/plan.json.
2. Ranks train a model for each pair of languages (work/.align/<pair>/), then write each shard's links beside it. Finished
   files are not made again, so the same command continues a job that was killed.
3. Rank 0 writes the table of the files and, last, the manifest. Then the models are deleted.

A folder that has links already loses them first: its manifest is written without them before any file goes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from data_prep import work_folder
from data_prep.ownership import ALIGN_FOLDER
from data_prep.team import Team, shares
from data_prep.word_alignment import model_files
from data_prep.word_alignment.engines import chosen
from data_prep.word_alignment.link_files import WORDS, Place, located, refuse_unknown_units
from data_prep.word_alignment.symmetrization import SYMMETRIZATIONS
from data_prep.word_alignment.tasks import Aligned, Aligning, Method, Training, align_shard, pair_streams, train_stream
from data_prep.work_folder import guarded
from data_prep.workers import Ranks
from ernie_m.base.console import InputError, Progress, duration
from ernie_m.base.files import remove_left_overs, sha256_of, write_json
from ernie_m.base.table import table
from ernie_m.corpus.any_vocabulary import open_vocabulary
from ernie_m.corpus.columns import LINKS, ColumnTable
from ernie_m.corpus.folder import MANIFEST_FILE, CorpusEntry, CorpusFolder, Manifest
from ernie_m.corpus.shard_table import SHARDS_FOLDER
from ernie_m.corpus.words import begins_word

PLAN = "plan.json"


@dataclass(frozen=True)
class Options:
    """How links are made, and from what. Only `engine` does not change them."""

    method: Method
    pharaoh: dict[str, Path]
    """Corpus -> the file of its links."""
    units: str
    """Of those files."""
    engine: str
    overwrite: bool


@dataclass(frozen=True)
class Job:
    """What every team has to know."""

    data: Path
    method: Method
    engine: str
    files: dict[str, list[Place]]
    """Corpus -> where the lines of each of its shards begin, of the corpora whose links are given."""
    tokenizer: Path | None
    """Where those links are between words."""
    streams: frozenset[str]
    """The pairs of languages that need a model."""

    def model_folder(self, stream: str) -> Path:
        """Where the model of a pair of languages lies while the job runs."""
        return self.data / work_folder.WORK_FOLDER / ALIGN_FOLDER / stream


Failed = InputError | OSError


def align(data: Path, options: Options, ranks: Ranks) -> None:
    """Add the column to the folder. Raises InputError for whatever is wrong with the input."""
    started = time.monotonic()
    with ExitStack() as stack:
        job = ranks.on_first(lambda: _prepare(data, options, stack))
        _run(ranks, train_models, job)
        aligned = _run(ranks, align_shards, job)
        ranks.on_first(lambda: _finish(job, aligned, started))


def _prepare(data: Path, options: Options, stack: ExitStack) -> Job:
    if options.method.symmetrization not in SYMMETRIZATIONS:
        expected = ", ".join(SYMMETRIZATIONS)
        raise InputError(f"--symmetrization {options.method.symmetrization}: expected {expected}")
    refuse_unknown_units(options.units)
    engine = chosen(options.engine)  # before links that are there are given up
    manifest = Manifest.read(data)
    corpora = parallel_corpora(data, manifest)
    for name in options.pharaoh:
        if name not in {corpus.name for corpus in corpora}:
            raise InputError(
                f"--pharaoh {name}=…: expected a corpus of pairs of {data}: {', '.join(c.name for c in corpora)}"
            )
    files = {
        corpus.name: located(options.pharaoh[corpus.name], corpus) for corpus in corpora if corpus.name in options.pharaoh
    }
    tokenizer = data / manifest.tokenizer_file if files and options.units == WORDS else None
    if tokenizer is not None:
        begins_word(open_vocabulary(tokenizer))  # so that it is refused before the work begins
    stack.enter_context(work_folder.locked(data))
    if LINKS.name in manifest.columns:
        if not options.overwrite:
            work_folder.finish(data)  # of an alignment that was killed while it tidied up
            raise InputError(f"{data}: has links already; `stats` shows them; add --overwrite to make them anew")
        others = {name: columns for name, columns in manifest.columns.items() if name != LINKS.name}
        made = {name: how for name, how in manifest.columns_made.items() if name != LINKS.name}
        replace(manifest, columns=others, columns_made=made).write(data)
    plan = {
        "manifest_sha256": sha256_of(data / MANIFEST_FILE),
        "method": asdict(options.method),
        "units": options.units,
        "files": {name: sha256_of(path) for name, path in sorted(options.pharaoh.items())},
    }
    if _begin(data, manifest, plan, options.overwrite):
        print(f"{data}: an earlier alignment of the same input goes on")
    print(engine)
    streams = frozenset("-".join(corpus.languages) for corpus in corpora if corpus.name not in files)
    return Job(data, options.method, engine.value, files, tokenizer, streams)


def parallel_corpora(data: Path, manifest: Manifest) -> list[CorpusEntry]:
    """The corpora of pairs that have rows. Raises InputError when there are none."""
    corpora = [corpus for corpus in manifest.corpora if len(corpus.languages) == 2 and len(corpus.shards)]
    if not corpora:
        raise InputError(f"{data}: has no pairs, so there is nothing to align; build it with a parallel corpus")
    return corpora


def _begin(data: Path, manifest: Manifest, plan: dict[str, Any], overwrite: bool) -> bool:
    """Make the folder ready for the plan, under the lock; True when an earlier job of the same plan goes on."""
    path = data / work_folder.WORK_FOLDER / ALIGN_FOLDER / PLAN
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists():
        difference = work_folder.difference(work_folder.read(path), plan)
        if not difference:
            (data / work_folder.WORK_FOLDER / work_folder.STOP_FILE).unlink(missing_ok=True)
            for folder in (*data.glob(f"{SHARDS_FOLDER}/*"), *path.parent.glob("**/")):
                remove_left_overs(folder)
            return True
        if not overwrite:
            raise InputError(
                f"{data}: holds an unfinished alignment of another plan: {difference}; give the same input and options to "
                "go on, or add --overwrite to start over"
            )
    path.unlink(missing_ok=True)  # first: it promises that the files are its own
    work_folder.finish(data)
    for corpus in parallel_corpora(data, manifest):
        for entry in corpus.shards:
            (data / LINKS.file_of(entry.file)).unlink(missing_ok=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, plan)
    return False


def train_models(team: Team, job: Job) -> list[None] | Failed:
    """Train the models of this team's share of the streams."""
    streams = [stream for stream in pair_streams(CorpusFolder(job.data)) if stream.name in job.streams]
    owned = shares([stream.num_tokens for stream in streams], team.num_teams)[team.number]
    tasks = [
        Training(job.data, streams[i].name, job.model_folder(streams[i].name), job.method, job.engine, team.number == 0)
        for i in owned
    ]
    return guarded(job.data, lambda: team.deal_out(iter(tasks), train_stream, lambda *_: None)) or []


def align_shards(team: Team, job: Job) -> list[Aligned] | Failed:
    """Write the links of this team's share of the shards."""
    found: list[Aligned] = []
    manifest = Manifest.read(job.data)
    tasks = [task for number, task in enumerate(_tasks(job, manifest)) if number % team.num_teams == team.number]
    rows = manifest.corpora[0].shards.table.columns.rows
    progress = Progress("align", int(sum(rows[task.place] for task in tasks)), "pairs")

    def finished(task: Aligning, aligned: Aligned) -> None:
        found.append(aligned)
        if team.number == 0:
            progress.advance(int(rows[task.place]))

    def open_tasks() -> Iterator[Aligning]:
        for task in tasks:
            if work_folder.is_stopped(job.data):
                return
            yield task

    failure = guarded(job.data, lambda: team.deal_out(open_tasks(), align_shard, finished))
    if team.number == 0:
        progress.close()
    return failure or found


def _tasks(job: Job, manifest: Manifest) -> Iterator[Aligning]:
    for corpus in parallel_corpora(job.data, manifest):
        places = job.files.get(corpus.name)
        model = None if places else job.model_folder("-".join(corpus.languages))
        for number, place in enumerate(corpus.shards.places.tolist()):
            links = places[number] if places else None
            yield Aligning(job.data, place, model, links, job.tokenizer if places else None, job.method, job.engine)


def _run(ranks: Ranks, phase: Callable[[Team, Job], list[Any] | Failed], job: Job) -> list[Any]:
    """What all teams found, on rank 0; the first failure is raised there, and the other ranks exit."""
    results = ranks.run_teams(phase, job)

    def raise_first() -> None:
        for result in results:
            if isinstance(result, InputError | OSError):
                raise result

    ranks.on_first(raise_first)
    return [item for found in results for item in found]


def _finish(job: Job, aligned: list[Aligned], started: float) -> None:
    manifest = Manifest.read(job.data)
    table_of_links = ColumnTable.of((found.place, found.entry) for found in aligned)
    made = {"method": asdict(job.method), "pairs": _told(job, manifest, aligned)}
    columns, columns_made = {**manifest.columns, LINKS.name: table_of_links}, {**manifest.columns_made, LINKS.name: made}
    replace(manifest, columns=columns, columns_made=columns_made).write(job.data)
    work_folder.finish(job.data)
    print(_report(made["pairs"]))
    links = int(table_of_links.values.sum()) // LINKS.width
    print(f"\n{job.data}: {links:,} links in {duration(time.monotonic() - started)}")
    print("manifest.json has another hash now: a run that was started on this folder before does not go on with it")


def _told(job: Job, manifest: Manifest, aligned: list[Aligned]) -> dict[str, dict[str, Any]]:
    """Of each corpus: rows, links, and which share of its tokens has one; and of its model."""
    found, told = {one.place: one for one in aligned}, {}
    for corpus in parallel_corpora(job.data, manifest):
        shards = [found[place] for place in corpus.shards.places.tolist()]
        linked = np.array([one.linked for one in shards]).sum(axis=0) / corpus.shards.tokens.sum(axis=0)
        content: dict[str, Any] = {
            "rows": int(corpus.shards.rows.sum()),
            "links": sum(one.entry.values for one in shards) // LINKS.width,
            "linked": [round(float(share), 4) for share in linked],
        }
        if corpus.name not in job.files:
            trained = model_files.told(job.model_folder("-".join(corpus.languages)))
            content["model"] = {**asdict(trained), "perplexity": [round(number, 4) for number in trained.perplexity]}
        told[corpus.name] = content
    return told


def _report(told: dict[str, dict[str, Any]]) -> str:
    rows = []
    for name, content in told.items():
        linked = (f"{100 * share:.1f} %" for share in content["linked"])
        model = content.get("model")
        numbers = [f"{content['rows']:,}", f"{content['links']:,}", f"{content['links'] / content['rows']:.1f}", *linked]
        learned = ["a file", "-", "-"]
        if model is not None:
            perplexity, tension = (" ".join(f"{number:.1f}" for number in model[key]) for key in ("perplexity", "tension"))
            learned = [f"{model['pairs']:,} pairs", perplexity, tension]
        rows.append([name, *numbers, *learned])
    head = ["corpus", "rows", "links", "a pair", "source linked", "target linked", "learned from", "perplexity", "tension"]
    return table(head, rows)
