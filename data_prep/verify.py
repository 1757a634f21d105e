"""Does a corpus folder hold what its manifest says? Every byte is read."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa

from data_prep.team import Team
from data_prep.workers import Ranks
from ernie_m.base.console import InputError, Progress
from ernie_m.base.files import sha256_of
from ernie_m.base.special_tokens import Specials
from ernie_m.corpus.any_vocabulary import open_vocabulary
from ernie_m.corpus.columns import COLUMNS, ColumnEntry, Companion
from ernie_m.corpus.folder import MONOLINGUAL_SCHEMA, PARALLEL_SCHEMA, TOKEN_COLUMNS, Manifest, Shard, ShardEntry


@dataclass(frozen=True)
class Check:
    """One shard to look through."""

    data: Path
    number: int
    """Of all shards, in the manifest's order."""
    num_languages: int
    entry: ShardEntry
    specials: Specials
    columns: dict[str, ColumnEntry] = field(default_factory=dict)
    """The optional columns it has."""

    @property
    def bytes(self) -> int:
        """To be read."""
        return self.entry.bytes + sum(column.bytes for column in self.columns.values())


def verify(data: Path, tokenizer: Path | None = None, ranks: Ranks | None = None) -> list[str]:
    """One line per failure; none when all is well, and on ranks other than the first. The shards are dealt out to `ranks`.

    With `tokenizer`, that file has to be the one that made the shards. Raises InputError when there is no manifest.
    """
    ranks = ranks or Ranks(1)
    failures = ranks.on_first(lambda: _manifest_failures(data, Manifest.read(data), tokenizer))
    found = sorted(fault for faults in ranks.run_teams(check_shards, data) for fault in faults)
    return [*failures, *(message for _, message in found)] if ranks.rank == 0 else []


