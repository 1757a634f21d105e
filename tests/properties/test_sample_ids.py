"""Whoever looks at the data of a step finds exactly what was trained on: ids, lines of shards, text."""

from __future__ import annotations

import itertools
from collections import Counter

import numpy as np
import pytest

from ernie_m.base.sampling import MIXTURE_PERIOD
from ernie_m.base.special_tokens import EOS_ID, FIRST_PIECE_ID
from ernie_m.corpus.folder import CorpusFolder, Stream
from ernie_m.rows.batch import Document
from ernie_m.rows.corruption import REPLACE, CorruptionConfig
from ernie_m.rows.dataloader import DataConfig, PretrainingData
from ernie_m.rows.objective import Objective
from ernie_m.rows.objectives import BTMLM, CAMLM
from ernie_m.rows.row_source import RowSettings, RowSource
from ernie_m.rows.schedule import RowAddress, Schedule, StageConfig
from tests.objective_fixtures import GIVEN_OBJECTIVES

S, ROWS_PER_STEP = 128, 16
STAGES = (StageConfig(steps=20, rows=dict.fromkeys(GIVEN_OBJECTIVES, 1.0)),)


@pytest.fixture
def data(corpus_folder: CorpusFolder) -> PretrainingData:
    return PretrainingData(corpus_folder, DataConfig(sequence_length=S), Schedule(STAGES, ROWS_PER_STEP), seed=3)


def tokens_of(objective: Objective, document: Document) -> Counter[tuple[int, ...]]:
    """The sentences a document of a trained row was made of: masks undone, additions left out."""
    ids = document.input_ids.copy()
    if objective.corruption == REPLACE:
        ids[document.predicted] = document.labels
    added = {CAMLM.name: len(document.predicted), BTMLM.name: len(document.placeholders)}.get(objective.name, 0)
    ids = ids[: len(ids) - added]
    parts = np.split(ids, np.flatnonzero(ids == EOS_ID))
    sentences = (tuple(part[part >= FIRST_PIECE_ID].tolist()) for part in parts)
    return Counter(sentence for sentence in sentences if sentence)


def stream_of(folder: CorpusFolder, name: str) -> Stream:
    return next(stream for stream in (*folder.monolingual(), *folder.parallel()) if stream.name == name)


def test_the_text_of_a_described_row_is_what_was_trained(data: PretrainingData) -> None:
    num_documents = Counter[str]()
    for step in (0, 7, 19):
        for row in data.describe_step(step):
            objective = GIVEN_OBJECTIVES[row["objective"]]
            trained = data.row(RowAddress(row["objective"], row["draw"])).documents
            told = data.sentences(row["objective"], row["draw"])
            assert len(trained) == len(told) == len(row["lines"])
            for document, sentences in zip(trained, told, strict=True):
                assert tokens_of(objective, document) == Counter(tuple(s.tolist()) for s in sentences)
            num_documents[objective.name] += len(trained)
    assert set(num_documents) == set(GIVEN_OBJECTIVES)


def test_the_lines_of_a_described_row_hold_its_text(data: PretrainingData, corpus_folder: CorpusFolder) -> None:
    """Through the file and the line numbers alone, as an operator would look: all its tokens, and no line too many."""
    partial = 0
    for row in data.describe_step(4):
        (shard,) = (s for s in stream_of(corpus_folder, row["stream"]).shards if s.entry.file == row["shard"])
        assert (corpus_folder.folder / row["shard"]).is_file()
        for (first, last), sentences in zip(row["lines"], data.sentences(row["objective"], row["draw"]), strict=True):
            assert 0 <= first <= last < shard.entry.rows
            for values, offsets, sentence in zip(shard.values, shard.offsets, sentences, strict=True):
                text, piece = values[offsets[first] : offsets[last + 1]].tolist(), sentence.tolist()
                starts = [i for i in range(len(text) - len(piece) + 1) if text[i : i + len(piece)] == piece]
                assert starts, f"{row['id']}: lines {first}-{last} do not hold its text"
                first_length, last_length = np.diff(offsets)[[first, last]]
                assert any(i < first_length and i + len(piece) > len(text) - last_length for i in starts), "a line too many"
                partial += len(piece) < len(text)
    assert partial > 0, "rows cut running text inside lines: that was looked at too"


