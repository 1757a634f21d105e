"""The data order is a pure function of (seed, step): world sizes, micro-batches and restarts do not enter."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pytest

from ernie_m.base.console import InputError
from ernie_m.base.sampling import MIXTURE_PERIOD, Mixture, apportion
from ernie_m.base.special_tokens import BOS_ID, EOS_ID, FIRST_PIECE_ID, Specials
from ernie_m.corpus.folder import HELD_OUT, CorpusFolder, Stream
from ernie_m.rows.batch import Document, PackedBatch
from ernie_m.rows.corruption import NOTHING, REPLACE, CorruptionConfig, num_masked
from ernie_m.rows.dataloader import DataConfig, PretrainingData
from ernie_m.rows.layout import Layout
from ernie_m.rows.objective import GIVEN, Objective
from ernie_m.rows.objectives import BTMLM, CAMLM, CLM, MMLM, OBJECTIVES, TLM
from ernie_m.rows.prefetcher import Prefetcher
from ernie_m.rows.row_source import RowSettings, RowSource
from ernie_m.rows.schedule import RowAddress, Schedule, StageConfig

if TYPE_CHECKING:
    from pathlib import Path

S, CORRUPTION = 128, CorruptionConfig()
STAGES = (
    StageConfig(steps=6, rows={"MMLM": 1, "TLM": 1, "CAMLM": 2}),
    StageConfig(steps=6, rows={"MMLM": 1, "TLM": 1, "CAMLM": 1, "BTMLM": 1, "CLM": 1}),
)
ROWS_PER_STEP = 16
RowContent = tuple[bytes, ...]


def open_data(folder: CorpusFolder, seed: int = 0) -> PretrainingData:
    return PretrainingData(folder, DataConfig(sequence_length=S), Schedule(STAGES, ROWS_PER_STEP), seed)


def contents(batch: PackedBatch) -> list[RowContent]:
    """Everything about each row of a micro-batch, as bytes."""
    columns = ("input_ids", "position_ids", "language", "document", "group", "reads", "horizon")
    rows = []
    for index in range(len(batch.input_ids_BS)):
        own = batch.predicted_N // S == index
        flat = [batch.predicted_N[own] % S, batch.labels_N[own], batch.loss_N[own], batch.metric_N[own]]
        rows.append(tuple(getattr(batch, f"{c}_BS")[index].tobytes() for c in columns) + tuple(a.tobytes() for a in flat))
    return rows


def global_rows(data: PretrainingData, step: int, world_size: int, micro_batch_rows: int) -> list[RowContent]:
    """All rows of a step, in the order they were dealt out: rank by rank within a row of every rank."""
    by_rank = [
        list(itertools.chain.from_iterable(map(contents, data.step(step, rank, world_size, micro_batch_rows))))
        for rank in range(world_size)
    ]
    return [row for together in zip(*by_rank, strict=True) for row in together]


def source_of(
    folder: CorpusFolder, objective: Objective, stream: Stream, sequence_length: int = S, seed: int = 0
) -> RowSource:
    settings = RowSettings(sequence_length, folder.manifest.specials, CORRUPTION, seed)
    return RowSource(objective, stream, folder.language_ids, settings, target_languages=(1, 2))


def streams_of(folder: CorpusFolder, objective: Objective) -> list[Stream]:
    return folder.parallel() if objective.num_sentences == 2 else folder.monolingual()


def one_epoch(source: RowSource, epoch: int = 0) -> list[list[Document]]:
    return [source.row(epoch * source.rows_per_epoch + i) for i in range(source.rows_per_epoch)]


def sentences_of(objective: Objective, document: Document) -> tuple[tuple[int, ...], ...]:
    """The example a document was made of: masks undone, additions left out."""
    ids = document.input_ids.copy()
    if objective.corruption == REPLACE:
        ids[document.predicted] = document.labels
    if objective is CAMLM:
        ids = ids[: len(ids) - len(document.predicted)]
    if objective is BTMLM:
        ids = ids[: len(ids) - len(document.placeholders)]
    assert ids[0] == BOS_ID
    assert ids[-1] == EOS_ID
    parts = np.split(ids, np.flatnonzero(ids == EOS_ID))
    return tuple(filter(None, (tuple(part[part >= FIRST_PIECE_ID].tolist()) for part in parts)))


def lines_of(stream: Stream) -> list[tuple[tuple[int, ...], ...]]:
    return [
        tuple(tuple(v[o[row] : o[row + 1]].tolist()) for v, o in zip(shard.values, shard.offsets, strict=True))
        for shard in stream.shards
        for row in range(shard.entry.rows)
    ]


@pytest.mark.parametrize("step", [0, 5, 6, 11])
def test_a_step_holds_the_same_rows_at_every_world_size_and_micro_batch(corpus_folder: CorpusFolder, step: int) -> None:
    reference = global_rows(open_data(corpus_folder), step, 1, ROWS_PER_STEP)
    assert len(reference) == len(set(reference)) == ROWS_PER_STEP
    for world_size, micro_batch_rows in ((1, 1), (1, 4), (2, 1), (2, 8), (4, 2), (4, 4)):
        assert global_rows(open_data(corpus_folder), step, world_size, micro_batch_rows) == reference


def test_a_step_is_found_directly_as_if_all_before_it_had_been_drawn(corpus_folder: CorpusFolder) -> None:
    running = open_data(corpus_folder)
    run_through = [global_rows(running, step, 2, 4) for step in range(12)]
    for step in (11, 3, 7):
        assert global_rows(open_data(corpus_folder), step, 2, 4) == run_through[step]
    assert len({row for rows in run_through for row in rows}) == 12 * ROWS_PER_STEP, "no row twice in these steps"


def test_a_step_is_the_same_however_few_shards_stay_open(corpus_folder: CorpusFolder) -> None:
    for step in (5, 11):
        of_one = open_data(CorpusFolder(corpus_folder.folder, shards_kept_open=1))
        assert global_rows(of_one, step, 1, 8) == global_rows(open_data(corpus_folder), step, 1, 8)


def test_ranks_agree_on_which_micro_batches_generate(corpus_folder: CorpusFolder) -> None:
    data, flags = open_data(corpus_folder), set()
    for step in (0, 7):
        by_rank = [data.step(step, rank, 4, 2) for rank in range(4)]
        for together in zip(*by_rank, strict=True):
            generates = {batch.generation is not None for batch in together}
            assert len(generates) == 1
            flags |= generates
            assert {batch.input_ids_BS.shape for batch in together} == {(2, S)}
        num_slots = sum(len(batch.generation.slots_K) for batches in by_rank for batch in batches if batch.generation)
        assert (num_slots > 0) == (step == 7)
    assert flags == {True, False}


def test_rows_of_a_step_are_spread_so_that_ranks_hold_like_rows(corpus_folder: CorpusFolder) -> None:
    data = open_data(corpus_folder)
    for rank in range(4):
        objectives = np.concatenate([np.unique(batch.loss_N) for batch in data.step(0, rank, 4, 4)])
        assert set(objectives.tolist()) == {0, 1, 2}


@pytest.mark.parametrize("objective", [TLM, CAMLM, BTMLM], ids=lambda o: o.name)
def test_every_example_comes_exactly_once_an_epoch(corpus_folder: CorpusFolder, objective: Objective) -> None:
    num_all = 0
    for stream in streams_of(corpus_folder, objective):
        source = source_of(corpus_folder, objective, stream, sequence_length=256)  # which no example exceeds
        expected = Counter(tuple(sorted(line)) for line in lines_of(stream))
        for epoch in (0, 1):
            found = Counter(tuple(sorted(sentences_of(objective, d))) for row in one_epoch(source, epoch) for d in row)
            assert found == expected, f"{stream.name}: {(expected - found).total()} examples lost or cut"
            num_all += found.total()
    assert num_all >= 4400


def test_what_is_longer_than_a_row_goes_on_in_another_and_nearly_all_others_are_whole(corpus_folder: CorpusFolder) -> None:
    stream = corpus_folder.parallel()[0]
    expected = {tuple(sorted(line)) for line in lines_of(stream)}
    whole = {line for line in expected if Layout(CAMLM, CORRUPTION, Specials.xlm_r(1000)).length(*map(len, line)) <= S}
    source = source_of(corpus_folder, CAMLM, stream)
    found = [tuple(sorted(sentences_of(CAMLM, d))) for row in one_epoch(source) for d in row]
    cut = set(found) - expected
    assert len(expected - whole) >= 10
    assert len(whole & set(found)) > 0.95 * len(whole), "few are cut that would fit a row of their own"
    tokens = Counter(token for pair in found for side in pair for token in side)
    lost = Counter(token for line in expected for side in line for token in side) - tokens
    assert lost.total() < 0.001 * tokens.total()
    texts = ["\x00" + "".join(map(chr, side)) + "\x00" for line in expected for side in line]
    for side in (side for pair in list(cut)[:40] for side in pair):
        assert any("".join(map(chr, side)) in text for text in texts), "a piece is a stretch of one sentence"


@pytest.mark.parametrize("objective", [MMLM, CLM], ids=lambda o: o.name)
def test_running_text_gives_every_token_exactly_once_an_epoch(corpus_folder: CorpusFolder, objective: Objective) -> None:
    for stream in corpus_folder.monolingual():
        source = source_of(corpus_folder, objective, stream)
        rows = one_epoch(source)
        found = Counter(t for row in rows for d in row for part in sentences_of(objective, d) for t in part)
        expected = Counter(itertools.chain.from_iterable(shard.values[0].tolist() for shard in stream.shards))
        assert found == expected, f"{stream.name}: {(expected - found).total()} of {expected.total()} tokens lost"


def test_running_text_never_joins_two_documents(corpus_folder: CorpusFolder) -> None:
    stream = corpus_folder.monolingual()[0]
    starts = {
        tuple(shard.values[0][shard.offsets[0][row] : shard.offsets[0][row] + 2].tolist())
        for shard in stream.shards
        for row in np.flatnonzero(shard.starts_document)
    }
    assert len(starts) > 50
    joined = 0
    for row in one_epoch(source_of(corpus_folder, MMLM, stream)):
        for document in row:
            (sentence,) = sentences_of(MMLM, document)
            joined += len(sentence) > 60  # longer than any line: lines of a document do follow one another
            assert not any(pair in starts for pair in itertools.pairwise(sentence[1:]))
    assert joined > 0


def test_epochs_differ_in_order_and_masks(corpus_folder: CorpusFolder, objective: Objective) -> None:
    stream = streams_of(corpus_folder, objective)[0]
    source = source_of(corpus_folder, objective, stream)
    epochs = [one_epoch(source, epoch) for epoch in (0, 1)]
    orders = [[sentences_of(objective, row[0]) for row in rows if row] for rows in epochs]
    if source.rows_per_epoch > 3:
        assert orders[0] != orders[1]
    masks = []
    for rows in epochs:
        placed = {tuple(sorted(sentences_of(objective, d))): d for row in rows for d in row}
        masks.append({key: sorted(d.labels.tolist()) for key, d in placed.items()})
    same = [masks[0][key] == masks[1][key] for key in masks[0].keys() & masks[1].keys() if len(key[0]) > 10]
    assert len(same) > 20
    if objective.corruption != NOTHING:  # what is not drawn is always the same
        assert sum(same) < 0.2 * len(same)


def test_a_row_that_comes_again_has_new_masks(corpus_folder: CorpusFolder) -> None:
    """Epochs of two rows: each row stands where it stood before, so nothing but the masks can differ."""
    source = source_of(corpus_folder, MMLM, corpus_folder.monolingual()[3], sequence_length=2048)
    assert source.rows_per_epoch == 2
    rows = [source.row(visit) for visit in range(12)]
    first_tokens = [sentences_of(MMLM, row[0])[0][:5] for row in rows]
    assert sorted(Counter(first_tokens).values()) == [6, 6]
    masks = {tuple(np.concatenate([d.predicted for d in row]).tolist()) for row in rows}
    assert len(masks) == 12
    assert np.array_equal(source.row(3)[0].input_ids, rows[3][0].input_ids)


def test_seeds_differ_and_the_same_seed_does_not(corpus_folder: CorpusFolder) -> None:
    opened = [open_data(corpus_folder, seed) for seed in (0, 0, 1)]
    rows = [set(global_rows(data, 7, 1, 8)) for data in opened]
    assert rows[0] == rows[1]
    assert not rows[0] & rows[2]
    streams = [[data.row(RowAddress("MMLM", draw)).metric for draw in range(40)] for data in opened]
    assert streams[0] == streams[1] != streams[2], "the languages' order follows from the seed too"


def test_masks_of_ranks_and_rows_are_independent(corpus_folder: CorpusFolder) -> None:
    """Same masks on every rank is a known failure of others: here no two rows draw the same positions."""
    source = source_of(corpus_folder, TLM, corpus_folder.parallel()[0])
    drawn = [tuple(row[0].predicted.tolist()) for row in map(source.row, range(100)) if row]
    assert len(set(drawn)) > 0.95 * len(drawn)


@pytest.mark.parametrize("objective", [o for o in OBJECTIVES.values() if o.source == GIVEN], ids=lambda o: o.name)
def test_rows_are_97_percent_full(corpus_folder: CorpusFolder, objective: Objective) -> None:
    longest = max(streams_of(corpus_folder, objective), key=lambda stream: stream.num_tokens)
    source = source_of(corpus_folder, objective, longest, sequence_length=512)
    rows = one_epoch(source)
    lengths = [sum(map(len, row)) for row in rows]
    assert max(lengths) <= 512
    assert len(rows) > 60
    assert sum(lengths) >= 0.97 * 512 * len(rows), f"fill {sum(lengths) / (512 * len(rows)):.4f}"


def test_rows_are_97_percent_full_over_all_steps_of_a_run(corpus_folder: CorpusFolder) -> None:
    data = PretrainingData(corpus_folder, DataConfig(sequence_length=512, alpha=1), Schedule(STAGES, ROWS_PER_STEP), 0)
    documents = np.concatenate([batch.document_BS for step in range(12) for batch in data.step(step, 0, 1, 16)])
    assert (documents >= 0).mean() >= 0.97, (documents >= 0).mean()


def test_rows_have_room_for_all_their_documents_at_every_mask_rate(
    corpus_folder: CorpusFolder, objective: Objective
) -> None:
    for mask_rate, share in ((0.05, 0.05), (0.5, 0.2)):
        settings = RowSettings(
            S, corpus_folder.manifest.specials, CorruptionConfig(mask_rate=mask_rate, pseudo_token_share=share), 0
        )
        stream = streams_of(corpus_folder, objective)[-1]
        source = RowSource(objective, stream, corpus_folder.language_ids, settings, (1,))
        lengths = [sum(map(len, row)) for row in one_epoch(source)]
        assert 0.8 * S < np.mean(lengths) <= max(lengths) <= S


def test_pairs_come_in_both_directions(corpus_folder: CorpusFolder) -> None:
    source = source_of(corpus_folder, CAMLM, corpus_folder.parallel()[0])
    first = Counter(int(d.language[0]) for row in one_epoch(source) for d in row)
    de, en = corpus_folder.language_ids["de"], corpus_folder.language_ids["en"]
    assert set(first) == {de, en}
    assert 0.45 < first[de] / first.total() < 0.55


def test_BTMLM_writes_in_languages_that_have_parallel_data_with_the_sentence(corpus_folder: CorpusFolder) -> None:
    data = open_data(corpus_folder)
    partners = {"en": {"de", "fr"}, "de": {"en"}, "fr": {"en"}, "sw": {"de", "en", "fr"}}  # sw has none: all others
    ids = corpus_folder.language_ids
    drawn: dict[int, set[int]] = {}
    for step in range(6, 60):
        for batch in data.step(step, 0, 1, ROWS_PER_STEP):
            for row, slots in ((int(s) // S, int(s)) for s in batch.generation.slots_K):
                document = batch.document_BS[row] == batch.document_BS.flatten()[slots]
                source = int(batch.language_BS[row][document & (batch.group_BS[row] == 0)][0])
                drawn.setdefault(source, set()).add(int(batch.language_BS.flatten()[slots]))
    assert drawn == {ids[a]: {ids[b] for b in targets} for a, targets in partners.items()}


def test_schedule_draws_each_objectives_rows_without_gap_over_the_stages() -> None:
    schedule = Schedule((*STAGES, StageConfig(steps=3, rows={"TLM": 1, "MMLM": 1})), ROWS_PER_STEP)
    assert schedule.num_steps == 15
    drawn: dict[str, list[int]] = {}
    for step in range(schedule.num_steps):
        addresses = schedule.rows_of_step(step)
        assert len(addresses) == ROWS_PER_STEP
        for address in addresses:
            drawn.setdefault(address.objective, []).append(address.draw)
    assert all(draws == list(range(len(draws))) for draws in drawn.values())
    assert [len(drawn[name]) for name in ("MMLM", "TLM")] == [4 * 6 + 4 * 6 + 8 * 3, 4 * 6 + 3 * 6 + 8 * 3]
    assert set(drawn) == set(schedule.objectives) == {name for stage in STAGES for name in stage.rows}
    with pytest.raises(InputError, match=r"rows_per_step: 2.*mixes 3 objectives"):
        Schedule(STAGES, 2)


def test_mixture_shares_are_exact_over_every_period() -> None:
    probabilities = [0.5, 0.3, 0.15, 0.05]
    mixture = Mixture(probabilities, 7, "test")
    expected = apportion(probabilities, MIXTURE_PERIOD)
    visits: list[list[int]] = [[] for _ in probabilities]
    orders = []
    for period in range(2):
        draws = [mixture[period * MIXTURE_PERIOD + i] for i in range(MIXTURE_PERIOD)]
        assert [sum(d.stream == s for d in draws) for s in range(4)] == expected
        orders.append([d.stream for d in draws])
        for draw in draws:
            visits[draw.stream].append(draw.visit)
    assert orders[0] != orders[1]
    assert all(sorted(v) == list(range(len(v))) for v in visits), "a stream's visits are 0, 1, 2, ... with none left out"
    half = Counter(orders[0][: MIXTURE_PERIOD // 2])
    assert half[0] == pytest.approx(MIXTURE_PERIOD / 4, rel=0.1), "well mixed within the period"


def test_alpha_lifts_the_small_languages(corpus_folder: CorpusFolder) -> None:
    def share_of_sw(alpha: float) -> float:
        schedule = Schedule((StageConfig(steps=1, rows={"MMLM": 1}),), MIXTURE_PERIOD)
        data = PretrainingData(corpus_folder, DataConfig(sequence_length=S, alpha=alpha), schedule, 0)
        mixture = data._mixtures["MMLM"]
        sw = [metric.name for metric in data.metrics].index("MMLM/sw")
        return sum(mixture[i].stream == sw for i in range(MIXTURE_PERIOD)) / MIXTURE_PERIOD

    tokens = {stream.name: stream.num_tokens for stream in corpus_folder.monolingual()}
    assert share_of_sw(1.0) == pytest.approx(tokens["sw"] / sum(tokens.values()), abs=2 / MIXTURE_PERIOD)
    powers = {name: count**0.3 for name, count in tokens.items()}
    assert share_of_sw(0.3) == pytest.approx(powers["sw"] / sum(powers.values()), abs=2 / MIXTURE_PERIOD)
    assert share_of_sw(0.0) == 0.25


def test_held_out_pairs_never_train(corpus_folder: CorpusFolder) -> None:
    (held_out,) = corpus_folder.parallel(HELD_OUT)
    lines = {tuple(sorted(line)) for line in lines_of(held_out)}
    assert len(lines) == 30
    data = open_data(corpus_folder)
    assert len(data.metrics) == len({metric.name for metric in data.metrics}) == 2 * 2 + 3 * 4
    documents = [document for draw in range(600) for document in data.row(RowAddress("TLM", draw)).documents]
    trained = {tuple(sorted(sentences_of(TLM, document))) for document in documents}
    assert len(trained) > 1000
    assert not lines & trained


def test_counts_of_predicted_tokens_follow_from_the_rate(corpus_folder: CorpusFolder) -> None:
    for row in one_epoch(source_of(corpus_folder, TLM, corpus_folder.parallel()[1])):
        for document in row:
            expected = sum(int(num_masked(len(s), CORRUPTION.mask_rate)) for s in sentences_of(TLM, document))
            assert len(document.predicted) == expected


def test_an_objective_without_its_data_is_refused(tmp_path: Path, corpus_folder: CorpusFolder) -> None:
    from ernie_m.corpus.folder import Manifest

    mono = tuple(c for c in corpus_folder.manifest.corpora if c.name == "m.en")
    for name in ("shards", "sentencepiece.bpe.model"):
        (tmp_path / name).symlink_to(corpus_folder.folder / name)
    manifest = corpus_folder.manifest
    Manifest(manifest.tokenizer_file, manifest.tokenizer_sha256, manifest.specials, mono).write(tmp_path)
    folder = CorpusFolder(tmp_path)
    for name, message in (
        ("CAMLM", "no parallel text, which CAMLM needs"),
        ("BTMLM", "at least two languages, found only en"),
    ):
        with pytest.raises(InputError, match=message):
            PretrainingData(folder, DataConfig(), Schedule((StageConfig(steps=1, rows={name: 1}),), 4), 0)


def test_prefetched_steps_come_in_order_and_errors_come_up_where_used() -> None:
    assert list(Prefetcher(lambda i: i * i, 3, 9)) == [9, 16, 25, 36, 49, 64]

    def produce(i: int) -> int:
        if i == 2:
            raise InputError("broken shard")
        return i

    seen: list[int] = []
    prefetcher = Prefetcher(produce, 0, 5)
    with pytest.raises(InputError, match="broken shard"):
        seen.extend(_each(prefetcher))
    assert seen == []
    prefetcher.close()
    endless = Prefetcher(lambda i: i, 0, 10**6)
    assert next(iter(endless)) == 0
    endless.close()
    assert not endless._thread.is_alive()


def _each(items: Prefetcher[int]) -> Sequence[int]:
    return list(items)


def test_data_without_the_links_that_an_objective_needs_is_refused(corpus_without_links: CorpusFolder) -> None:
    schedule = Schedule((StageConfig(steps=1, rows={"AlignLM": 1}),), 1)
    with pytest.raises(InputError, match=r"no column links.*python -m data_prep align --data") as caught:
        PretrainingData(corpus_without_links, DataConfig(), schedule, seed=0)
    assert "\n" not in str(caught.value)
