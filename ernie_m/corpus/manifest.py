"""The one description of a corpus folder; data_prep writes it, training and the tools read it.

manifest.json holds what is small: the tokenizer, the corpora, what was rejected. The shards, perhaps a million, are rows
of `shards.arrow` (ernie_m/corpus/shard_table.py). manifest.json holds the hash of that table, and the table that of every
shard. So the hash of manifest.json stands for the whole folder.

A folder with optional columns (ernie_m/corpus/columns.py) has format 4: a reader of format 3 would not check them. Without
any, the file is format 3, byte for byte as before.
"""

from __future__ import annotations

import json
import operator
import re
from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np

from ernie_m.base.console import InputError
from ernie_m.base.files import read_json, sha256_of, write_json
from ernie_m.base.special_tokens import NO_LANGUAGE, Specials
from ernie_m.corpus.columns import COLUMNS, ColumnTable, read_column_table, write_column_table
from ernie_m.corpus.shard_table import SHARD_TABLE_FILE, ShardEntry, ShardList, read_table, write_table
from ernie_m.corpus.tokenizer_files import COMPANIONS, TOKENIZER_FILE, TOKENIZER_JSON

MANIFEST_FILE = "manifest.json"
FORMAT_NAME = "ernie-m token shards"
FORMAT_VERSION = 3
COLUMNS_VERSION = 4
"""As FORMAT_VERSION, with optional columns."""
XLM_R_VERSION = 2
"""The format before: only XLM-R's layout, given by the size of the vocabulary."""


@dataclass(frozen=True, init=False)
class CorpusEntry:
    """One corpus of the catalog: what was read, what was rejected and why, and the shards made of it."""

    name: str
    format: str
    languages: tuple[str, ...]
    lines_read: int
    rejected: dict[str, int]
    shards: ShardList
    filters: dict[str, float]
    """Name -> limit of the filters that its lines have passed."""

    def __init__(
        self,
        name: str,
        format: str,
        languages: tuple[str, ...],
        lines_read: int,
        rejected: dict[str, int],
        shards: ShardList | Iterable[ShardEntry],
        filters: dict[str, float] | None = None,
    ) -> None:
        """`shards`: any entries of this corpus, read once and kept as columns."""
        if not isinstance(shards, ShardList):
            shards = ShardList.of(name, len(languages), shards)
        assert shards.corpora() <= {name}, "another corpus's shards"
        values = name, format, languages, lines_read, rejected, shards, filters or {}
        for key, value in zip(fields(self), values, strict=True):
            object.__setattr__(self, key.name, value)