def test_ids_of_a_step_name_its_rows_and_are_known_without_opening_a_shard(
    data: PretrainingData, monkeypatch: pytest.MonkeyPatch
) -> None:
    described = data.describe_step(11)
    for row in described:
        assert row["id"] == f"{row['objective']}/{row['stream']}/{row['visit']:08d}"
    rows = data.schedule.rows_of_step(11)
    assert [(row["objective"], row["draw"]) for row in described] == [(a.objective, a.draw) for a in rows]
    metrics = [[metric.name for metric in data.metrics][data.row(address).metric] for address in rows]
    monkeypatch.setattr(RowSource, "_location", lambda *_: pytest.fail("opened a shard"))
    ids = data.sample_ids(11)
    assert ids == [row["id"] for row in described]
    assert [name.rpartition("/")[0] for name in ids] == metrics, "under the name its loss is logged under"


def test_ids_of_a_step_are_those_of_any_ranks_rows(corpus_folder: CorpusFolder, data: PretrainingData) -> None:
    """What each rank is really given, found again through the text of the ids."""
    by_id = dict(zip(data.sample_ids(6), data.schedule.rows_of_step(6), strict=True))
    expected = Counter(
        tuple(sorted(int(i) for document in data.row(address).documents for i in document.input_ids))
        for address in by_id.values()
    )
    for world_size, micro_batch_rows in ((1, 16), (2, 4), (4, 2), (8, 1), (16, 1)):
        given = Counter[tuple[int, ...]]()
        for rank in range(world_size):
            own = PretrainingData(corpus_folder, data.config, data.schedule, seed=3)
            for batch in own.step(6, rank, world_size, micro_batch_rows):
                given.update(
                    tuple(sorted(ids[document >= 0].tolist()))
                    for ids, document in zip(batch.input_ids_BS, batch.document_BS, strict=True)
                )
            assert own.sample_ids(6) == list(by_id)
        assert given == expected


def test_no_row_is_left_out_and_none_comes_twice_over_the_steps(corpus_folder: CorpusFolder) -> None:
    """Steps that share a whole number of the mixture's periods: each stream's visits are 0, 1, 2, ... to the last."""
    rows_per_step, num_steps = 1024, 2 * 3 * MIXTURE_PERIOD // 1024
    stage = StageConfig(steps=num_steps, rows={"MMLM": 1, "CAMLM": 1})
    data = PretrainingData(corpus_folder, DataConfig(sequence_length=S), Schedule((stage,), rows_per_step), seed=3)
    visits: dict[str, list[int]] = {}
    for name in itertools.chain.from_iterable(map(data.sample_ids, range(num_steps))):
        stream, _, visit = name.rpartition("/")
        visits.setdefault(stream, []).append(int(visit))
    assert visits.keys() == {metric.name for metric in data.metrics}
    assert all(sorted(found) == list(range(len(found))) for found in visits.values())
    assert sum(map(len, visits.values())) == num_steps * rows_per_step
    assert visits["CAMLM/de-en"] != sorted(visits["CAMLM/de-en"]), "not in the order of visits within a period"


def test_an_epochs_locations_hold_every_token_of_the_stream_exactly_once(
    corpus_folder: CorpusFolder, objective: Objective
) -> None:
    settings = RowSettings(256, corpus_folder.manifest.specials, CorruptionConfig(), 0)
    for stream in corpus_folder.parallel() if objective.num_sentences == 2 else corpus_folder.monolingual():
        source = RowSource(objective, stream, corpus_folder.language_ids, settings, (1, 2))
        for epoch in (0, 3):
            used: Counter[tuple[str, int, int]] = Counter()
            for visit in range(source.rows_per_epoch):
                location = source.locate(epoch * source.rows_per_epoch + visit)
                for starts, stops in zip(location.starts_EC.tolist(), location.stops_EC.tolist(), strict=True):
                    for column, (start, stop) in enumerate(zip(starts, stops, strict=True)):
                        used.update((location.shard.entry.file, column, token) for token in range(start, stop))
            every = itertools.chain.from_iterable(
                ((shard.entry.file, column, token) for token in range(num_tokens))
                for shard in stream.shards
                for column, num_tokens in enumerate(shard.entry.tokens)
            )
            assert used == Counter(every), f"{stream.name}: tokens lost or repeated"