def check_shards(team: Team, data: Path) -> list[tuple[int, str]]:
    """(number of the shard, what is wrong with it), of this team's share of the shards."""
    manifest = Manifest.read(data)
    sizes = [*(corpus.shards.bytes for corpus in manifest.corpora), *(table.bytes for table in manifest.columns.values())]
    total = sum(int(files.sum()) for files in sizes)
    progress = Progress("verify", total // team.num_teams, "bytes")
    faults: list[tuple[int, str]] = []

    def finished(check: Check, found: list[str]) -> None:
        faults.extend((check.number, message) for message in found)
        if team.number == 0:
            progress.advance(check.bytes)

    checks = (check for check in checks_of(data, manifest) if check.number % team.num_teams == team.number)
    team.deal_out(checks, check_shard, finished)
    if team.number == 0:
        progress.close()
    return faults


def checks_of(data: Path, manifest: Manifest) -> Iterator[Check]:
    shards = ((corpus, entry) for corpus in manifest.corpora for entry in corpus.shards)
    for number, (corpus, entry) in enumerate(shards):
        found = {name: table.entry(number) for name, table in manifest.columns.items()}
        columns = {name: column for name, column in found.items() if column is not None}
        yield Check(data, number, len(corpus.languages), entry, manifest.specials, columns)


def check_shard(check: Check) -> list[str]:
    """What is wrong with a shard and its optional columns."""
    shard = Shard(check.data, check.entry, check.num_languages)
    try:
        shard.verify()
    except InputError as error:
        return [str(error)]
    if faults := [f"{shard.path}: {fault}; rebuild the data" for fault in _faults(check)]:
        return faults
    return [fault for name, column in check.columns.items() for fault in _companion_faults(check, shard, name, column)]


def _companion_faults(check: Check, shard: Shard, name: str, entry: ColumnEntry) -> list[str]:
    companion = Companion(check.data, check.entry.file, check.entry.rows, COLUMNS[name], entry)
    try:
        companion.verify()
        companion.items(0, check.entry.rows, np.diff(shard.borders(0, check.entry.rows), axis=0))
    except InputError as error:
        return [str(error)]
    return []


def _manifest_failures(data: Path, manifest: Manifest, tokenizer: Path | None) -> list[str]:
    failures = _tokenizer_failures(data, manifest, tokenizer)
    for corpus in manifest.corpora:
        rows, rejected = sum(entry.rows for entry in corpus.shards), sum(corpus.rejected.values())
        if rows + rejected != corpus.lines_read:
            failures.append(
                f"{data}: corpus {corpus.name}: {rows} rows and {rejected} rejected of {corpus.lines_read} lines read; "
                "the sum should be equal; rebuild the data"
            )
    return failures


def _tokenizer_failures(data: Path, manifest: Manifest, tokenizer: Path | None) -> list[str]:
    failures = []
    path = data / manifest.tokenizer_file
    if not path.is_file():
        failures.append(f"{path}: missing, though the manifest names it; rebuild the data")
    elif sha256_of(path) != manifest.tokenizer_sha256:
        failures.append(f"{path}: not the tokenizer of these shards (SHA-256 differs from the manifest's); rebuild the data")
    else:
        failures += _companion_failures(data, manifest) or _special_failures(path, manifest)
    if tokenizer is not None and (found := open_vocabulary(tokenizer).fingerprint) != manifest.tokenizer_sha256:
        failures.append(
            f"tokenizer {tokenizer}: not the one of {data} (SHA-256 {found[:12]}, the shards were made with "
            f"{manifest.tokenizer_sha256[:12]}); use {path} or rebuild the data"
        )
    return failures


def _companion_failures(data: Path, manifest: Manifest) -> list[str]:
    names = [n for n, sha256 in manifest.tokenizer_companions.items() if not _is_whole(data / n, sha256)]
    return [f"{data / name}: missing or not the file of this tokenizer; rebuild the data" for name in names]


def _is_whole(path: Path, sha256: str) -> bool:
    return path.is_file() and sha256_of(path) == sha256


def _special_failures(path: Path, manifest: Manifest) -> list[str]:
    """Where the tokenizer says other things of itself than the manifest; the first position is the model's to say."""
    said, found = manifest.specials.to_json(), open_vocabulary(path).specials.to_json()
    different = [key for key in said if said[key] != found[key] and key != "first_position"]
    return [f"{path}: its {key} is {found[key]}, the manifest says {said[key]}; rebuild the data" for key in different]


def _faults(check: Check) -> list[str]:
    """What is wrong inside a shard whose hash is right."""
    schema = MONOLINGUAL_SCHEMA if check.num_languages == 1 else PARALLEL_SCHEMA
    path = check.data / check.entry.file
    try:
        with pa.memory_map(str(path)) as mapped:
            reader = pa.ipc.open_file(mapped)
            if not reader.schema.equals(schema):
                return [f"schema is {' '.join(str(reader.schema).split())}, expected {' '.join(str(schema).split())}"]
            if reader.num_record_batches != 1:
                return [f"{reader.num_record_batches} record batches, expected 1"]
            batch = reader.get_batch(0)
            batch.validate(full=True)
            return _batch_faults(batch, TOKEN_COLUMNS[check.num_languages], check.entry, check.specials)
    except pa.ArrowInvalid as error:
        return [f"not a readable Arrow file ({error})"]


def _batch_faults(batch: pa.RecordBatch, columns: tuple[str, ...], entry: ShardEntry, specials: Specials) -> list[str]:
    faults = []
    if batch.num_rows != entry.rows:
        faults.append(f"{batch.num_rows} rows, the manifest says {entry.rows}")
    if len(columns) == 1 and (found := batch.column("starts_document").true_count) != entry.documents:
        faults.append(f"{found} documents start, the manifest says {entry.documents}")
    for name, num_tokens in zip(columns, entry.tokens, strict=True):
        offsets = batch.column(name).offsets.to_numpy()
        ids = batch.column(name).values.to_numpy()
        if batch.column(name).null_count or not np.all(np.diff(offsets) > 0):
            faults.append(f"column {name} has rows without tokens")
        if len(ids) != num_tokens or offsets[0] != 0 or offsets[-1] != len(ids):
            faults.append(f"column {name} holds {len(ids)} tokens, the manifest says {num_tokens}")
        if not specials.are_text(ids).all():
            faults.append(
                f"column {name} has ids from {ids.min()} to {ids.max()}, expected {specials.text_shown} "
                f"in a vocabulary of {specials.vocab_size}"
            )
    return faults
