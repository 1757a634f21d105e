"""Token shards on disk, read by memory map.

A corpus folder holds `manifest.json`, the tokenizer that made the ids, and Arrow IPC shards of ONE record batch each,
so that every column is one flat buffer and a row is a slice of it (docs/data_format.md):

    monolingual   tokens: list<int32>, starts_document: bool        a line of text a row
    parallel      source: list<int32>, target: list<int32>          a pair a row

1. `Manifest` is the one description of a folder; data_prep writes it, training and the tools read it.
2. `CorpusFolder` opens it and groups its shards into streams: one per language, one per language pair.
3. `Shard` maps one file on first use and hands out numpy views, never copies.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from ernie_m.console import InputError
from ernie_m.files import sha256_of, write_json
from ernie_m.special_tokens import NO_LANGUAGE

MANIFEST_FILE = "manifest.json"
FORMAT_NAME = "ernie-m token shards"
FORMAT_VERSION = 1
TRAIN, HELD_OUT = "train", "held_out"

MONOLINGUAL_SCHEMA = pa.schema([("tokens", pa.list_(pa.int32())), ("starts_document", pa.bool_())])
PARALLEL_SCHEMA = pa.schema([("source", pa.list_(pa.int32())), ("target", pa.list_(pa.int32()))])
TOKEN_COLUMNS = {1: ("tokens",), 2: ("source", "target")}  # by number of languages


@dataclass(frozen=True)
class ShardEntry:
    """One shard file: `file` relative to the folder, `tokens` per language in the order of the corpus's languages.

    `documents` counts the rows that start a document (monolingual; 0 for pairs).
    """

    file: str
    split: str
    rows: int
    tokens: tuple[int, ...]
    bytes: int
    sha256: str
    documents: int = 0


@dataclass(frozen=True)
class CorpusEntry:
    """One corpus of the catalog: what was read, what was rejected and why, and the shards made of it."""

    name: str
    format: str
    languages: tuple[str, ...]
    lines_read: int
    rejected: dict[str, int]
    shards: tuple[ShardEntry, ...]


@dataclass(frozen=True)
class Manifest:
    """What a corpus folder promises."""

    tokenizer_file: str
    tokenizer_sha256: str
    vocab_size: int
    corpora: tuple[CorpusEntry, ...]
    versions: dict[str, str] = field(default_factory=dict)

    @property
    def languages(self) -> list[str]:
        """Every language of the folder, sorted; a language's id is its index here + 1 (0 is 'none')."""
        return sorted({language for corpus in self.corpora for language in corpus.languages})

    def language_ids(self) -> dict[str, int]:
        """Language -> id, from 1."""
        return {language: NO_LANGUAGE + 1 + i for i, language in enumerate(self.languages)}

    def to_json(self) -> dict[str, Any]:
        """The content of manifest.json."""
        return {"format": FORMAT_NAME, "format_version": FORMAT_VERSION, "languages": self.languages, **asdict(self)}

    def write(self, folder: Path) -> None:
        """Write manifest.json into `folder`, atomically: a folder without it is not a finished one."""
        write_json(folder / MANIFEST_FILE, self.to_json())

    @staticmethod
    def read(folder: Path) -> Manifest:
        """Read manifest.json of `folder`; raises InputError when it is missing, broken or of another format."""
        path = folder / MANIFEST_FILE
        if not folder.is_dir():
            raise InputError(f"data folder {folder}: no such folder; `python -m data_prep build` makes one")
        if not path.is_file():
            raise InputError(f"{path}: missing, so this data folder is not finished; run `python -m data_prep build` again")
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            if content.pop("format") != FORMAT_NAME:
                raise InputError(f"{path}: not a manifest of {FORMAT_NAME}")
            version = content.pop("format_version")
            if version != FORMAT_VERSION:
                raise InputError(f"{path}: format version {version}, this release reads {FORMAT_VERSION}; rebuild the data")
            content.pop("languages")
            corpora = tuple(_corpus_entry(entry) for entry in content.pop("corpora"))
            return Manifest(corpora=corpora, **content)
        except (KeyError, TypeError, AttributeError, UnicodeDecodeError, json.JSONDecodeError) as error:
            raise InputError(f"{path}: not a valid manifest ({type(error).__name__}: {error}); rebuild the data") from None


def _corpus_entry(content: dict[str, Any]) -> CorpusEntry:
    shards = tuple(ShardEntry(**{**shard, "tokens": tuple(shard["tokens"])}) for shard in content.pop("shards"))
    return CorpusEntry(**{**content, "languages": tuple(content["languages"]), "shards": shards})


