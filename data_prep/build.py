"""A catalog and a tokenizer -> a corpus folder, on one process or on many hosts, with the same bytes.

1. Rank 0 first checks all that can be wrong: catalog, tokenizer, output folder, a sample of each corpus, free disk space.
2. Teams of ranks share the corpora (team.py); each chunk is converted to its shards and a marker (convert.py).
   A chunk that has its marker is not done again, so a build that was killed goes on where it was.
3. Where the catalog asks for it, repeated lines are removed (deduplicate.py).
   A build that grows from a finished folder takes over what stays the same (growth.py), and does 2 and 3 with the rest.
4. Rank 0 reads the markers and writes report, tokenizer, shard table and, last, the manifest: a folder without it is not
   finished.
"""

from __future__ import annotations

import errno
import shutil
import time
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from data_prep import filters, growth, near_duplicates, readers, work_folder
from data_prep.catalog import Catalog, Corpus, read_whole_catalog
from data_prep.convert import vocabulary_of
from data_prep.estimate import Estimate, estimate, refuse_too_little_space, refuse_unknown, shown, size
from data_prep.exclusion.changes import is_concerned, write_changes
from data_prep.exclusion.entries import of_evaluation_files
from data_prep.exclusion.held_out import gather
from data_prep.growth import Growth
from data_prep.job import QUARANTINE, STOP, Job
from data_prep.known_tokenizers import recognised
from data_prep.many_files import existing
from data_prep.ownership import EXCLUDED_FILE, HELD_OUT_FILE, KEPT_FILE
from data_prep.phases import (
    Phase,
    convert_corpora,
    find_repeated_rows,
    note_concerned_lines,
    note_held_out_texts,
    remove_repeated_rows,
)
from data_prep.plan import plan_of, versions
from data_prep.rank_stats import peak_memory
from data_prep.readers.sampling import MOST_TEXT_OF_ESTIMATE
from data_prep.rebuild import left_out, rebuild_missing
from data_prep.report import collect, summary, write_reports
from data_prep.workers import Ranks
from ernie_m.base.console import InputError, Progress, duration
from ernie_m.base.files import sha256_of, write_json, written_atomically
from ernie_m.corpus.any_vocabulary import AnyVocabulary
from ernie_m.corpus.folder import Manifest
from ernie_m.corpus.tokenizer_files import companion_hashes, companions_of, name_in_data


@dataclass(frozen=True)
class Options:
    """How to build. Only `chunk_bytes` changes what is written, and `on_error` where a corpus cannot be used."""

    chunk_bytes: int = readers.CHUNK_BYTES
    overwrite: bool = False
    on_error: str = STOP
    skip_space_check: bool = False
    allow_unknown: bool = False
    tokenizer_sha256: str | None = None
    grow_from: Path | None = None
    """A finished folder, of which all that stays the same is taken over."""
    exclude: tuple[Path, ...] = ()
    """More evaluation sets than the catalog's `exclude`; paths and globs."""


def build(
    catalog: Path, tokenizer: Path, out: Path, options: Options | None = None, ranks: Ranks | None = None
) -> Manifest | None:
    """Build `out`; its manifest on rank 0, elsewhere None. Raises InputError for whatever is wrong with the input."""
    options, ranks = options or Options(), ranks or Ranks(1)
    started = time.monotonic()
    manifests: list[Manifest] = []  # of rank 0; too large to be sent around
    with ExitStack() as stack:
        stack.enter_context(ranks.prepared(partial(vocabulary_of, tokenizer)))  # while rank 0 looks at the input
        try:
            job = ranks.on_first(lambda: _prepare(catalog, tokenizer, out, options, ranks, stack))
            if job is None:
                return Manifest.read(out) if ranks.rank == 0 else None
            _note_held_out(ranks, job)
            kept = _taken_over(ranks, job)
            rest = replace(job, corpora=tuple(corpus for corpus in job.corpora if corpus.name not in kept))
            _run(ranks, convert_corpora, rest)
            if any(corpus.is_compared for corpus in rest.corpora):
                _run(ranks, find_repeated_rows, rest)
                _run(ranks, remove_repeated_rows, rest)
            ranks.on_first(lambda: manifests.append(_finish(job, started)))
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            advice = "the disk is full; what is finished is kept: make room and run the same command again"
            raise OSError(error.errno, advice, str(error.filename or out)) from None
    return manifests[0] if manifests else None


