"""The result of every corpus, from the markers: as a table, as report.json and as report.txt.

Both files depend on the input alone: the same corpora give the same report on any number of ranks.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from data_prep import work_folder
from data_prep.alignment import Alignment
from data_prep.catalog import Corpus
from data_prep.clean import no_usable_line, too_long
from data_prep.convert import EXAMPLES, Tally, marker_of
from data_prep.estimate import alarms_of, refuse_unknown
from data_prep.filters.language import NAME as LANGUAGE_FILTER
from data_prep.filters.language import codes_of
from data_prep.job import Job
from data_prep.phases import num_chunks
from data_prep.readers import named
from ernie_m.base.console import InputError
from ernie_m.base.files import write_json, written_atomically
from ernie_m.base.table import table
from ernie_m.corpus.folder import TRAIN, CorpusEntry, ShardEntry
from ernie_m.corpus.unknown_pieces import Pieces

ALARMING_LOSS = 0.05


@dataclass
class Result:
    """One corpus of the catalog, built or not."""

    corpus: Corpus
    entry: CorpusEntry | None
    error: str | None
    tally: Tally = field(default_factory=Tally)
    score: float | None = None
    """Of the alignment."""
    sampled_pairs: int = 0
    warnings: list[str] = field(default_factory=list)
    alarms: list[str] = field(default_factory=list)
    num_rows: int = 0
    num_tokens: int = 0
    num_bytes: int = 0


def collect(job: Job) -> list[Result]:
    """The results of all corpora, from their markers; raises InputError for one without any usable line."""
    return [_result(job, corpus) for corpus in job.corpora]


def _result(job: Job, corpus: Corpus) -> Result:
    end = work_folder.end_of(job.out, corpus.name) or {}
    result = Result(corpus, None, end.get("error"))
    if result.error is None:
        shards = _kept(end, result) if "kept" in end else _merged(job, corpus, result)
        result.num_rows = sum(shard.rows for shard in shards)
        result.num_tokens = sum(sum(shard.tokens) for shard in shards)
        result.num_bytes = sum(shard.bytes for shard in shards)
        try:
            _refuse_unusable(job, result, shards)
        except InputError as error:
            if not job.quarantines:
                raise
            result.error = str(error)
        else:
            result.alarms = alarms_of(corpus, result.tally.pieces)
            rejected, languages = dict(sorted(result.tally.rejected.items())), tuple(sorted(corpus.languages))
            read, filters = result.tally.lines_read, dict(corpus.filters)
            result.entry = CorpusEntry(corpus.name, corpus.format, languages, read, rejected, shards, filters)
    if result.error is not None:
        work_folder.drop_corpus(job.out, corpus.name)
    return result


def _refuse_unusable(job: Job, result: Result, shards: list[ShardEntry]) -> None:
    corpus, tally = result.corpus, result.tally
    if not shards:
        with named(corpus):
            raise no_usable_line(corpus, tally.rejected)
    if not job.allows_unknown:
        refuse_unknown(corpus, tally.pieces)


def _merged(job: Job, corpus: Corpus, result: Result) -> list[ShardEntry]:
    """Sum the markers of a corpus in the order of its chunks; its shards, first all of one split, then of the other."""
    shards: list[ShardEntry] = []
    total, whole = result.tally, Alignment()
    for index in range(num_chunks(job, corpus)):
        marker = work_folder.read_marker(job.out, corpus.name, index, is_final=corpus.is_compared)
        tally, alignment, found = marker_of(marker, total.lines)
        shards += found
        for reason, examples in tally.examples.items():
            known = total.examples.setdefault(reason, [])
            known += [(total.lines + number, text) for number, text in examples[: EXAMPLES - len(known)]]
        whole += alignment
        total.lines, total.text_bytes = total.lines + tally.lines, total.text_bytes + tally.text_bytes
        total.lines_read += tally.lines_read
        for language, pieces in tally.pieces.items():
            total.pieces[language] = total.pieces.get(language, Pieces()) + pieces
        counts = [(getattr(total, key), getattr(tally, key)) for key in ("rejected", "rejected_bytes", "noted")]
        for sums, counted in counts:
            for reason, number in counted.items():
                sums[reason] = sums.get(reason, 0) + number
    result.score, result.sampled_pairs = whole.score, whole.pairs
    result.warnings += [*whole.warnings(), *_long_lines(corpus, total), *_not_judged(corpus)]
    return sorted(shards, key=lambda shard: shard.split != TRAIN)  # stable: each split keeps the order of its chunks


def _kept(end: dict[str, Any], result: Result) -> list[ShardEntry]:
    """What the report of another folder, from which the corpus was taken over, says of it (see `_as_json`); its shards."""
    told = end["kept"]
    rejected = told["rejected"].items()
    result.tally = Tally(
        told["lines"],
        told["lines_read"],
        told["text_bytes"],
        rejected={reason: found["lines"] for reason, found in rejected},
        examples={
            reason: [(one["line"], one["text"]) for one in found["first"]] for reason, found in rejected if found["first"]
        },
        pieces={language: Pieces(**found) for language, found in told["pieces"].items()},
        rejected_bytes=told["rejected_bytes"],
        noted=told["noted"],
    )
    result.score, result.sampled_pairs = (told["alignment"][key] for key in ("score", "sampled_pairs"))
    result.warnings = list(told["warnings"])
    return [ShardEntry(**{**shard, "tokens": tuple(shard["tokens"])}) for shard in end["shards"]]


def summary(results: list[Result]) -> str:
    """The table at the end of a build, and below it what a person should look at."""
    head = ["corpus", "format", "languages", "rows", "tokens", "rejected", "unknown", "alignment", "disk bytes a text byte"]
    rows = []
    for result in results:
        corpus = result.corpus
        numbers = [f"{n:,}" for n in (result.num_rows, result.num_tokens, sum(result.tally.rejected.values()))]
        score = "-" if result.score is None else f"{result.score:.2f}"
        disk = f"{result.num_bytes / max(result.tally.text_bytes, 1):.2f}"
        unknown = " ".join(pieces.shown for _, pieces in sorted(result.tally.pieces.items())) or "-"
        state = [*numbers, unknown, score, disk] if result.entry else ["left out", *"-----"]
        rows.append([corpus.name, corpus.format, " ".join(sorted(corpus.languages)), *state])
    return "\n".join([table(head, rows), *_notes(results)])


def _notes(results: list[Result]) -> Iterator[str]:
    for result in results:
        if result.error:
            yield f"left out: {result.error}"
        for alarm in result.alarms:
            yield f"alarm: {alarm}"
        for warning in result.warnings:
            yield f"warning: corpus {result.corpus.name}: {warning}"
        for reason, number in sorted(result.tally.rejected.items()):
            first = f" (first: line {found[0][0]:,})" if (found := result.tally.examples.get(reason)) else ""
            yield f"{result.corpus.name}: {number:,} rejected{_share(result, reason)}: {reason}{first}"
        for what, number in sorted(result.tally.noted.items()):
            yield f"{result.corpus.name}: {number:,} {what}"


def _share(result: Result, reason: str) -> str:
    """What the long lines are of the text: few lines may be most of it."""
    share = result.tally.rejected_bytes.get(reason, 0) / max(1, result.tally.text_bytes)
    return f" ({100 * share:.0f} % of the text)" if reason == too_long(result.corpus) else ""


def _long_lines(corpus: Corpus, tally: Tally) -> Iterator[str]:
    share = tally.rejected_bytes.get(too_long(corpus), 0) / max(1, tally.text_bytes)
    if share >= ALARMING_LOSS and len(corpus.languages) == 1:
        yield (
            f"{100 * share:.0f} % of the text stands in lines of more than {corpus.max_characters:,} characters, which were "
            "left out; `long_lines: split` in the catalog keeps them, cut up at spaces"
        )


def _not_judged(corpus: Corpus) -> Iterator[str]:
    for code in corpus.languages if LANGUAGE_FILTER in dict(corpus.filters) else ():
        if not codes_of(code):
            yield f"the filter `language` does not know {code}: its lines were not judged by it"


def write_reports(out: Path, results: list[Result]) -> None:
    """Write report.json and report.txt."""
    write_json(out / work_folder.REPORT_FILE, {"corpora": [_as_json(result) for result in results]})
    lines = [summary(results)]
    for result in results:
        for reason, examples in sorted(result.tally.examples.items()):
            lines += ["", f"{result.corpus.name}: {result.tally.rejected[reason]:,} rejected: {reason}; the first:"]
            lines += [f"  line {number:,}: {text!r}" for number, text in examples]
    with written_atomically(out / work_folder.READABLE_REPORT_FILE) as aside:
        aside.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _as_json(result: Result) -> dict[str, Any]:
    corpus, tally = result.corpus, result.tally
    return {
        "name": corpus.name,
        "format": corpus.format,
        "files": [path.name for path in corpus.files],
        "languages": sorted(corpus.languages),
        "left_out": result.error,
        "lines": tally.lines,
        "lines_read": tally.lines_read,
        "text_bytes": tally.text_bytes,
        "rows": result.num_rows,
        "tokens": result.num_tokens,
        "shard_bytes": result.num_bytes,
        "rejected": {
            reason: {
                "lines": number,
                "first": [{"line": line, "text": text} for line, text in tally.examples.get(reason, [])],
            }
            for reason, number in sorted(tally.rejected.items())
        },
        "alignment": {"score": result.score, "sampled_pairs": result.sampled_pairs},
        "pieces": {language: asdict(pieces) for language, pieces in sorted(tally.pieces.items())},
        "rejected_bytes": dict(sorted(tally.rejected_bytes.items())),
        "noted": dict(sorted(tally.noted.items())),
        "alarms": result.alarms,
        "warnings": result.warnings,
    }
