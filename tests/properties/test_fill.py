"""Rows are full at any length, of short and of long text: none is without a token or a prediction, and no text is lost."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from data_prep.shard_writer import Rows
from ernie_m.base.special_tokens import FIRST_PIECE_ID, Specials
from ernie_m.corpus.columns import LINKS, Companion, write_companion
from ernie_m.corpus.folder import TRAIN, Shard, ShardList, Shards, Stream, shard_file
from ernie_m.corpus.ragged import Ragged
from ernie_m.corpus.vocabulary import EncodedTexts
from ernie_m.rows.corruption import CorruptionConfig
from ernie_m.rows.layout import Layout
from ernie_m.rows.objective import Objective
from ernie_m.rows.row_source import RowSettings, RowSource

VOCAB_SIZE = 30_000
LANGUAGES = {"de": 1, "en": 2}
Lengths = Callable[[np.random.Generator], np.ndarray]


def lognormal(rng: np.random.Generator, count: int, mean: float, spread: float = 0.5) -> np.ndarray:
    return np.maximum(2, rng.lognormal(np.log(mean), spread, count)).astype(int)


TEXTS: dict[str, Lengths] = {  # tokens of a sentence
    "Tatoeba": lambda rng: lognormal(rng, 2500, 9),
    "TICO-19": lambda rng: lognormal(rng, 700, 40),
    "paragraphs": lambda rng: lognormal(rng, 120, 300),
    "sorted by length": lambda rng: np.sort(lognormal(rng, 1500, 15, 0.7)),
    "all of one length": lambda rng: np.full(800, 33),
    "a few very long": lambda rng: rng.permutation([*lognormal(rng, 1000, 9), 9000, 5000, 3000, 1000]),
}


def stream_of(folder: Path, num_languages: int, text: str) -> Stream:
    """A shard of sentences of these lengths; those of a pair are alike, with no more than a tenth between them."""
    rng = np.random.default_rng(sum(map(ord, text)))
    lengths, columns = TEXTS[text](rng), []
    for _ in range(num_languages):
        own = np.maximum(1, np.rint(lengths * rng.uniform(0.9, 1.1, len(lengths)))).astype(int)
        ids = rng.integers(FIRST_PIECE_ID, VOCAB_SIZE - 1, own.sum(), dtype=np.int32)
        columns.append(EncodedTexts(ids, np.concatenate([[0], np.cumsum(own)])))
    rows = Rows(num_languages)
    rows.add(columns, (np.arange(len(lengths)) % 7 == 0) & (num_languages == 1))
    entry = rows.write(folder, shard_file("c", TRAIN, 0), TRAIN)
    entries, companions = ShardList.of("c", num_languages, [entry]), {}
    if num_languages == 2:  # pairs without a link
        file = folder / LINKS.file_of(entry.file)
        written = write_companion(file, LINKS, Ragged(np.zeros(entry.rows + 1, np.int32), np.zeros(0, np.int32)))
        companions = {LINKS.name: Companion(folder, entry.file, entry.rows, LINKS, written)}
    shard = Shard(folder, entry, num_languages, companions)
    return Stream(tuple(LANGUAGES)[:num_languages], entries, Shards(entries, lambda *_: shard))


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("sequence_length", [64, 128, 256, 512])
def test_rows_are_full_and_none_is_without_a_prediction(
    objective: Objective, text: str, sequence_length: int, tmp_path: Path
) -> None:
    stream = stream_of(tmp_path, objective.num_sentences, text)
    source = RowSource(
        objective, stream, LANGUAGES, RowSettings(sequence_length, Specials.xlm_r(VOCAB_SIZE), CorruptionConfig(), 0), (2,)
    )
    tokens_of_rows, positions, spans = [], [], []
    for index in range(source.rows_per_epoch):
        location = source._location(index)
        lengths_EC = (location.stops_EC - location.starts_EC).astype(np.int64)
        assert lengths_EC.min(initial=1) > 0, "every piece has text in each language, and so something is predicted"
        tokens_of_rows.append(int(lengths_EC.sum()))
        positions.append(int(np.sum(Layout(objective, CorruptionConfig(), Specials.xlm_r(1000)).length(*lengths_EC.T))))
        spans += list(zip(location.starts_EC.tolist(), location.stops_EC.tolist(), strict=True))
    assert min(tokens_of_rows) > 0, f"{tokens_of_rows.count(0)} of {len(positions)} rows hold no token"
    assert max(positions) <= sequence_length
    fill = sum(positions) / (sequence_length * (len(positions) - 1))  # a shard's last row is a part of one
    assert fill >= (0.97 if sequence_length >= 128 else 0.95), f"fill {fill:.4f}"
    assert sum(tokens_of_rows) >= 0.98 * stream.num_tokens, f"kept {sum(tokens_of_rows) / stream.num_tokens:.4f}"
    spans.sort()
    for (_, stops), (starts, _) in itertools.pairwise(spans):
        assert all(stop <= start for stop, start in zip(stops, starts, strict=True)), "no token comes twice"


def test_rows_of_tokens_are_rows_with_predictions(objective: Objective, tmp_path: Path) -> None:
    stream = stream_of(tmp_path, objective.num_sentences, "TICO-19")
    source = RowSource(
        objective, stream, LANGUAGES, RowSettings(64, Specials.xlm_r(VOCAB_SIZE), CorruptionConfig(), 0), (2,)
    )
    rows = [source.row(visit) for visit in range(0, source.rows_per_epoch, 7)]
    assert all(len(document.predicted) for row in rows for document in row)
    assert all(len(row) for row in rows)


@pytest.mark.parametrize("text", ["Tatoeba", "paragraphs", "a few very long"])
def test_no_document_is_longer_than_it_may_be_and_rows_stay_full(objective: Objective, text: str, tmp_path: Path) -> None:
    """Rows of 512 for a model of 100 positions: what is longer goes on as another document, and no text is lost."""
    stream, longest = stream_of(tmp_path, objective.num_sentences, text), 100
    settings = RowSettings(512, Specials.xlm_r(VOCAB_SIZE), CorruptionConfig(), 0, longest)
    source = RowSource(objective, stream, LANGUAGES, settings, (2,))
    tokens, positions, lengths = 0, [], []
    for visit in range(source.rows_per_epoch):
        row = source.row(visit)
        lengths.append(int(row.lengths_E.max()))
        assert int(row.joined.position_ids.max()) < 2 + longest
        positions.append(len(row.joined))
        location = source.locate(visit)
        tokens += int((location.stops_EC - location.starts_EC).sum())
    assert tokens >= 0.95 * stream.num_tokens, f"kept {tokens / stream.num_tokens:.4f}"
    assert sum(positions) >= 0.9 * 512 * (len(positions) - 1)
    assert longest - 10 <= max(lengths) <= longest or text == "Tatoeba"
