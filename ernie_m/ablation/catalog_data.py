"""Data of a comparison from a catalog that `python -m data_prep fetch` wrote: tokenizer, shards, word links."""

from __future__ import annotations

from pathlib import Path

from ernie_m.ablation.comparison import python_m
from ernie_m.ablation.jobs import Job, Part
from ernie_m.base.console import InputError

TOKENIZER_SENTENCES = 300_000


def held_out_of(source: Path) -> Path:
    """The folder of held-out pairs beside a fetched catalog; InputError where either is missing."""
    folders = sorted(path for path in source.glob("*/held_out") if path.is_dir())
    if not (source / "catalog.yaml").is_file() or len(folders) != 1:
        raise InputError(
            f"--source {source}: expected a folder of `python -m data_prep fetch --corpus libreoffice`, with catalog.yaml "
            "and the held-out pairs of one corpus"
        )
    return folders[0]


def data_job(source: Path, to: Path, vocab_size: int) -> Job:
    """Commands that make TO/data of a fetched catalog."""
    catalog, tokenizer, data = source / "catalog.yaml", to / "spm.model", to / "data"
    sampled = ("--vocab_size", vocab_size, "--max_sentences", TOKENIZER_SENTENCES, "--overwrite")
    train = python_m("data_prep", "train-tokenizer", "--catalog", catalog, "--out", tokenizer, *sampled)
    build = python_m("data_prep", "build", "--catalog", catalog, "--tokenizer", tokenizer, "--out", data)
    links = python_m("data_prep", "align", "--data", data)
    parts = [
        Part("tokenizer", train, to / "done/tokenizer.json"),
        Part("shards", build, to / "done/shards.json"),
        Part("word links", links, to / "done/links.json"),
    ]
    return Job("data", parts, to / "logs" / "data.log")
