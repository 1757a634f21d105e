"""A finished folder that has lost some shards: their chunks alone are converted again, to the same bytes.

A shard that is missing or of another size is found here; one that is damaged otherwise is found by `verify`, and is built
again once it has been removed.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from data_prep import readers, work_folder
from data_prep.catalog import Corpus
from data_prep.convert import Task, convert
from data_prep.readers.text_file import Cut
from data_prep.records import Chunk, no_count
from ernie_m.base.console import InputError, Progress
from ernie_m.base.files import sha256_of
from ernie_m.corpus.folder import Manifest, ShardEntry


def left_out(plan: dict[str, Any]) -> set[str]:
    """Names of the corpora that a finished build left out because they could not be used."""
    return {corpus["name"] for corpus in plan.get("corpora", []) if not corpus["files"]}


def rebuild_missing(out: Path, corpora: tuple[Corpus, ...], tokenizer: Path, chunk_bytes: int) -> str:
    """Build again what is missing of the finished folder `out`; says what, '' for nothing.

    Raises InputError where that cannot be done by itself, or gives other bytes than the manifest promises.
    """
    lost = _lost(out)
    by_name = {corpus.name: corpus for corpus in corpora}
    progress = Progress("rebuild", sum(map(len, lost.values())), "shards")
    for name, entries in lost.items():
        corpus = by_name[name]
        if corpus.is_compared:
            raise InputError(
                f"{out / entries[0].file}: missing or of another size, and corpus {name} was built without repeated lines, "
                "which takes all of it; build the folder again with --overwrite"
            )
        for chunk in _chunks(corpus, chunk_bytes, {entry.number for entry in entries}):
            convert(Task(corpus, chunk, tokenizer, out))
        for entry in entries:
            if not (out / entry.file).is_file() or sha256_of(out / entry.file) != entry.sha256:
                raise InputError(f"{out / entry.file}: its input has changed since; build the folder again with --overwrite")
            progress.advance(1)
    progress.close()
    work_folder.finish(out)
    count = sum(map(len, lost.values()))
    return (
        f"{count:,} shard{'s' * (count > 1)} that had been lost {'were' if count > 1 else 'was'} built again"
        if count
        else ""
    )


def _lost(out: Path) -> dict[str, list[ShardEntry]]:
    """Corpus -> its shards that are missing or of another size."""
    lost: dict[str, list[ShardEntry]] = defaultdict(list)
    for corpus in Manifest.read(out).corpora:
        for entry in corpus.shards:
            path = out / entry.file
            if not path.is_file() or path.stat().st_size != entry.bytes:
                lost[corpus.name].append(entry)
    return lost


def _chunks(corpus: Corpus, chunk_bytes: int, wanted: set[int]) -> Iterator[Chunk | Cut]:
    with readers.named(corpus):
        places = readers.cuts(corpus, chunk_bytes)
        if places is not None:
            yield from (place for place in places if place.index in wanted)
            return
        for chunk in readers.chunks(corpus, chunk_bytes, no_count):
            if chunk.index in wanted:
                yield chunk
            if chunk.index >= max(wanted):
                return