def show_estimate(catalog: Path, tokenizer: Path, out: Path, options: Options, ranks: Ranks) -> None:
    """Print what a build would take."""

    def show() -> None:
        whole = _asked(catalog, options)
        corpora = _to_build(whole, _growth(whole, vocabulary_of(tokenizer), out, options))
        print(shown([estimate(corpus, tokenizer, MOST_TEXT_OF_ESTIMATE) for corpus in corpora], out, ranks.num_ranks))

    ranks.on_first(show)


def _asked(catalog: Path, options: Options) -> Catalog:
    whole = read_whole_catalog(catalog)
    return replace(whole, exclude=(*options.exclude, *whole.exclude))


def _prepare(catalog: Path, tokenizer: Path, out: Path, options: Options, ranks: Ranks, stack: ExitStack) -> Job | None:
    """Everything that all ranks have to know; None where the folder holds what is asked for."""
    whole = _asked(catalog, options)
    corpora, evaluation = tuple(whole.corpora), existing(whole.exclude)
    filters.require(corpus.filters for corpus in corpora)
    near_duplicates.require(corpus.deduplicate_near for corpus in corpora)
    vocabulary = vocabulary_of(tokenizer)
    known = recognised(vocabulary, options.tokenizer_sha256)
    if vocabulary.path.resolve().is_relative_to(out.resolve()):
        raise InputError(f"tokenizer {tokenizer}: lies in the output folder, which may be emptied; copy it elsewhere")
    stack.enter_context(work_folder.locked(out))
    before = work_folder.finished_plan(out)
    if before is not None and not options.overwrite:
        now = plan_of(whole, left_out(before), vocabulary.fingerprint, options.chunk_bytes)
        work_folder.refuse_other_plan(out, before, now)
        rebuilt = [rebuild_missing(out, corpora, tokenizer, options.chunk_bytes), _restored_tokenizer(vocabulary, out)]
        told = "; ".join(filter(None, rebuilt)) or "nothing to do"
        print(f"{out}: already built from the same input, tokenizer and options; {told}")
        return None
    found = _growth(whole, vocabulary, out, options)
    estimates, failed = _sampled(_to_build(whole, found), tokenizer, options)
    entries = of_evaluation_files(
        evaluation, [f"{path.parent.name}/{path.name}" for path in evaluation]
    )  # before anything is written
    plan = plan_of(whole, failed, vocabulary.fingerprint, options.chunk_bytes)
    if found:
        plan[work_folder.GROWN_FROM] = found.manifest_sha256
    goes_on = work_folder.begin(out, plan, options.overwrite)
    if evaluation and not (out / EXCLUDED_FILE).exists():
        entries.write(out / EXCLUDED_FILE)
    if goes_on:
        print(f"{out}: an earlier build of the same input goes on")
    elif not options.skip_space_check:
        refuse_too_little_space(
            sum(one.disk_bytes for one in estimates) + (growth.copied_bytes(found, out) if found else 0), out
        )
    for name, message in failed.items():
        work_folder.mark_end(out, name, {"error": message})
    print(known)
    print(f"ranks: {ranks.num_ranks}; corpora: {len(corpora)}; bytes of text a chunk: {options.chunk_bytes:,}")
    quarantines, is_apart = options.on_error == QUARANTINE, not whole.allow_held_out
    return Job(corpora, tokenizer, out, options.chunk_bytes, quarantines, options.allow_unknown, is_apart, found)


def _growth(catalog: Catalog, vocabulary: AnyVocabulary, out: Path, options: Options) -> Growth | None:
    """What can be taken over, told to the user; None where the build does not grow from another folder."""
    if options.grow_from is None:
        return None
    found = growth.compared(options.grow_from, out, catalog, vocabulary, options.chunk_bytes)
    print(growth.told(found, catalog.corpora))
    return found


def _to_build(catalog: Catalog, found: Growth | None) -> list[Corpus]:
    """The corpora that are not taken over."""
    return [corpus for corpus in catalog.corpora if not found or corpus.name in found.built]


def _sampled(corpora: list[Corpus], tokenizer: Path, options: Options) -> tuple[list[Estimate], dict[str, str]]:
    """An estimate from a sample of every corpus; and name -> message of corpora to be left out."""
    estimates, failed = [], {}
    progress = Progress("look at a sample of every corpus", len(corpora), "corpora")
    for corpus in corpora:
        try:
            estimates.append(estimate(corpus, tokenizer))
            if not options.allow_unknown:
                refuse_unknown(corpus, estimates[-1].pieces)
        except InputError as error:
            if options.on_error == STOP:
                raise
            failed[corpus.name] = str(error)
        progress.advance(1)
    progress.close()
    return estimates, failed


