"""Text of two languages of which no line translates another, from generated sentences or from pairs; and word by word.

A corpus of pairs is split by its sentences of the first language: of one half they are taken, of the other their
translations. Sentences of the second language that stand in both halves are left out. So no line has its translation there,
as far as the corpus knows it.
"""

from __future__ import annotations

import itertools
import lzma
import re
import subprocess
import sys
import zlib
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
import yaml
from torch import Tensor
from transformers import AutoModel

from ernie_m.base.config import read_yaml
from ernie_m.base.console import InputError
from ernie_m.base.files import written_atomically
from ernie_m.corpus.texts import read_lines
from ernie_m.interop.encoder import open_encoder
from ernie_m.models.word_translation import pieces_of, static_vectors

MOST_WORDS, NEIGHBOURS = 5000, 10
WORD = re.compile(r"[\w'’-]+|[^\w\s]")


@dataclass(frozen=True)
class Text:
    """A catalog of text alone, its file of each language, and a test: the prefix of two files, aligned line by line."""

    catalog: Path
    lines: dict[str, Path]
    test: Path

    @property
    def languages(self) -> tuple[str, str]:
        first, second = sorted(self.lines)
        return first, second

    @property
    def directions(self) -> tuple[tuple[str, str], tuple[str, str]]:
        first, second = self.languages
        return (first, second), (second, first)


def call(*command: object) -> None:
    """A command of ours; its output goes on, and its failure is ours."""
    done = subprocess.run([sys.executable, "-m", *map(str, command)])
    if done.returncode:
        raise SystemExit(done.returncode)


def without_pairs(pairs: Path, test: Path, to: Path) -> Text:
    """One side of each pair of the catalog `pairs`, whose corpora have the same two languages, as files below `to`."""
    if not pairs.is_file():
        raise InputError(f"--pairs {pairs}: no such file; expected a catalog (YAML) of corpora of pairs")
    corpora = read_yaml(pairs).get("corpora") or []
    languages = sorted(corpora[0].get("languages", ())) if corpora else []
    if len(languages) != 2 or any(sorted(corpus.get("languages", ())) != languages for corpus in corpora):
        raise InputError(f"{pairs}: expected a catalog of corpora of pairs, all of the same two languages")
    for language in languages:
        read_lines(Path(f"{test}.{language}"))
    files = {language: to / f"{language}.txt" for language in languages}
    if not all(path.is_file() for path in files.values()):
        call("data_prep.sides", "--catalog", pairs, "--to", to / "sides", "--overwrite")
        read = {x: [_lines(to / "sides" / f"{corpus['name']}.{x}.txt") for corpus in corpora] for x in languages}
        found = list(zip(*(itertools.chain(*of_corpora) for of_corpora in read.values()), strict=True))
        halves = [[pair for pair in found if zlib.crc32(pair[0].encode()) % 2 == half] for half in (0, 1)]
        translations = {second for _, second in halves[0]}
        sides = [first for first, _ in halves[0]], [second for _, second in halves[1] if second not in translations]
        for path, side in zip(files.values(), sides, strict=True):
            _write(path, side)
    return Text(_catalog(to, files), files, test.resolve())


def generated(languages: list[str], raw: Path, to: Path, lines: int) -> Text:
    """Sentences of the embedded corpus in two languages, one of them en, of different facts: none translates another."""
    to.mkdir(parents=True, exist_ok=True)
    if not (raw / "catalog.yaml").is_file():
        call("data_prep", "embed", "--out", raw, "--lines", lines, "--pairs", 200, "--held_out", 200)
    files = {language: to / f"{language}.txt" for language in sorted(languages)}
    for language, path in files.items():
        if not path.is_file():
            packed = lzma.decompress((raw / "cc100" / f"{language}.txt.xz").read_bytes())
            _write(path, [line for line in packed.decode().split("\n") if line])
    other = next(language for language in languages if language != "en")
    return Text(_catalog(to, files), files, raw / "heldout" / f"{other}-en")


def _lines(path: Path) -> list[str]:
    return [line for line in read_lines(path) if line]


def _write(path: Path, lines: list[str]) -> None:
    """Each line once, a document of its own."""
    with written_atomically(path) as aside:
        aside.write_text("".join(" ".join(line.split("\n")) + "\n\n" for line in dict.fromkeys(lines)), encoding="utf-8")


def _catalog(to: Path, files: dict[str, Path]) -> Path:
    entries: list[dict[str, Any]] = [
        {"name": f"text.{language}", "format": "cc100", "path": str(path), "language": language}
        for language, path in files.items()
    ]
    (to / "text.yaml").write_text(yaml.safe_dump({"corpora": entries}), encoding="utf-8")
    return to / "text.yaml"


def word_by_word(model: Path, text: Text, direction: tuple[str, str], test: list[str]) -> list[str]:
    """Each word of the test's lines replaced by the nearest frequent word of the other language.

    `model`: Hugging Face folder of an encoder that has read both. Near is CSLS (arXiv 1710.04087) between static embeddings,
    so no pair is needed. What is spelt alike in both languages is its own nearest.
    """
    opened = open_encoder(str(model))
    encoder: Any = opened.model(AutoModel)
    table_VD = encoder.get_input_embeddings().weight
    known = {language: _frequent(path) for language, path in text.lines.items()}
    sides, vectors = [], []
    for language in direction:
        more = {word for line in test for word in WORD.findall(line)} if language == direction[0] else set()
        words = [*known[language], *sorted(more - set(known[language]))]
        pieces = pieces_of(opened.tokenizer, words)
        words = [word for word, ids in zip(words, pieces, strict=True) if ids]
        sides.append(words)
        vectors.append(F.normalize(static_vectors(table_VD, [ids for ids in pieces if ids]), dim=1))
    nearest = _csls(*vectors)
    found = {word: sides[1][int(index)] for word, index in zip(sides[0], nearest, strict=True)}
    return [" ".join(found.get(word, word) for word in WORD.findall(line)) for line in test]


def _frequent(path: Path) -> list[str]:
    counts = Counter(word for line in read_lines(path) for word in WORD.findall(line))
    return [word for word, _ in counts.most_common(MOST_WORDS)]


def _csls(source_ND: Tensor, target_MD: Tensor) -> Tensor:
    """The nearest target of each source: twice the cosine, less how near each of the two is to its own neighbours."""
    with torch.no_grad():
        cosine_NM = source_ND @ target_MD.T
        crowd_N = cosine_NM.topk(min(NEIGHBOURS, cosine_NM.shape[1]), dim=1).values.mean(1)
        crowd_M = cosine_NM.topk(min(NEIGHBOURS, cosine_NM.shape[0]), dim=0).values.mean(0)
        return (2 * cosine_NM - crowd_N[:, None] - crowd_M).argmax(1)
