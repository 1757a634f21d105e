"""The data of the learning comparison, from the layout of its source folder: six languages that have text of their own and,
but for English, pairs with English. The sides of the pairs are text as well, so that all variants read the same sentences.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from ernie_m.ablation.catalog_data import built
from ernie_m.ablation.jobs import Job, Part, python_m
from ernie_m.base.console import InputError
from ernie_m.base.files import written_atomically

VOCAB_SIZE = 12_000
TOKENIZER_SENTENCES = 200_000
LANGUAGES = ("en", "fr", "de", "es", "zh", "sw")
PAIRS: tuple[dict[str, Any], ...] = (
    {"name": "tatoeba.de-en", "format": "moses", "path": "Tatoeba.de-en.txt.zip", "languages": ["de", "en"]},
    {"name": "tatoeba.en-es", "format": "tmx", "path": "Tatoeba.en-es.tmx.gz", "languages": ["en", "es"]},
    {"name": "wikimatrix.en-fr", "format": "wikimatrix", "path": "WikiMatrix.en-fr.tsv.gz", "languages": ["en", "fr"]},
    {"name": "multiun.en-zh", "format": "multiun", "path": "MultiUN.en-zh.txt.zip", "languages": ["en", "zh"]},
    {"name": "tico19.en-sw", "format": "tmx", "path": "tico19.en-sw.tmx.zip", "languages": ["en", "sw"]},
)


def write_catalogs(source: Path, sides: Path, pairs: Path, everything: Path) -> None:
    """Write two catalogs: the pairs alone, and text, sides and pairs together.

    `sides` is where `data_prep.sides` puts (or will put) its files. No pair is held out: the evaluation files of the
    source are not in it. Raises InputError when the source lacks a file.
    """
    text = [_text(f"cc100.{code}", source / "cc100" / f"{code}.txt.xz", code) for code in LANGUAGES]
    parallel = []
    for pair in PAIRS:
        entry = {**pair, "path": str((source / "parallel" / pair["path"]).resolve()), "held_out": 0}
        parallel.append(entry | ({"threshold": 0} if pair["format"] == "wikimatrix" else {}))  # its scores are made up
    for entry in (*text, *parallel):
        if not Path(entry["path"]).is_file():
            raise InputError(f"{entry['path']}: no such file; expected --source to be the folder of docs/results.md")
    of_sides = [
        _text(f"{pair['name']}.{code}", sides / f"{pair['name']}.{code}.txt", code)
        for pair in PAIRS
        for code in pair["languages"]
    ]
    for path, corpora in ((pairs, parallel), (everything, [*text, *of_sides, *parallel])):
        with written_atomically(path) as aside:
            aside.write_text(yaml.safe_dump({"corpora": corpora}, sort_keys=False), encoding="utf-8")


def _text(name: str, path: Path, language: str) -> dict[str, Any]:
    return {"name": name, "format": "cc100", "path": str(path.resolve()), "language": language}


def data_job(source: Path, to: Path) -> Job:
    """Commands that make TO/data of the source: sides of the pairs, tokenizer, shards."""
    to.mkdir(parents=True, exist_ok=True)
    for name in ("logs", "done"):
        (to / name).mkdir(exist_ok=True)
    pairs, everything, sides = (to / name for name in ("pairs.yaml", "catalog.yaml", "sides"))
    write_catalogs(source, sides, pairs, everything)
    of_pairs = python_m("data_prep.sides", "--catalog", pairs, "--to", sides, "--overwrite")
    parts = [
        Part("sides of the pairs", of_pairs, to / "done/sides.json"),
        *built(everything, to, VOCAB_SIZE, TOKENIZER_SENTENCES),
    ]
    return Job("data", parts, to / "logs" / "data.log")
