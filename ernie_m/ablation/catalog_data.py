"""Data of `ablate transfer`: made of a catalog that `python -m data_prep fetch` wrote, or given."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from ernie_m.ablation.jobs import Job, Part, python_m
from ernie_m.base.console import InputError
from ernie_m.corpus.folder import CorpusFolder

TOKENIZER_SENTENCES = 300_000
HELD_OUT = "*/held_out"
"""Folders of held-out pairs, in a fetched one."""


class Data(NamedTuple):
    """What is trained and measured on."""

    folder: Path
    held_out: str | None
    vocab_size: int
    jobs: Sequence[Job] | None
    """They make it; None: nothing is run."""


def data_of(
    source: str | None, data: str | None, held_out: str | None, to: Path, vocab_size: int, tatoeba: str | None = None
) -> Data:
    """The data that the options name; made of a catalog, it has no sentence of `tatoeba`, nor of `held_out`.

    Raises InputError for options that exclude each other, and for what is not there.
    """
    if source and data:
        raise InputError("--source and --data: give one; --source is made to data, --data is data that is made already")
    if held_out and not (source or data):
        raise InputError("--held_out: without --source or --data nothing is run, so nothing is measured")
    if data:
        return Data(Path(data), held_out, CorpusFolder(Path(data)).manifest.vocab_size, [])
    if source:
        if not (Path(source) / "catalog.yaml").is_file():
            raise InputError(f"--source {source}: no catalog.yaml there; expected a folder of `python -m data_prep fetch`")
        jobs = [data_job(Path(source).resolve(), to, vocab_size, _beside_the_source(Path(source), tatoeba, held_out))]
        return Data(to / "data", held_out or str(held_out_of(Path(source))), vocab_size, jobs)
    return Data(to / "data", None, vocab_size, None)


def _beside_the_source(source: Path, tatoeba: str | None, held_out: str | None) -> list[Path]:
    """Globs of what is measured, but for the catalog's own held-out pairs, which a build keeps out by itself."""
    globs = [Path(tatoeba).resolve() / "tatoeba.*"] if tatoeba else []
    if held_out and Path(held_out).resolve() not in map(Path.resolve, source.glob(HELD_OUT)):
        globs.append(Path(held_out).resolve() / "*")
    return globs


def held_out_of(source: Path) -> Path:
    """The folder of held-out pairs beside a fetched catalog; InputError where there is not one."""
    folders = sorted(path for path in source.glob(HELD_OUT) if path.is_dir())
    if len(folders) != 1:
        raise InputError(
            f"--source {source}: {len(folders)} of its corpora have held-out pairs; --held_out names the folder of one"
        )
    return folders[0]


def data_job(source: Path, to: Path, vocab_size: int, measured: Sequence[Path] = ()) -> Job:
    """Commands that make TO/data of a fetched catalog; the sentences of the `measured` files are kept out."""
    kept_out = ("--exclude", ",".join(map(str, measured))) if measured else ()
    links = python_m("data_prep", "align", "--data", to / "data")
    parts = built(source / "catalog.yaml", to, vocab_size, TOKENIZER_SENTENCES, *kept_out)
    return Job("data", [*parts, Part("word links", links, to / "done/links.json")], to / "logs" / "data.log")


def built(catalog: Path, to: Path, vocab_size: int, sentences: int, *options: str) -> list[Part]:
    """TO/spm.model from so many sentences of a catalog, and TO/data; `options` are the build's."""
    tokenizer = to / "spm.model"
    sampled = ("--vocab_size", vocab_size, "--max_sentences", sentences, "--overwrite")
    train = python_m("data_prep", "train-tokenizer", "--catalog", catalog, "--out", tokenizer, *sampled)
    build = python_m("data_prep", "build", "--catalog", catalog, "--tokenizer", tokenizer, "--out", to / "data", *options)
    return [Part("tokenizer", train, to / "done/tokenizer.json"), Part("shards", build, to / "done/shards.json")]
