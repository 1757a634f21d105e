"""Rows for vocabularies that are not XLM-R's: special ids, positions and random pieces are the data's."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from ernie_m.base.special_tokens import Specials
from ernie_m.interop.build_model import architecture_of_run
from ernie_m.models.model import Encoder
from ernie_m.models.pseudo_parallel import fill_placeholders
from ernie_m.models.shape import ModelConfig
from ernie_m.rows.batch import Example, LossRequest
from ernie_m.rows.corruption import CorruptionConfig
from ernie_m.rows.dataloader import to_device
from ernie_m.rows.layout import Layout
from ernie_m.rows.objective import HEADS
from ernie_m.rows.objectives import BTMLM, LOSS_INDEX, MMLM, OBJECTIVE_INDEX, TLM, XLCO
from ernie_m.rows.packing import PackedRow, pack
from ernie_m.runs.data_identity import specials_of, specials_recorded
from tests.objective_fixtures import GIVEN_OBJECTIVES

# As BERT has them: [PAD] 0, unused ids, [UNK] 100, [CLS] 101, [SEP] 102, [MASK] 103, then pieces; positions from 0.
BERT = Specials(101, 102, None, 0, 100, 103, 0, 200, ((104, 150), (160, 200)))
RATES = CorruptionConfig(mask_rate=0.4, pseudo_token_share=0.2)
X, Y = np.arange(110, 117, dtype=np.int32), np.arange(170, 175, dtype=np.int32)


def example(num_sentences: int) -> Example:
    return Example((X, Y)[:num_sentences], (1, 2)[:num_sentences])


def test_a_pair_is_laid_out_as_the_vocabulary_has_it() -> None:
    document = Layout(TLM, replace(RATES, mask_rate=1e-9), BERT).lay_out(example(2), key=1)
    shown = document.input_ids.copy()
    shown[document.predicted] = document.labels
    assert shown.tolist() == [101, *X.tolist(), 102, *Y.tolist(), 102], "[CLS] x [SEP] y [SEP]"
    assert document.position_ids.tolist() == list(range(15))
    assert document.group.tolist() == [0] * 9 + [1] * 6
    apart = Layout(XLCO, RATES, BERT).lay_out(example(2), key=1)
    assert apart.input_ids.tolist() == [101, *X.tolist(), 102, 101, *Y.tolist(), 102]
    assert apart.position_ids.tolist() == [*range(9), *range(7)]


@pytest.mark.parametrize("name", GIVEN_OBJECTIVES)
def test_lengths_are_those_of_the_layout(name: str) -> None:
    objective = GIVEN_OBJECTIVES[name]
    layout = Layout(objective, RATES, BERT)
    for lengths in ((1, 1), (7, 5), (40, 3)):
        sentences = tuple(np.full(n, 120, np.int32) for n in lengths[: objective.num_sentences])
        columns = {"links": np.array([[0, lengths[0]]])} if objective.columns else {}
        document = layout.lay_out(Example(sentences, (1, 2)[: len(sentences)], columns), key=3, target_language=2)
        assert len(document) == layout.length(*map(len, sentences))
        fitted = layout.fitted([len(s) for s in sentences], 20)
        assert fitted is not None
        assert layout.length(*fitted) <= 20


def test_random_pieces_are_those_that_may_stand_in_a_text() -> None:
    tokens = np.full(20_000, 120, np.int32)
    document = Layout(MMLM, RATES, BERT).lay_out(Example((tokens,), (1,)), key=5)
    shown = document.input_ids[document.predicted]
    random = shown[(shown != BERT.mask) & (shown != 120)]
    assert set(random.tolist()) == {*range(104, 150), *range(160, 200)} - {120}, "all of them, and no others"
    assert 0.07 < len(random) / len(shown) < 0.12
    assert 0.77 < (shown == BERT.mask).mean() < 0.83


def test_our_encoder_trains_and_generates_with_it() -> None:
    shape = ModelConfig(num_layers=2, hidden_size=32, num_heads=4, ffn_size=64, vocab_size=200, num_languages=2,
                        max_positions=40, dropout=0.0, heads=HEADS)  # fmt: skip
    model = Encoder(shape, specials=BERT).initialise(0)
    assert not model.embeddings.word.weight[BERT.pad].any()
    for name, objective in GIVEN_OBJECTIVES.items():
        text = example(objective.num_sentences)
        if objective.columns:
            text = replace(text, columns={"links": np.array([[0, len(text.sentences[0])]])})
        document = Layout(objective, RATES, BERT).lay_out(text, key=7, target_language=2)
        generates = objective is BTMLM
        packed = pack([PackedRow([document, document], OBJECTIVE_INDEX[name], 0)], 40, generates, BERT)
        assert packed.input_ids_BS[packed.document_BS < 0].tolist() == [BERT.pad] * int((packed.document_BS < 0).sum())
        batch = fill_placeholders(model, to_device(packed, torch.device("cpu")))
        if generates:
            written = batch.input_ids_BS.flatten()[batch.generation.slots_K.long()]
            assert all(104 <= i < 150 or 160 <= i < 200 for i in written.tolist()), "pieces alone"
        loss, _ = model(batch, LossRequest(torch.ones(len(LOSS_INDEX)), len(objective.predictions)))
        loss.backward()
        assert loss.isfinite()
    at_mask = batch.input_ids_BS == BERT.mask
    other = model.embeddings(batch.input_ids_BS, batch.position_ids_BS, batch.language_BS * 0)
    assert torch.equal(
        other[~at_mask], model.embeddings(batch.input_ids_BS, batch.position_ids_BS, batch.language_BS)[~at_mask]
    )


def test_a_run_remembers_its_special_tokens() -> None:
    model = {"vocab_size": 200, "num_layers": 1, "hidden_size": 16, "num_heads": 2, "ffn_size": 32, "num_languages": 2}
    configuration = {"model": model, "data_identity": specials_recorded(BERT, ModelConfig())}
    assert specials_of(configuration) == BERT
    empty = architecture_of_run(Path("none"), configuration).empty()
    assert isinstance(empty, Encoder)
    assert empty.embeddings.word.padding_idx == BERT.pad
    assert specials_recorded(Specials.xlm_r(200), ModelConfig()) == {}, "so that runs from before there were others go on"
    assert specials_of({"model": model, "data_identity": {}}) == Specials.xlm_r(200)
