"""Step 10^6 of a mixture of 10^10 examples is found at once, and is the same on 1, 56 or 64 ranks.

Costs are counted, not timed: permutations looked up, windows planned, shards opened, lines and tokens read.
"""

from __future__ import annotations

import hashlib
import itertools
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from ernie_m.base.sampling import MIXTURE_PERIOD, Permutation
from ernie_m.base.special_tokens import Specials
from ernie_m.corpus.folder import TRAIN, CorpusEntry, CorpusFolder, Manifest, Shard, ShardEntry, shard_file
from ernie_m.rows.batch import PackedBatch
from ernie_m.rows.dataloader import DataConfig, PretrainingData
from ernie_m.rows.row_source import RowSource
from ernie_m.rows.schedule import Schedule, StageConfig
from tests.objective_fixtures import GIVEN_OBJECTIVES

OBJECTIVES = [name for name, o in GIVEN_OBJECTIVES.items() if not o.columns]  # the data has text alone, and no words

FAR, NUM_STEPS = 10**6, 2 * 10**6
NUM_LANGUAGES, NUM_PAIRS, SHARDS_OF_EACH, LINES_OF_A_SHARD = 60, 15, 40, 4_000_000
S, ROWS_PER_STEP = 512, 40


class Column:
    """A column of a shard whose content is arithmetic, so that a huge one costs nothing; counts what is read of it."""

    def __init__(
        self, what: str, counts: Counter[str], size: int, factor: int, divisor: int, modulus: int = 2**40, least: int = 0
    ) -> None:
        self.what, self.counts, self.size, self.least = what, counts, size, least
        self.factor, self.divisor, self.modulus = factor, divisor, modulus

    def __getitem__(self, index: int | slice) -> np.ndarray:
        numbers = np.arange(*index.indices(self.size)) if isinstance(index, slice) else np.array(index)
        self.counts[self.what] += numbers.size
        return numbers * self.factor // self.divisor % self.modulus + self.least


class HugeFolder(CorpusFolder):
    """The folder of a manifest whose shards are too many to exist: they are opened as arithmetic."""

    def __init__(self, folder: Path) -> None:
        self.counts: Counter[str] = Counter()
        super().__init__(folder)

    def _new_shard(self, place: int, num_languages: int) -> Shard:
        shard = super()._new_shard(place, num_languages)
        self.counts["shards"] += 1
        entry, vocab_size = shard.entry, self.manifest.vocab_size
        offsets = [Column("lines", self.counts, entry.rows + 1, tokens, entry.rows) for tokens in entry.tokens]
        values = [Column("tokens", self.counts, tokens, place * 7919 + 13, 1, vocab_size - 10, 4) for tokens in entry.tokens]
        starts = Column("lines", self.counts, entry.rows, 1, 1, 30)
        vars(shard).update(offsets=tuple(offsets), values=tuple(values), starts_document=starts)
        return shard


