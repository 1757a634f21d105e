"""Pairs made of texts alone: AE's noise against a loop, BT's rows against rows written by hand from what the model says."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from ernie_m.base.special_tokens import BOS_ID, EOS_ID, PAD_ID, Specials, mask_id
from ernie_m.corpus.any_vocabulary import open_vocabulary
from ernie_m.corpus.vocabulary import Vocabulary
from ernie_m.corpus.words import begins_any_word, word_numbers
from ernie_m.models.decoding import translated
from ernie_m.models.pseudo_parallel import fill_placeholders
from ernie_m.rows.batch import Document, Example, Examples, PackedBatch, num_real_tokens
from ernie_m.rows.corruption import CorruptionConfig
from ernie_m.rows.dataloader import DataConfig, PretrainingData, to_device
from ernie_m.rows.layout import Layout
from ernie_m.rows.objective import Objective
from ernie_m.rows.objectives import AE, BT, MT, OBJECTIVE_INDEX
from ernie_m.rows.own_pairs import most_written, noised
from ernie_m.rows.packing import PackedRow, pack
from ernie_m.rows.row_source import RowSettings, RowSource
from ernie_m.rows.schedule import Schedule, StageConfig
from tests.fixtures.ernie_m_export import train_tokenizer
from tests.properties.test_halves import REQUEST, translation_model
from tests.properties.test_loader_oracle import WORD, splitmix64
from tests.tokenizer_fixtures import word_piece

if TYPE_CHECKING:
    from ernie_m.corpus.folder import CorpusFolder

SPECIALS = Specials.xlm_r(101)
MASK = mask_id(101)
CPU = torch.device("cpu")
RATES = [CorruptionConfig(), CorruptionConfig(shuffle_places=0, drop_rate=0.6, blank_rate=0.0),
         CorruptionConfig(shuffle_places=7, drop_rate=0.0, blank_rate=0.7)]  # fmt: skip


def texts(count: int, seed: int = 0, longest: int = 30) -> Examples:
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, longest, (count, 1))
    keys = rng.integers(0, WORD, count, np.uint64)
    languages = rng.integers(1, 3, (count, 1))
    return Examples(
        rng.integers(4, MASK, int(lengths.sum())).astype(np.int32), lengths, languages, keys, 3 - languages[:, 0]
    )


def begins_of(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random(101) < 0.5


def slow_noise(tokens: list[int], key: int, rates: CorruptionConfig, begins: np.ndarray) -> list[int]:
    """One text, word by word, with numbers of its own key."""
    firsts = [i for i, token in enumerate(tokens) if i == 0 or begins[token]]
    if len(firsts) == 1:
        firsts = list(range(len(tokens)))
    words = [tokens[a:b] for a, b in zip(firsts, [*firsts[1:], len(tokens)], strict=True)]
    state = splitmix64((key ^ int.from_bytes(b"noise", "big")) * 0x9E3779B97F4A7C15)
    numbers = [splitmix64((state + first) * 0x9E3779B97F4A7C15) for first in firsts]
    drawn = [number >> 40 for number in numbers]
    places = [
        i + (n % 2**20) / 2**20 * (rates.shuffle_places + 1 if rates.shuffle_places else 0) for i, n in enumerate(numbers)
    ]
    found = []
    for i in sorted(range(len(words)), key=lambda i: (places[i], i)):
        if drawn[i] < rates.drop_rate * 2**24 and drawn[i] < max(drawn):
            continue
        is_blank = (numbers[i] >> 20) % 2**20 < rates.blank_rate * 2**20
        found += [MASK] * len(words[i]) if is_blank else words[i]
    return found


@pytest.mark.parametrize("rates", RATES, ids=["papers", "dropped", "blanked"])
def test_noise_is_that_of_a_loop_over_words(rates: CorruptionConfig) -> None:
    examples, begins = texts(300), begins_of()
    documents = Layout(AE, rates, SPECIALS, begins_word=begins).lay_out_all(examples)
    ends = np.cumsum(examples.lengths_EC[:, 0])
    for e, document in enumerate(documents):
        tokens = examples.tokens_T[ends[e] - examples.lengths_EC[e, 0] : ends[e]].tolist()
        source = slow_noise(tokens, int(examples.keys_E[e]), rates, begins)
        assert document.input_ids.tolist() == [BOS_ID, *source, EOS_ID, BOS_ID, *tokens, EOS_ID]
        assert document.labels.tolist() == [*tokens, EOS_ID]
        assert set(document.language.tolist()) == {examples.languages_EC[e, 0]}
        starts = [2, 2 + len(source) + 2]
        assert document.position_ids.tolist() == [*range(2, starts[1]), *range(2, 4 + len(tokens))]


def test_noise_moves_words_by_up_to_three_places_and_drops_and_blanks_a_tenth() -> None:
    """Words of two tokens, each text with all words different: so it is seen where each went."""
    begins, count = np.arange(101) % 2 == 0, 2000
    tokens = np.tile(np.arange(4, 84, dtype=np.int32), count)
    keys = np.random.default_rng(0).integers(0, WORD, count, np.uint64)
    of_one = np.full((count, 1), 80), np.ones((count, 1), np.int64)
    examples = Examples(tokens, *of_one, keys, np.zeros(count, np.int64))
    moved = noised(examples, replace(RATES[0], drop_rate=0.0, blank_rate=0.0), begins, MASK)
    words = moved.tokens_T.reshape(count, 2, 40, 2)[:, 0]
    assert (words[..., 1] == words[..., 0] + 1).all(), "words stay whole"
    distance = np.abs((words[..., 0] - 4) // 2 - np.arange(40))
    assert np.bincount(distance.ravel()).nonzero()[0].tolist() == [0, 1, 2, 3]
    both = noised(examples, RATES[0], begins, MASK)
    left = both.lengths_EC[:, 0].sum() / (80 * count)
    blanked = (both.tokens_T == MASK).sum() / both.lengths_EC[:, 0].sum()
    assert (left, blanked) == pytest.approx((0.9, 0.1), abs=0.005)
    gone = noised(examples, replace(RATES[0], drop_rate=0.999), begins, MASK)
    assert (gone.lengths_EC[:, 0] >= 2).all(), "a word stays"
    assert (gone.lengths_EC[:, 0] == 2).mean() > 0.9


@pytest.mark.parametrize("objective", [AE, BT], ids=lambda objective: objective.name)
def test_texts_are_laid_out_alone_as_together(objective: Objective) -> None:
    examples, layout = texts(40), Layout(objective, RATES[0], SPECIALS, begins_word=begins_of())
    documents = layout.lay_out_all(examples)
    ends = np.cumsum(examples.lengths_EC[:, 0])
    for e in range(40):
        own = slice(e, e + 1)
        tokens = examples.tokens_T[ends[e] - examples.lengths_EC[e, 0] : ends[e]]
        columns = (getattr(examples, name)[own] for name in ("lengths_EC", "languages_EC", "keys_E", "targets_E"))
        alone = layout.lay_out_all(Examples(tokens, *columns)).joined
        for name, array in vars(documents[e]).items():
            assert np.array_equal(array, getattr(alone, name)), name
        assert 2 * max((alone.group == group).sum() for group in (0, 1)) <= layout.length(len(tokens))


def test_words_are_known_in_each_kind_of_vocabulary(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("words")
    lines = ["ni ya na kwa", "wa ni", "yana nikwa wana"] * 30
    for vocabulary in (
        Vocabulary(train_tokenizer(folder / "unigram.model", 64)),
        open_vocabulary(word_piece(lines, folder / "bert")),
    ):
        begins = begins_any_word(vocabulary)
        for line in lines[:3]:
            numbers = word_numbers(vocabulary.encode(line), begins)
            assert numbers[-1] + 1 == len(line.split()), line


# -- back-translation ----------------------------------------------------------------------------------------------


def back_rows(rows: tuple[tuple[int, ...], ...], seed: int = 0) -> list[list[Document]]:
    """Rows of texts of these lengths, each to be written in the other of two languages."""
    found = []
    for number, row in enumerate(rows):
        examples = texts(len(row), seed + number)
        tokens = np.random.default_rng(seed + 9 * number).integers(4, MASK, sum(row)).astype(np.int32)
        examples = replace(examples, tokens_T=tokens, lengths_EC=np.array(row)[:, None])
        found.append([*Layout(BT, RATES[0], SPECIALS).lay_out_all(examples)])
    return found


def packed(objective: Objective, rows: list[list[Document]], length: int = 128) -> PackedBatch:
    number = OBJECTIVE_INDEX[objective.name]
    return to_device(pack([PackedRow(row, number, 0) for row in rows], length, objective is BT), CPU)


ROWS = ((7, 3), (5, 1, 4))


def text_of(document: Document) -> tuple[np.ndarray, tuple[int, int]]:
    """A text and its languages: its own, and that of its translation."""
    is_text = document.group == 1
    return document.input_ids[is_text][1:-1], (int(document.language[is_text][0]), int(document.language[0]))


@pytest.mark.parametrize("taste", [-9.0, 1.5, 9.0])
def test_rows_of_back_translation_are_those_written_by_hand_from_the_generated_tokens(taste: float) -> None:
    """Forward and gradient; with sentences that end at once, by themselves, and at their longest."""
    model, rows = translation_model(language_embedding="all"), back_rows(ROWS)
    with torch.no_grad():
        model.token_head.decoder_bias[EOS_ID] = taste
    batch = packed(BT, rows)
    full = fill_placeholders(model, batch)
    lengths, by_hand = [], []
    for row in rows:
        by_hand.append([])
        for document in row:
            text, languages = text_of(document)
            limit = most_written(len(text))
            (written,) = translated(model, [text], languages, limit + 2)
            lengths.append((len(written), limit))
            example = Example((written, text), languages[::-1])
            by_hand[-1].append(Layout(MT, RATES[0], SPECIALS).lay_out(example, 0))
    kinds = {taste < 0: all(n == most for n, most in lengths), taste > 5: all(n == 0 for n, _ in lengths)}
    assert kinds.get(True, any(0 < n < most for n, most in lengths)), lengths
    found, expected = [], []
    for rows_read, into in ((full, found), (packed(MT, by_hand), expected)):
        model.zero_grad()
        loss, _ = model(replace(rows_read, loss_N=torch.zeros_like(rows_read.loss_N)), REQUEST)
        loss.backward()
        into += [loss, *(parameter.grad.clone() for parameter in model.parameters())]
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    assert int((full.document_BS >= 0).sum()) == sum(len(document) for row in by_hand for document in row)
    unused = (batch.document_BS >= 0) & (full.document_BS < 0)
    assert (full.input_ids_BS[unused] == PAD_ID).all()
    assert not full.reads_BS[unused].any()
    assert not full.language_BS[unused].any()


def test_tokens_of_a_batch_are_counted_without_its_slots() -> None:
    rows = back_rows(ROWS)
    batch = pack([PackedRow(row, OBJECTIVE_INDEX["BT"], 0) for row in rows], 128, generates=True)
    assert num_real_tokens(batch) == sum(map(sum, ROWS)) + 2 * sum(map(len, ROWS))


def test_a_rank_whose_texts_are_done_goes_on_with_the_others_and_writes_the_same() -> None:
    model, batch = translation_model(language_embedding="all"), packed(BT, back_rows(ROWS))
    with torch.no_grad():
        model.token_head.decoder_bias[EOS_ID] = 1.5
    steps, more = [], 17

    def others(mine: bool) -> bool:
        steps.append(mine)
        return sum(steps) > more

    together = fill_placeholders(model, batch, others)
    for name, array in vars(fill_placeholders(model, batch)).items():
        if isinstance(array, torch.Tensor):
            assert torch.equal(array, getattr(together, name)), name
    nothing = packed(BT, [[]])
    steps.clear()
    assert torch.equal(fill_placeholders(model, nothing, others).input_ids_BS, nothing.input_ids_BS)
    assert len(steps) == more + 2, "a rank without texts does as many steps"


def test_generation_is_without_dropout_and_without_gradient() -> None:
    model, batch = translation_model(dropout=0.5, attention="sdpa"), packed(BT, back_rows(ROWS))
    expected = fill_placeholders(model, batch).input_ids_BS
    model.train()
    torch.manual_seed(0)
    state = torch.get_rng_state()
    full = fill_placeholders(model, batch)
    assert torch.equal(full.input_ids_BS, expected)
    assert torch.equal(torch.get_rng_state(), state)
    assert model.training


# -- data ----------------------------------------------------------------------------------------------------------


def data_of(folder: CorpusFolder, rows: dict[str, float], monkeypatch: pytest.MonkeyPatch) -> PretrainingData:
    begins = np.random.default_rng(0).random(folder.manifest.vocab_size) < 0.6
    monkeypatch.setattr("ernie_m.rows.dataloader.open_vocabulary", lambda path: None)
    monkeypatch.setattr("ernie_m.rows.dataloader.begins_any_word", lambda vocabulary: begins)
    return PretrainingData(folder, DataConfig(sequence_length=256), Schedule((StageConfig(steps=9, rows=rows),), 16), seed=1)


def test_rows_of_own_pairs_are_the_same_on_any_number_of_ranks_and_full(
    corpus_folder: CorpusFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = data_of(corpus_folder, {"AE": 1, "BT": 1}, monkeypatch)
    (whole,) = data.step(5, 0, 1, 16)
    parts = [data.step(5, rank, 2, 8)[0] for rank in range(2)]
    for name in ("input_ids_BS", "document_BS", "language_BS"):
        both = np.stack([getattr(part, name) for part in parts], axis=1).reshape(whole.input_ids_BS.shape)
        assert np.array_equal(getattr(whole, name), both)
    texts_of_both = [part.back_translation.text_ids_GT for part in parts]
    assert sum(map(len, texts_of_both)) == len(whole.back_translation.text_ids_GT)
    real = np.concatenate([data.step(step, 0, 1, 16)[0].document_BS for step in range(9)]).reshape(9, 2, 8, 2, 128) >= 0
    fill = real.mean(axis=(0, 2, 4))  # objective, half
    assert fill[0, 1] > 0.95, "AE's texts"
    assert fill[0, 0] > 0.83, "a tenth of them is dropped"
    assert fill[1, 0] > 0.95, "BT's slots"
    assert fill[1, 1] > 0.6, "BT's texts: their slots are 1.3 n + 5"


def test_texts_go_alike_into_each_other_language_that_the_model_writes(
    corpus_folder: CorpusFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = data_of(corpus_folder, {"BT": 1}, monkeypatch)
    ids = corpus_folder.language_ids
    counts: dict[int, list[int]] = {}
    for step in range(9):
        back = data.step(step, 0, 1, 16)[0].back_translation
        for own, to in zip(back.from_G.tolist(), back.to_G.tolist(), strict=True):
            counts.setdefault(own, []).append(to)
    assert set(counts) == {ids[name] for name in ("en", "de", "fr", "sw")}
    for own, others in counts.items():
        assert set(others) == set(ids.values()) - {own}
    shares = np.bincount(counts[ids["en"]])[1:] / len(counts[ids["en"]])
    assert shares[shares > 0] == pytest.approx(1 / 3, abs=0.12)


def test_each_text_comes_once_an_epoch_and_noise_differs_from_epoch_to_epoch(corpus_folder: CorpusFolder) -> None:
    begins = np.random.default_rng(0).random(corpus_folder.manifest.vocab_size) < 0.6
    settings = RowSettings(256, corpus_folder.manifest.specials, CorruptionConfig(), 0, begins_word=begins)
    stream = corpus_folder.monolingual()[2]
    source = RowSource(AE, stream, corpus_folder.language_ids, settings)
    seen: dict[bytes, set[bytes]] = {}
    for visit in range(2 * source.rows_per_epoch):
        for document in source.row(visit):
            text, noise = (document.input_ids[document.group == group].tobytes() for group in (1, 0))
            seen.setdefault(text, set()).add(noise)
    assert len(seen) > 0.98 * stream.num_rows
    assert np.mean([len(noises) == 2 for noises in seen.values()]) > 0.95