def _note_held_out(ranks: Ranks, job: Job) -> None:
    """Know what is held out, before anything is converted; what another folder has noted is not read again."""
    if not job.held_out or ranks.on_first((job.out / HELD_OUT_FILE).exists):
        return
    noted = job.growth.noted if job.growth else ()
    rest = tuple(corpus for corpus in job.held_out if corpus.name not in noted)
    _run(ranks, note_held_out_texts, replace(job, corpora=rest))
    ranks.on_first(lambda: gather(job.out, rest, job.growth.old / HELD_OUT_FILE if job.growth and noted else None))


def _taken_over(ranks: Ranks, job: Job) -> set[str]:
    """Names of the corpora that are taken over from another folder, which has been done then."""
    found = job.growth
    if found is None:
        return set()
    work = job.out / work_folder.WORK_FOLDER
    if ranks.on_first(lambda: not (work / KEPT_FILE).exists() and write_changes(found.old, job.out, work)):
        candidates = [corpus for corpus in job.corpora if corpus.name in found.kept]
        unknown = ranks.on_first(lambda: tuple(one for one in candidates if not is_concerned(job.out, one.name)))
        _run(ranks, note_concerned_lines, replace(job, corpora=unknown))
    return set(ranks.on_first(lambda: _take_over(job, found)))


def _take_over(job: Job, found: Growth) -> list[str]:
    path = job.out / work_folder.WORK_FOLDER / KEPT_FILE
    if not path.exists():
        concerned = [name for name in found.kept if is_concerned(job.out, name)]
        decided = growth.without(found, job.corpora, concerned)
        refuse_too_little_space(sum(found.old_bytes[name] for name in found.kept if name in decided.built), job.out)
        write_json(path, {"kept": decided.kept})
    kept = [name for name in work_folder.read(path)["kept"] if "error" not in (work_folder.end_of(job.out, name) or {})]
    growth.take_over(found, kept, job.out)
    return kept


def _run(ranks: Ranks, phase: Phase, job: Job) -> None:
    """Run a phase of the work on all teams; the first failure is raised on rank 0, and the other ranks exit."""
    errors = [error for error in ranks.run_teams(phase, job) if error is not None]

    def raise_first() -> None:
        for error in errors:
            raise error

    ranks.on_first(raise_first)


def _finish(job: Job, started: float) -> Manifest:
    results = collect(job)
    usable = [result for result in results if result.entry is not None]
    if not usable:
        raise InputError(f"no corpus of the catalog could be used ({results[0].error}); nothing was built")
    vocabulary = vocabulary_of(job.tokenizer)
    name, companions = _copy_tokenizer(vocabulary, job.out)
    entries = tuple(result.entry for result in usable if result.entry is not None)
    manifest = Manifest(name, vocabulary.fingerprint, vocabulary.specials, entries, versions(job.corpora), companions)
    write_reports(job.out, results)
    work_folder.keep_plan(job.out)
    manifest.write(job.out)
    work_folder.finish(job.out)
    print(summary(results))
    rows = sum(result.num_rows for result in usable)
    seconds = duration(time.monotonic() - started)
    peak = f"peak memory of a rank {size(peak_memory(job.out))}"
    print(f"\n{job.out}: {rows:,} rows in {seconds}, {peak}; {work_folder.READABLE_REPORT_FILE} tells more")
    return manifest


def _restored_tokenizer(vocabulary: AnyVocabulary, out: Path) -> str:
    """Copy the tokenizer's files again where a finished folder has lost or altered ones; says so, '' for nothing."""
    manifest = Manifest.read(out)
    expected, path = (manifest.tokenizer_file, manifest.tokenizer_companions), out / manifest.tokenizer_file
    if path.is_file() and sha256_of(path) == manifest.tokenizer_sha256 and companion_hashes(path) == expected[1]:
        return ""
    if (name_in_data(vocabulary.path), companion_hashes(vocabulary.path)) != expected:
        raise InputError(f"{path}: it or a file beside it is lost, and --tokenizer has others now; give that of the build")
    _copy_tokenizer(vocabulary, out)
    return "its tokenizer was copied again"


def _copy_tokenizer(vocabulary: AnyVocabulary, out: Path) -> tuple[str, dict[str, str]]:
    """Copy the tokenizer's files into `out`: what the main one is called there, and the others with their hashes."""
    name = name_in_data(vocabulary.path)
    for path in (vocabulary.path, *companions_of(vocabulary.path)):
        with written_atomically(out / (name if path == vocabulary.path else path.name)) as aside:
            shutil.copyfile(path, aside)
    if sha256_of(out / name) != vocabulary.fingerprint:
        raise InputError(f"tokenizer {vocabulary.path}: changed while the shards were built; run the build again")
    return name, companion_hashes(out / name)
