"""What (seed, step) means does not change by accident: the rows of some steps, pinned as they were in release 0.1.

Integers alone, so the digests hold on every processor. Where this test must change, DATA_ORDER must be raised: a run that
was begun before would go on with other rows.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np

from data_prep.shard_writer import Rows
from ernie_m.base.special_tokens import Specials
from ernie_m.corpus.folder import TRAIN, CorpusEntry, CorpusFolder, Manifest, shard_file
from ernie_m.corpus.vocabulary import EncodedTexts
from ernie_m.rows.batch import ARRAYS
from ernie_m.rows.dataloader import DATA_ORDER, DataConfig, PretrainingData
from ernie_m.rows.schedule import Schedule, StageConfig

VOCAB_SIZE = 30_000
PINNED = {0: "2f0d4979b5cd9515", 7: "6f7a182f93cb9cad", 19: "d03b3d39474339fc"}


def corpus(folder: Path, name: str, languages: tuple[str, ...], num_rows: int) -> CorpusEntry:
    rng, rows = np.random.default_rng(len(name)), Rows(len(languages))
    for row in range(num_rows):
        ids = [rng.integers(4, VOCAB_SIZE - 1, int(rng.integers(3, 40)), dtype=np.int32) for _ in languages]
        rows.add(
            [EncodedTexts(text, np.array([0, len(text)])) for text in ids], np.array([len(languages) == 1 and row % 7 == 0])
        )
    return CorpusEntry(name, "made", languages, num_rows, {}, [rows.write(folder, shard_file(name, TRAIN, 0), TRAIN)])


def test_rows_of_a_step_are_those_of_release_0_1(tmp_path: Path) -> None:
    tokenizer = tmp_path / "sentencepiece.bpe.model"
    tokenizer.write_bytes(b"stands in for a tokenizer: rows are made of ids alone")
    corpora = (
        corpus(tmp_path, "m.en", ("en",), 600),
        corpus(tmp_path, "m.sw", ("sw",), 90),
        corpus(tmp_path, "p.en-sw", ("en", "sw"), 400),
    )
    specials = Specials.xlm_r(VOCAB_SIZE)
    Manifest(tokenizer.name, hashlib.sha256(tokenizer.read_bytes()).hexdigest(), specials, corpora).write(tmp_path)
    stages = (StageConfig(steps=20, rows={"MMLM": 1, "TLM": 1, "CAMLM": 2, "BTMLM": 1, "CLM": 1}),)
    data = PretrainingData(CorpusFolder(tmp_path), DataConfig(sequence_length=128), Schedule(stages, 12), seed=5)
    found = {}
    for step in PINNED:
        digest = hashlib.sha256()
        for rank in range(2):
            for batch in data.step(step, rank, 2, 3):
                for name in ARRAYS:
                    digest.update(np.ascontiguousarray(getattr(batch, name), np.int32).tobytes())
                if batch.generation is not None:
                    for array in vars(batch.generation).values():
                        digest.update(np.ascontiguousarray(array, np.int32).tobytes())
        found[step] = digest.hexdigest()[:16]
    assert DATA_ORDER == 3
    assert found == PINNED