@dataclass(frozen=True)
class Manifest:
    """What a corpus folder promises."""

    tokenizer_file: str
    tokenizer_sha256: str
    specials: Specials
    """Of the tokenizer: its special tokens, what may replace a masked token, and the size of the vocabulary."""
    corpora: tuple[CorpusEntry, ...]
    versions: dict[str, str] = field(default_factory=dict)
    tokenizer_companions: dict[str, str] = field(default_factory=dict)
    """The tokenizer's other files, such as tokenizer_config.json: name -> SHA-256."""
    columns: dict[str, ColumnTable] = field(default_factory=dict)
    """Optional columns (a key of COLUMNS) -> their companion files. Their places count the shards of `corpora`, in order."""
    columns_made: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Of each optional column: how it was made, for people to read."""

    @property
    def vocab_size(self) -> int:
        """The highest id + 1."""
        return self.specials.vocab_size

    @property
    def languages(self) -> list[str]:
        """Every language of the folder, sorted; a language's id is its index here + 1 (0 is 'none')."""
        return sorted({language for corpus in self.corpora for language in corpus.languages})

    def language_ids(self) -> dict[str, int]:
        """Language -> id, from 1."""
        return {language: NO_LANGUAGE + 1 + i for i, language in enumerate(self.languages)}

    def write(self, folder: Path) -> None:
        """Write the shard table, then manifest.json, each atomically. A folder with both is finished."""
        write_table(folder, [(corpus.name, corpus.shards) for corpus in self.corpora])
        for name, companions in self.columns.items():
            write_column_table(folder, COLUMNS[name], companions)
        columns = {
            name: {"table": _described(folder / COLUMNS[name].table_file), "made": self.columns_made.get(name, {})}
            for name in self.columns
        }
        write_json(
            folder / MANIFEST_FILE,
            {
                "format": FORMAT_NAME,
                "format_version": COLUMNS_VERSION if columns else FORMAT_VERSION,
                "languages": self.languages,
                "tokenizer_file": self.tokenizer_file,
                "tokenizer_sha256": self.tokenizer_sha256,
                "tokenizer_companions": self.tokenizer_companions,
                "special_tokens": self.specials.to_json(),
                "versions": self.versions,
                "corpora": [_summary(corpus) for corpus in self.corpora],
                "shard_table": _described(folder / SHARD_TABLE_FILE),
                **({"columns": columns} if columns else {}),
            },
        )

    @staticmethod
    def read(folder: Path) -> Manifest:
        """Read what `write` wrote; raises InputError when a file is missing, broken or of another format."""
        path = folder / MANIFEST_FILE
        if not folder.is_dir():
            raise InputError(f"data folder {folder}: no such folder; `python -m data_prep build` makes one")
        if not path.is_file():
            raise InputError(f"{path}: missing, so this data folder is not finished; run `python -m data_prep build` again")
        try:
            content = read_json(path)
            if content.pop("format") != FORMAT_NAME:
                raise InputError(f"{path}: not a manifest of {FORMAT_NAME}")
            version = content.pop("format_version")
            if version not in (XLM_R_VERSION, FORMAT_VERSION, COLUMNS_VERSION):
                reads = f"{XLM_R_VERSION} to {COLUMNS_VERSION}"
                raise InputError(f"{path}: format version {version}, this release reads {reads}; rebuild the data")
            content.pop("languages")
            _check_names(path, content)
            if version == XLM_R_VERSION:
                specials = Specials.xlm_r(operator.index(content.pop("vocab_size")))
            else:
                specials = Specials.from_json(content.pop("special_tokens"), f"{path}: special_tokens")
            corpora = _read_corpora(folder, content.pop("corpora"), **content.pop("shard_table"))
            found = content.pop("columns") if version == COLUMNS_VERSION else {}
            columns = _read_columns(folder, found, sum(len(corpus.shards) for corpus in corpora))
            made = {name: dict(described["made"]) for name, described in found.items()}
            return Manifest(specials=specials, corpora=corpora, columns=columns, columns_made=made, **content)
        except (KeyError, TypeError, AttributeError, UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
            raise InputError(f"{path}: not a valid manifest ({type(error).__name__}: {error}); rebuild the data") from None


def _check_names(path: Path, content: dict[str, Any]) -> None:
    """Raise InputError for a file or folder that would lie elsewhere."""
    known = (TOKENIZER_FILE, TOKENIZER_JSON, *COMPANIONS)
    names = [content["tokenizer_file"], *content.get("tokenizer_companions", {})]
    strange = [name for name in names if name not in known]
    strange += [of["name"] for of in content["corpora"] if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", of["name"])]
    if strange:
        raise InputError(f"{path}: names {str(strange[0])[:80]!r}, which no build writes; rebuild the data")
    for of in content["corpora"]:
        codes = of["languages"]
        are_codes = isinstance(codes, list) and all(re.fullmatch(r"[A-Za-z0-9-]{1,100}", code) for code in codes)
        if not are_codes or len({*codes}) != len(codes) or len(codes) not in (1, 2):
            raise InputError(
                f"{path}: {of['name']} has the languages {str(codes)[:80]}, expected one or two codes; rebuild the data"
            )


def _described(path: Path) -> dict[str, Any]:
    return {"file": path.name, "bytes": path.stat().st_size, "sha256": sha256_of(path)}


def _read_columns(folder: Path, described: dict[str, Any], num_shards: int) -> dict[str, ColumnTable]:
    columns = {}
    for name, content in described.items():
        if name not in COLUMNS:
            known = ", ".join(COLUMNS)
            raise InputError(f"{folder / MANIFEST_FILE}: column {name}, this release knows {known}; take a newer release")
        file, size, sha256 = (content["table"][key] for key in ("file", "bytes", "sha256"))
        if file != COLUMNS[name].table_file:
            raise InputError(f"{folder / MANIFEST_FILE}: table {file} of column {name}, expected {COLUMNS[name].table_file}")
        columns[name] = read_column_table(folder, COLUMNS[name], operator.index(size), sha256, num_shards)
    return columns


def _summary(corpus: CorpusEntry) -> dict[str, Any]:
    content = {key.name: getattr(corpus, key.name) for key in fields(corpus)}
    if not corpus.filters:  # as folders have always been
        del content["filters"]
    return {**content, "shards": len(corpus.shards)}


def _read_corpora(
    folder: Path, summaries: list[dict[str, Any]], file: str, bytes: int, sha256: str
) -> tuple[CorpusEntry, ...]:
    if file != SHARD_TABLE_FILE:
        raise InputError(f"{folder / MANIFEST_FILE}: shard table {file}, expected {SHARD_TABLE_FILE}; rebuild the data")
    num_shards = [operator.index(summary["shards"]) for summary in summaries]
    table = read_table(folder, bytes, sha256, [summary["name"] for summary in summaries], num_shards)
    corpora, first = [], 0
    for summary, count in zip(summaries, num_shards, strict=True):
        languages = tuple(summary["languages"])
        shards = ShardList(table, np.arange(first, first + count, dtype=np.int32), len(languages))
        corpora.append(CorpusEntry(**{**summary, "languages": languages, "shards": shards}))
        first += count
    return tuple(corpora)