class Shard:
    """One mapped shard; columns are numpy views of the file.

    `offsets[c]` int32 [rows + 1] and `values[c]` int32 [tokens]; row i of column c is
    values[c][offsets[c][i] : offsets[c][i + 1]].
    """

    def __init__(self, folder: Path, entry: ShardEntry, num_columns: int) -> None:
        self.path, self.entry, self.num_columns = folder / entry.file, entry, num_columns

    @cached_property
    def _batch(self) -> pa.RecordBatch:
        try:
            reader = pa.ipc.open_file(pa.memory_map(str(self.path)))
            if reader.num_record_batches != 1:
                raise InputError(f"{self.path}: {reader.num_record_batches} record batches, expected 1; rebuild the data")
            batch = reader.get_batch(0)
        except FileNotFoundError:
            raise InputError(f"{self.path}: missing, though the manifest names it; rebuild the data") from None
        except (pa.ArrowInvalid, OSError) as error:
            raise InputError(f"{self.path}: not a readable Arrow file ({error}); rebuild the data") from None
        if batch.num_rows != self.entry.rows:
            raise InputError(f"{self.path}: {batch.num_rows} rows, the manifest says {self.entry.rows}; rebuild the data")
        return batch

    @cached_property
    def offsets(self) -> tuple[np.ndarray, ...]:
        """Row borders of each token column, int32 [rows + 1]."""
        columns = (self._batch.column(name) for name in TOKEN_COLUMNS[self.num_columns])
        return tuple(column.offsets.to_numpy(zero_copy_only=True) for column in columns)

    @cached_property
    def values(self) -> tuple[np.ndarray, ...]:
        """Flat token ids of each column, int32 [tokens]."""
        columns = (self._batch.column(name) for name in TOKEN_COLUMNS[self.num_columns])
        return tuple(column.values.to_numpy(zero_copy_only=True) for column in columns)

    @cached_property
    def starts_document(self) -> np.ndarray:
        """Monolingual shards: bool [rows], whether the line is the first of its document."""
        return self._batch.column("starts_document").to_numpy(zero_copy_only=False)

    def verify(self) -> None:
        """Raise InputError unless the file has the manifest's size and hash."""
        if not self.path.is_file():
            raise InputError(f"{self.path}: missing, though the manifest names it; rebuild the data")
        size = self.path.stat().st_size
        if size != self.entry.bytes:
            raise InputError(f"{self.path}: {size} bytes, the manifest says {self.entry.bytes}; rebuild the data")
        if sha256_of(self.path) != self.entry.sha256:
            raise InputError(f"{self.path}: SHA-256 differs from the manifest's; rebuild the data")


@dataclass(frozen=True)
class Stream:
    """All shards of one language, or of one language pair, of one split."""

    languages: tuple[str, ...]
    shards: tuple[Shard, ...]

    @property
    def name(self) -> str:
        """'en' or 'de-en'."""
        return "-".join(self.languages)

    @property
    def num_rows(self) -> int:
        return sum(shard.entry.rows for shard in self.shards)

    @property
    def num_tokens(self) -> int:
        return sum(sum(shard.entry.tokens) for shard in self.shards)


class CorpusFolder:
    """An opened corpus folder. Shards are checked for presence and size now, mapped on first use.

    Raises InputError when the folder, the manifest, the tokenizer or a shard is missing or does not fit.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.manifest = Manifest.read(self.folder)
        self.tokenizer_path = self.folder / self.manifest.tokenizer_file
        if not self.tokenizer_path.is_file() or sha256_of(self.tokenizer_path) != self.manifest.tokenizer_sha256:
            raise InputError(f"{self.tokenizer_path}: missing or not the tokenizer of these shards; rebuild the data")
        self.language_ids = self.manifest.language_ids()
        self._streams = self._grouped()

    def _grouped(self) -> dict[tuple[int, str], list[Stream]]:
        grouped: dict[tuple[str, tuple[str, ...]], list[Shard]] = {}
        for corpus in self.manifest.corpora:
            for entry in corpus.shards:
                path = self.folder / entry.file
                if not path.is_file() or path.stat().st_size != entry.bytes:
                    raise InputError(f"{path}: missing or not {entry.bytes} bytes as the manifest says; rebuild the data")
                shard = Shard(self.folder, entry, len(corpus.languages))
                grouped.setdefault((entry.split, corpus.languages), []).append(shard)
        streams: dict[tuple[int, str], list[Stream]] = {}
        for (split, languages), shards in sorted(grouped.items()):
            streams.setdefault((len(languages), split), []).append(Stream(languages, tuple(shards)))
        return streams

    def monolingual(self, split: str = TRAIN) -> list[Stream]:
        """Streams of one language each, sorted by language."""
        return self._streams.get((1, split), [])

    def parallel(self, split: str = TRAIN) -> list[Stream]:
        """Streams of one language pair each, sorted by pair."""
        return self._streams.get((2, split), [])
