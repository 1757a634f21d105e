"""How many rows a shard gives: computed for all shards at once, and bit for bit what one shard at a time gives."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ernie_m.base.special_tokens import Specials
from ernie_m.corpus.folder import TRAIN, Shard, ShardEntry, ShardList, Shards, Stream, shard_file
from ernie_m.rows.corruption import INSERT, CorruptionConfig
from ernie_m.rows.objective import Objective
from ernie_m.rows.objectives import CAMLM, TLM
from ernie_m.rows.row_location import RowLocation
from ernie_m.rows.row_source import CUT_FROM, HALF_CUT, TARGET_FILL, RowSettings, RowSource
from ernie_m.rows.window_plan import NUM_SPECIAL, WindowPlan

LANGUAGE_IDS = {"de": 1, "en": 2}


def slow_num_rows(objective: Objective, entry: ShardEntry, settings: RowSettings) -> int:
    """The oracle: one shard, plain Python numbers, and its own idea of an objective's mean length."""
    if entry.rows == 0:
        return 0

    def masked(mean: float, rate: float) -> float:
        return max(1.0, mean * rate + 0.5 * math.exp(-(mean * rate)))

    def length_of(pieces: float) -> float:
        means = [tokens / pieces for tokens in entry.tokens]
        length: float = means[0] + (means[1] if len(means) == 2 else 0) + 2 * len(means)
        if objective.corruption == INSERT:
            of_each = [masked(mean, settings.corruption.mask_rate) for mean in means]
            length += of_each[0] + of_each[1]
        if objective.is_pseudo_parallel:
            length += masked(means[0], settings.corruption.pseudo_token_share)
        return length

    per_token = 1.0
    if objective.corruption == INSERT:
        per_token = 1 + settings.corruption.mask_rate
    if objective.is_pseudo_parallel:
        per_token = 1 + settings.corruption.pseudo_token_share
    whole, in_a_row = float(entry.rows), (settings.sequence_length - NUM_SPECIAL * len(entry.tokens)) / per_token
    above = max(0.0, length_of(whole) / settings.sequence_length - CUT_FROM)
    cut = above / (above + HALF_CUT)
    if objective.merges_lines:
        whole, cut = float(entry.documents), 1.0
    pieces = whole + cut * sum(entry.tokens) / in_a_row
    return math.ceil(pieces * length_of(pieces) / (settings.sequence_length * TARGET_FILL))


def random_stream(num_languages: int, num_shards: int, seed: int) -> Stream:
    """Shards from a few lines to the largest, of lines from 1 to 200 tokens; a few hold nothing."""
    rng = np.random.default_rng(seed)
    entries = []
    for number in range(num_shards):
        rows = int(2 ** rng.uniform(0, 24)) * int(rng.random() > 0.02)
        means = np.exp(rng.uniform(0, np.log(200))) * rng.uniform(0.7, 1.4, num_languages)
        tokens = tuple(min(2**31 - 1, max(rows, int(rows * mean))) for mean in means)
        documents = int(rng.integers(0, rows + 1)) if num_languages == 1 else 0
        entries.append(ShardEntry(shard_file("c", TRAIN, number), TRAIN, rows, tokens, 0, "00" * 32, documents))
    shards = ShardList.of("c", num_languages, entries)
    assert 0 < sum(entry.rows == 0 for entry in entries) < num_shards / 4

    def unopened(*_: Any) -> Any:
        raise AssertionError("rows are counted without opening a shard")

    return Stream(("de", "en")[:num_languages], shards, Shards(shards, unopened))


@pytest.mark.parametrize("sequence_length", [16, 128, 512])
def test_rows_of_all_shards_at_once_are_those_of_each_alone(objective: Objective, sequence_length: int) -> None:
    settings = RowSettings(sequence_length, Specials.xlm_r(1000), CorruptionConfig(), seed=0)
    stream = random_stream(objective.num_sentences, 2000, sequence_length)
    source = RowSource(objective, stream, LANGUAGE_IDS, settings, (1,))
    expected = [slow_num_rows(objective, entry, settings) for entry in stream.entries]
    assert source._rows_of_shards().tolist() == expected
    assert source.rows_per_epoch == sum(expected)
    assert len(set(expected)) > 500


