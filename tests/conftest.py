"""What the tests of ernie_m share: rows of several documents, small random models, a corpus folder."""

from __future__ import annotations

import hashlib
import itertools
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from data_prep.shard_writer import Rows
from ernie_m.base.special_tokens import FIRST_PIECE_ID, NO_LANGUAGE, Specials, mask_id
from ernie_m.corpus.columns import LINKS
from ernie_m.corpus.folder import HELD_OUT, TRAIN, CorpusEntry, CorpusFolder, Manifest, shard_file
from ernie_m.corpus.vocabulary import EncodedTexts
from ernie_m.models.model import Encoder
from ernie_m.models.shape import ModelConfig
from ernie_m.rows.batch import Document, Example, PackedBatch
from ernie_m.rows.corruption import CorruptionConfig
from ernie_m.rows.dataloader import to_device
from ernie_m.rows.layout import Layout
from ernie_m.rows.objective import HEADS, Objective
from ernie_m.rows.objectives import CAMLM, OBJECTIVE_INDEX, OBJECTIVES
from ernie_m.rows.packing import PackedRow, pack
from tests.link_fixtures import many_links, some_links, write

VOCAB_SIZE = 101
CORRUPTION = CorruptionConfig(mask_rate=0.3, pseudo_token_share=0.2)
TARGET_LANGUAGE = 3
ROWS = (((7, 5), (4, 9), (1, 1)), ((12, 3), (5, 5)))  # sentence lengths: row -> document -> sentence
CORPUS_VOCAB_SIZE = 30_000

DocumentsOf = Callable[..., list[list[Document]]]
BatchOf = Callable[..., PackedBatch]
EncoderOf = Callable[..., Encoder]
StagesOf = Callable[[PackedBatch], list[PackedBatch]]


def _documents(
    objective: Objective, rows: Sequence[Sequence[tuple[int, ...]]] = ROWS, seed: int = 0, mask_seed: int = 0
) -> list[list[Document]]:
    tokens, keys = np.random.default_rng(seed), itertools.count(10**6 * seed + 10**3 * mask_seed)
    laid_out = []
    for row in rows:
        documents = []
        for lengths in row:
            chosen = [
                tokens.integers(FIRST_PIECE_ID, mask_id(VOCAB_SIZE), n, dtype=np.int32)
                for n in lengths[: objective.num_sentences]
            ]
            columns = {LINKS.name: some_links(list(map(len, chosen)), len(documents))} if objective.columns else {}
            example = Example(tuple(chosen), tuple(range(1, 1 + len(chosen))), columns)
            target = TARGET_LANGUAGE if objective.is_pseudo_parallel else NO_LANGUAGE
            documents.append(Layout(objective, CORRUPTION, Specials.xlm_r(VOCAB_SIZE)).lay_out(example, next(keys), target))
        laid_out.append(documents)
    return laid_out


def _batch(objective: Objective, rows: Sequence[Sequence[Document]], sequence_length: int = 64) -> PackedBatch:
    number = OBJECTIVE_INDEX.get(objective.name, 0)
    packed = [PackedRow(row, number, 0) for row in rows]
    return to_device(pack(packed, sequence_length, objective.is_pseudo_parallel), torch.device("cpu"))


def _encoder(dtype: torch.dtype = torch.float32, seed: int = 0, **shape: object) -> Encoder:
    small = {
        "heads": HEADS,
        "num_layers": 2,
        "hidden_size": 32,
        "num_heads": 4,
        "ffn_size": 64,
        "dropout": 0.0,
        "max_positions": 130,
    }
    config = ModelConfig(**{**small, "vocab_size": VOCAB_SIZE, "num_languages": 4, **shape})  # type: ignore[arg-type]
    model = Encoder(config).to(dtype).eval()
    rng = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.empty(parameter.shape, dtype=torch.float64).normal_(0, 0.15, generator=rng)
            parameter.copy_(1 + noise if name.endswith("norm.weight") else noise)
        model.embeddings.language.weight[NO_LANGUAGE].zero_()
    return model


