"""The plan of a build: everything that its output depends on. A build is continued, or grown, only where it is the same."""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Collection
from dataclasses import asdict
from typing import Any

import numpy as np
import pyarrow
import sentencepiece
import tokenizers

import ernie_m
from data_prep import filters, near_duplicates
from data_prep.catalog import Catalog, Corpus
from data_prep.inputs import Input
from data_prep.many_files import existing

IDENTITY_BYTES = 1 << 16  # of both ends of an input file: shows a change without reading the whole file


def plan_of(catalog: Catalog, failed: Collection[str], tokenizer_sha256: str, chunk_bytes: int) -> dict[str, Any]:
    """The plan of a whole catalog; `failed`: names of corpora that cannot be used, whose files do not count."""
    return {
        **settings(catalog.corpora, tokenizer_sha256, chunk_bytes),
        "exclude": [identity(path) for path in existing(catalog.exclude)],
        "allow_held_out": catalog.allow_held_out,
        "corpora": [described(corpus, corpus.name not in failed) for corpus in catalog.corpora],
    }


def settings(corpora: Collection[Corpus], tokenizer_sha256: str, chunk_bytes: int) -> dict[str, Any]:
    """What every shard depends on."""
    return {"chunk_bytes": chunk_bytes, "tokenizer_sha256": tokenizer_sha256, "versions": versions(corpora)}


def described(corpus: Corpus, is_usable: bool = True) -> dict[str, Any]:
    """What the shards of one corpus depend on. Raises OSError where a file of it is not there."""
    files = [identity(path) for path in corpus.files] if is_usable else []
    told = {key: value for key, value in asdict(corpus).items() if key != "limits"}  # they change no byte
    return {**told, "files": files, "languages": list(corpus.languages), "filters": dict(corpus.filters)}


def identity(path: Input) -> dict[str, Any]:
    """What tells a file from another of its name, without reading all of it."""
    size = path.stat().st_size
    with path.open("rb") as file:
        ends = file.read(IDENTITY_BYTES)
        file.seek(max(0, size - IDENTITY_BYTES))
        ends += file.read()
    return {"name": path.name, "bytes": size, "sha256_of_ends": hashlib.sha256(ends).hexdigest()}


def versions(corpora: Collection[Corpus] = ()) -> dict[str, str]:
    """Versions of the software that made the shards."""
    return {
        **near_duplicates.versions(corpus.deduplicate_near for corpus in corpora),
        **filters.versions(corpus.filters for corpus in corpora),
        "ernie_m": ernie_m.__version__,
        "python": platform.python_version(),
        "pyarrow": pyarrow.__version__,
        "sentencepiece": sentencepiece.__version__,
        "tokenizers": tokenizers.__version__,
        "numpy": np.__version__,
    }