def test_rows_beyond_32_bits_are_counted(objective: Objective) -> None:
    """An epoch of 10^13 tokens: first rows are whole numbers of 64 bits, and each is found."""
    entry = ShardEntry(shard_file("c", TRAIN, 0), TRAIN, 10**8, (2**31 - 1,) * objective.num_sentences, 0, "00" * 32, 0)
    shards = ShardList.of("c", objective.num_sentences, [entry])
    many = ShardList(shards.table, np.zeros(5000, np.int32), objective.num_sentences)
    settings = RowSettings(16, Specials.xlm_r(1000), CorruptionConfig(), seed=0)
    stream = Stream(("de", "en")[: objective.num_sentences], many, Shards(many, lambda *_: None))  # type: ignore[arg-type, return-value]
    source = RowSource(objective, stream, LANGUAGE_IDS, settings, (1,))
    of_each = slow_num_rows(objective, entry, settings)
    assert source._plan.cache_info().maxsize == 1, "hundreds of such streams must not fill the memory with plans"
    assert source.rows_per_epoch == 5000 * of_each > 2**32
    seen: list[tuple[int, int]] = []
    plan = WindowPlan(np.arange(2048)[:, None], np.arange(2048)[:, None], np.arange(2049))
    source._plan = lambda number, window: seen.append((number, window)) or plan  # type: ignore
    found = [source._location(index) for index in (4321 * of_each + 7 * 1024 + 5, 4322 * of_each - 1, 4322 * of_each)]
    assert [location.starts_EC.item() for location in found] == [5, 1024 + (of_each - 1) % 1024, 0]
    last = (of_each - 1) // 1024 - 1
    assert seen == [(4321, 7), (4321, last), (4322, 0)], "the last window takes what would be a window of a few rows"


def test_a_pair_with_an_empty_side_is_found_by_its_other_side() -> None:
    """Lines 1 and 2 say nothing in the first language, lines 3 and 4 nothing in the second."""
    shard = Shard(Path(), ShardEntry(shard_file("c", TRAIN, 0), TRAIN, 6, (9, 9), 0, "00" * 32), 2)
    borders = ([0, 2, 2, 2, 5, 7, 9], [0, 3, 4, 6, 6, 6, 9])
    vars(shard).update(offsets=tuple(np.array(border, np.int32) for border in borders))
    borders_EC = np.array(borders).T
    assert RowLocation(shard, borders_EC[:-1], borders_EC[1:]).lines() == [(i, i) for i in range(6)]


def test_a_pair_with_an_empty_side_is_left_out_and_all_others_come() -> None:
    rng = np.random.default_rng(0)
    lengths = rng.integers(1, 20, (300, 2))
    lengths[[0, 17, 18, 250, 299], [0, 1, 0, 1, 1]] = 0
    entry = ShardEntry(shard_file("c", TRAIN, 0), TRAIN, 300, tuple(lengths.sum(axis=0).tolist()), 0, "00" * 32, 0)
    shard, shards = Shard(Path(), entry, 2), ShardList.of("c", 2, [entry])
    borders_EC = np.concatenate([[[0, 0]], np.cumsum(lengths, axis=0)])
    values = [rng.integers(4, 999, n, dtype=np.int32) for n in entry.tokens]
    vars(shard).update(offsets=tuple(borders_EC.T.astype(np.int32)), values=tuple(values))
    stream = Stream(("de", "en"), shards, Shards(shards, lambda *_: shard))
    for objective in (TLM, CAMLM):
        source = RowSource(objective, stream, LANGUAGE_IDS, RowSettings(128, Specials.xlm_r(1000), CorruptionConfig(), 0))
        spans = [source.locate(visit) for visit in range(source.rows_per_epoch)]
        found = np.concatenate([location.starts_EC for location in spans])
        expected = borders_EC[:-1][lengths.min(axis=1) > 0]
        assert sorted(map(tuple, found.tolist())) == sorted(map(tuple, expected.tolist()))
        assert sum(len(source.row(visit)) for visit in range(source.rows_per_epoch)) == 295