@pytest.fixture(params=[name for name, objective in OBJECTIVES.items() if not objective.halves])
def objective(request: pytest.FixtureRequest) -> Objective:
    """Each objective of the table whose documents stand side by side; the others: tests/properties/test_halves.py."""
    return OBJECTIVES[request.param]


@pytest.fixture
def documents_of() -> DocumentsOf:
    """(objective, rows=ROWS, seed=0, mask_seed=0) -> rows of documents; `mask_seed` draws other masks of the same tokens."""
    return _documents


@pytest.fixture
def batch_of() -> BatchOf:
    """(objective, rows of documents, sequence_length=64) -> one packed micro-batch of tensors."""
    return _batch


@pytest.fixture
def camlm(documents_of: DocumentsOf, batch_of: BatchOf) -> PackedBatch:
    """CAMLM's rows."""
    return batch_of(CAMLM, documents_of(CAMLM))


def _stages(batch: PackedBatch) -> list[PackedBatch]:
    if batch.generation is None:
        return [batch]
    return [batch, replace(batch, reads_BS=batch.generation.reads_RS)]


@pytest.fixture
def stages_of() -> StagesOf:
    """(batch) -> the batch and, with placeholders in each of its rows, the batch as BTMLM's stage 1 reads it."""
    return _stages


@pytest.fixture
def encoder_of() -> EncoderOf:
    """(dtype, seed, **ModelConfig) -> a small encoder in evaluation mode, all its weights drawn at random."""
    return _encoder


def _write_corpus(folder: Path, name: str, languages: tuple[str, ...], splits: dict[str, int], mean: float) -> CorpusEntry:
    rng, entries = np.random.default_rng(len(name)), []
    for split, num_rows in splits.items():
        half = num_rows // 2 + 1
        for number, numbers in enumerate((range(half), range(half, num_rows))):
            rows = Rows(len(languages))
            for row in numbers:
                length = rng.lognormal(np.log(mean), 0.5)
                sizes = [int(np.clip(length * rng.uniform(0.7, 1.4), 2, 55)) for _ in languages]
                ids = [rng.integers(FIRST_PIECE_ID, CORPUS_VOCAB_SIZE - 1, n, dtype=np.int32) for n in sizes]
                starts_document = np.array([len(languages) == 1 and row % 7 == 0])
                rows.add([EncodedTexts(text, np.array([0, len(text)])) for text in ids], starts_document)
            entries.append(rows.write(folder, shard_file(name, split, number), split))
    return CorpusEntry(name, "made", languages, sum(splits.values()), {}, entries)


@pytest.fixture(scope="session")
def corpus_folder(corpus_without_links: CorpusFolder, tmp_path_factory: pytest.TempPathFactory) -> CorpusFolder:
    """The same text, with links between the tokens of its pairs."""
    folder = shutil.copytree(corpus_without_links.folder, tmp_path_factory.mktemp("linked") / "corpus")
    write(folder, many_links)
    return CorpusFolder(folder)


@pytest.fixture(scope="session")
def corpus_without_links(tmp_path_factory: pytest.TempPathFactory) -> CorpusFolder:
    """Random lines of realistic lengths: en de fr sw alone, de-en and en-fr as pairs; sw has no pairs."""
    folder = tmp_path_factory.mktemp("corpus")
    train, both = TRAIN, {TRAIN: 1500, HELD_OUT: 30}
    corpora = (
        _write_corpus(folder, "m.en", ("en",), {train: 3000}, 22),
        _write_corpus(folder, "m.de", ("de",), {train: 900}, 18),
        _write_corpus(folder, "m.fr", ("fr",), {train: 500}, 25),
        _write_corpus(folder, "m.sw", ("sw",), {train: 80}, 15),
        _write_corpus(folder, "p.de-en", ("de", "en"), both, 20),
        _write_corpus(folder, "p.en-fr", ("en", "fr"), {train: 700}, 16),
    )
    tokenizer = folder / "sentencepiece.bpe.model"
    tokenizer.write_bytes(b"stands in for a tokenizer: rows are made of ids alone")
    digest = hashlib.sha256(tokenizer.read_bytes()).hexdigest()
    Manifest(tokenizer.name, digest, Specials.xlm_r(CORPUS_VOCAB_SIZE), corpora).write(folder)
    return CorpusFolder(folder)