@pytest.fixture(scope="module")
def huge(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A manifest of 10^10 examples in 3,000 shards of 75 streams, of very different sizes."""
    folder, rng, corpora = tmp_path_factory.mktemp("huge"), np.random.default_rng(0), []
    languages = [f"l{number:02}" for number in range(NUM_LANGUAGES)]
    pairs = list(itertools.combinations(languages, 2))
    chosen = [(language,) for language in languages] + [pairs[i] for i in rng.choice(len(pairs), NUM_PAIRS, replace=False)]
    for codes in chosen:
        name, entries = f"c.{'-'.join(codes)}", []
        for number, mean in enumerate(rng.uniform(8, 40, SHARDS_OF_EACH)):
            rows = int(LINES_OF_A_SHARD * rng.uniform(0.2, 1.8))
            tokens = tuple(int(rows * mean * factor) for factor in rng.uniform(0.8, 1.2, len(codes)))
            documents = rows // 30 if len(codes) == 1 else 0
            entries.append(ShardEntry(shard_file(name, TRAIN, number), TRAIN, rows, tokens, 0, "00" * 32, documents))
        corpora.append(CorpusEntry(name, "made", codes, sum(entry.rows for entry in entries), {}, entries))
    tokenizer = folder / "sentencepiece.bpe.model"
    tokenizer.write_bytes(b"stands in for a tokenizer: rows are made of ids alone")
    Manifest(
        tokenizer.name, hashlib.sha256(tokenizer.read_bytes()).hexdigest(), Specials.xlm_r(250_002), tuple(corpora)
    ).write(folder)
    assert sum(stream.num_rows for f in [CorpusFolder(folder)] for stream in (*f.monolingual(), *f.parallel())) > 10**10
    return folder


def open_data(folder: CorpusFolder, rows_per_step: int = ROWS_PER_STEP, sequence_length: int = S) -> PretrainingData:
    stage = StageConfig(steps=NUM_STEPS, rows=dict.fromkeys(OBJECTIVES, 1.0))
    schedule = Schedule((stage,), rows_per_step)
    return PretrainingData(folder, DataConfig(sequence_length=sequence_length), schedule, seed=11)


def costs_of(folder: Path, step: int, monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """What a fresh process does to make all rows of a step."""
    opened = HugeFolder(folder)
    data, counts = open_data(opened), opened.counts

    def counted(owner: type, name: str, what: str) -> None:
        original = getattr(owner, name)

        def count(*arguments: object) -> object:
            counts[what] += 1
            return original(*arguments)

        monkeypatch.setattr(owner, name, count)

    with monkeypatch.context():
        counted(Permutation, "__getitem__", "lookups")
        counted(Permutation, "__init__", "permutations")
        counted(RowSource, "locate", "rows")
        (batch,) = data.step(step, 0, 1, ROWS_PER_STEP)
    monkeypatch.undo()
    assert (batch.document_BS >= 0).mean() > 0.95
    return counts


def test_step_a_million_costs_what_the_first_one_costs(huge: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    windows = 2 * 16_384 / 8 + 200  # lines of a window's longest, of pairs twice; two binary searches
    for step in (0, FAR, NUM_STEPS - 1):
        costs = costs_of(huge, step, monkeypatch)
        assert costs["rows"] == ROWS_PER_STEP
        assert costs["lookups"] == 2 * ROWS_PER_STEP, "one for the stream, one for the row, for each row of this step"
        assert costs["permutations"] <= 2 * ROWS_PER_STEP
        assert 10 < costs["shards"] <= ROWS_PER_STEP, "those that rows of this step lie in"
        assert 0 < costs["tokens"] <= ROWS_PER_STEP * S
        assert 0 < costs["lines"] < ROWS_PER_STEP * windows


def test_names_of_a_far_steps_rows_open_nothing(huge: Path) -> None:
    folder = HugeFolder(huge)
    ids = open_data(folder).sample_ids(FAR)
    assert not folder.counts
    assert len(set(ids)) == ROWS_PER_STEP
    assert max(int(name.rpartition("/")[2]) for name in ids) > 10**5


def test_far_out_every_row_still_comes_exactly_once(huge: Path) -> None:
    """A period of the mixture around step 10^6: the visits of each stream follow on those of all periods before."""
    data = open_data(HugeFolder(huge))
    mixture, first = data._mixtures["CAMLM"], FAR * (ROWS_PER_STEP // len(OBJECTIVES)) // MIXTURE_PERIOD
    visits: list[list[int]] = [[] for _ in mixture.counts]
    for draw in map(mixture.__getitem__, range(first * MIXTURE_PERIOD, (first + 1) * MIXTURE_PERIOD)):
        visits[draw.stream].append(draw.visit)
    for found, count in zip(visits, mixture.counts, strict=True):
        assert sorted(found) == list(range(first * count, (first + 1) * count))


def contents(batch: PackedBatch, sequence_length: int) -> list[bytes]:
    """Everything about each row of a micro-batch (masks, languages of pseudo tokens, labels, what it counts for)."""
    columns = ("input_ids", "position_ids", "language", "document", "group", "reads", "horizon")
    rows = []
    for index in range(len(batch.input_ids_BS)):
        own = batch.predicted_N // sequence_length == index
        flat = [batch.predicted_N[own] % sequence_length, *(a[own] for a in (batch.labels_N, batch.metric_N))]
        rows.append(
            b"|".join([*(getattr(batch, f"{c}_BS")[index].tobytes() for c in columns), *(a.tobytes() for a in flat)])
        )
    return rows


def dealt_out(data: PretrainingData, step: int, world_size: int, micro_batch_rows: int) -> list[bytes]:
    """All ranks' rows of a step, in the order they are dealt out."""
    by_rank = [
        list(itertools.chain.from_iterable(contents(b, 128) for b in data.step(step, rank, world_size, micro_batch_rows)))
        for rank in range(world_size)
    ]
    return [row for together in zip(*by_rank, strict=True) for row in together]


def test_a_far_step_is_the_same_on_64_and_on_56_ranks(corpus_folder: CorpusFolder) -> None:
    """448 rows a step divide by both: every split of them gives the one-rank step, bit for bit."""
    num_rows = 448
    reference = dealt_out(open_data(corpus_folder, num_rows, 128), FAR, 1, num_rows)
    assert len(reference) == num_rows
    assert len(set(reference)) > 0.95 * num_rows, "CLM draws no masks: rows of the smallest language may come twice"
    for world_size, micro_batch_rows in ((64, 1), (64, 7), (56, 1), (56, 2), (56, 8), (8, 7), (7, 16), (1, 4)):
        found = dealt_out(open_data(corpus_folder, num_rows, 128), FAR, world_size, micro_batch_rows)
        assert found == reference, f"{world_size} ranks, {micro_batch_rows} rows at a time"
