"""Heads against slow oracles, their sizes, and the two objectives that were added through the table alone."""

from __future__ import annotations

import math
from dataclasses import fields, replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from ernie_m.base.special_tokens import Specials
from ernie_m.models.heads import HEADS, SentenceHead, Targets
from ernie_m.models.model import Encoder
from ernie_m.models.shape import ModelConfig
from ernie_m.models.size import HEAD_SIZES, parameter_count
from ernie_m.rows import objectives
from ernie_m.rows.batch import Document, LossRequest
from ernie_m.rows.objectives import CAMLM, LOSS_INDEX, OBJECTIVES, PLM, TOKEN, XLCO, heads_of
from ernie_m.rows.packing import PackedRow, pack

if TYPE_CHECKING:
    from conftest import BatchOf, DocumentsOf, EncoderOf

SHAPE = ModelConfig(num_layers=2, hidden_size=32, num_heads=4, ffn_size=64, vocab_size=101, num_languages=4)


def request(num_metrics: int = 1) -> LossRequest:
    return LossRequest(torch.ones(len(LOSS_INDEX), dtype=torch.float64), num_metrics)


def cut(document: Document, start: int, stop: int) -> Document:
    """Its positions [start, stop); nothing is predicted there."""
    asked = ("predicted", "labels", "prediction", "placeholders")
    columns = {f.name: getattr(document, f.name) for f in fields(Document)}
    return Document(**{name: column[:0] if name in asked else column[start:stop] for name, column in columns.items()})


def test_both_rooms_have_the_same_heads() -> None:
    assert tuple(HEADS) == tuple(HEAD_SIZES) == objectives.HEADS


@pytest.mark.parametrize("heads", [None, ("sentence",), ("token", "sentence")])
def test_sizes_are_those_of_the_modules(heads: tuple[str, ...] | None) -> None:
    model = Encoder(replace(SHAPE, heads=heads))
    assert parameter_count(model.config) == sum(parameter.numel() for parameter in model.parameters())
    for name, head in model.heads.items():
        own = [p for n, p in head.named_parameters() if n != "decoder_weight"]
        assert HEAD_SIZES[name].parameters(model.config) == sum(parameter.numel() for parameter in own)
        matrices = sum(p.numel() for p in head.parameters() if p.dim() == 2)
        assert HEAD_SIZES[name].flops(model.config) == 6 * matrices, "a prediction passes each matrix once, and twice back"


def test_XLCO_is_a_choice_among_the_other_sentences_of_its_row(
    encoder_of: EncoderOf, documents_of: DocumentsOf, batch_of: BatchOf
) -> None:
    """Sentence by sentence, in plain Python: states of a document alone, cosines, softmax over the row's others."""
    model, rows = encoder_of(dtype=torch.float64, seed=1), documents_of(XLCO)
    head, expected = model.heads["sentence"], []
    for row in rows:
        states, partners = [], []
        for document in row:
            hidden = model.hidden_states(batch_of(XLCO, [[document]]))[0]
            first, second = document.predicted.tolist()
            partners += [len(states) + 1, len(states)]
            states += [F.normalize(head.projection(hidden[i]), dim=-1) for i in (first, second)]
        for i, partner in enumerate(partners):
            scores = {j: (states[i] @ states[j]).item() / head.TEMPERATURE for j in range(len(states)) if j != i}
            expected.append(math.log(sum(math.exp(s - scores[partner]) for s in scores.values())))
    _, nll_M = model(batch_of(XLCO, rows), request())
    assert nll_M.item() == pytest.approx(sum(expected), rel=1e-9)
    assert len(expected) == 10
    assert min(expected) > 0.01


def test_XLCO_encodes_each_sentence_as_it_would_be_alone(
    encoder_of: EncoderOf, documents_of: DocumentsOf, batch_of: BatchOf
) -> None:
    model = encoder_of(dtype=torch.float64)
    (document,) = documents_of(XLCO, [((7, 5),)])[0]
    whole = model.hidden_states(batch_of(XLCO, [[document]]))[0]
    for start, stop in ((0, 9), (9, 16)):
        part = cut(document, start, stop)
        assert part.position_ids.tolist() == list(range(2, 2 + stop - start))
        torch.testing.assert_close(model.hidden_states(batch_of(XLCO, [[part]]))[0, : stop - start], whole[start:stop])


def test_XLCO_learns_nothing_across_the_pair(encoder_of: EncoderOf, documents_of: DocumentsOf, batch_of: BatchOf) -> None:
    model = encoder_of(dtype=torch.float64, num_layers=4)
    batch = batch_of(XLCO, documents_of(XLCO))
    changed = replace(
        batch, input_ids_BS=torch.where(batch.group_BS == 1, 4 + (batch.input_ids_BS + 13) % 90, batch.input_ids_BS)
    )
    is_source = (batch.group_BS == 0) & (batch.document_BS >= 0)
    assert torch.equal(model.hidden_states(changed)[is_source], model.hidden_states(batch)[is_source])


def test_PLM_is_the_likelihood_of_the_target_token_by_token(
    encoder_of: EncoderOf, documents_of: DocumentsOf, batch_of: BatchOf
) -> None:
    """Each next token from a document that ends where it is asked for: nothing behind it is there at all."""
    model, rows = encoder_of(dtype=torch.float64, seed=3), documents_of(PLM)
    _, nll_M = model(batch_of(PLM, rows), request())
    expected = 0.0
    for document in (document for row in rows for document in row):
        assert document.predicted.min() == int((document.group == 0).sum()), "the target's first token asks for its second"
        for position, label in zip(document.predicted.tolist(), document.labels.tolist(), strict=True):
            beginning = cut(document, 0, position + 1)
            hidden = model.hidden_states(batch_of(PLM, [[beginning]]))[0, position]
            expected -= float(model.token_head.logits(hidden).log_softmax(-1)[label])
    assert nll_M.item() == pytest.approx(expected, rel=1e-7)


def test_a_micro_batch_of_several_heads_gives_each_its_own(
    encoder_of: EncoderOf, documents_of: DocumentsOf, batch_of: BatchOf
) -> None:
    """Rows of both kinds in turn: losses are those of the rows by themselves."""
    from ernie_m.rows.dataloader import to_device

    model = encoder_of(dtype=torch.float64)
    rows = [(objective, row) for pair in zip(documents_of(CAMLM), documents_of(XLCO), strict=True)
            for objective, row in zip((CAMLM, XLCO), pair, strict=True)]  # fmt: skip
    packed = [PackedRow(row, objectives.OBJECTIVE_INDEX[o.name], number) for number, (o, row) in enumerate(rows)]
    batch = to_device(pack(packed, 64), torch.device("cpu"))
    assert dict(batch.head_sizes) == {"token": int((batch.loss_N == LOSS_INDEX["CAMLM"]).sum()), "sentence": 10}
    _, nll_M = model(batch, request(4))
    alone = [model(batch_of(o, [row]), request())[1].item() for o, row in rows]
    assert nll_M.tolist() == pytest.approx(alone, rel=1e-6)


def test_a_head_with_nothing_to_predict_takes_part_with_a_zero_gradient(
    encoder_of: EncoderOf, documents_of: DocumentsOf, batch_of: BatchOf
) -> None:
    """Under ZeRO-3 every rank must run every module, forward and backward."""
    for objective, idle in ((CAMLM, "sentence"), (XLCO, TOKEN)):
        model = encoder_of()
        loss, _ = model(batch_of(objective, documents_of(objective)), LossRequest(torch.ones(len(LOSS_INDEX)), 1))
        loss.backward()
        for name, parameter in model.heads[idle].named_parameters():
            assert parameter.grad is not None, name
            if name != "decoder_weight":
                assert not parameter.grad.any(), name


def test_labels_of_sentences_hold_wherever_a_document_is_put(documents_of: DocumentsOf) -> None:
    rows = documents_of(XLCO)
    batch = pack([PackedRow(row, objectives.OBJECTIVE_INDEX["XLCO"], 0) for row in rows], 64)
    partners = batch.predicted_N + batch.labels_N
    assert sorted(partners.tolist()) == sorted(batch.predicted_N.tolist())
    documents = batch.document_BS.ravel()
    assert np.array_equal(documents[partners], documents[batch.predicted_N])
    assert (partners != batch.predicted_N).all()


def test_a_model_has_the_heads_that_its_objectives_ask() -> None:
    assert heads_of(["MMLM", "CAMLM", "BTMLM"]) == ("token",)
    assert heads_of(["XLCO", "MMLM"]) == ("token", "sentence")
    assert heads_of(["XLCO"]) == ("sentence",)
    assert all(heads_of([name]) for name in OBJECTIVES)
    assert list(Encoder(replace(SHAPE, heads=("sentence", "token"))).heads) == ["token", "sentence"], "the table's order"


def test_a_sentence_alone_in_its_row_has_no_loss() -> None:
    head = SentenceHead(SHAPE, torch.nn.Parameter(torch.zeros(1)), torch.nn.LayerNorm, Specials.xlm_r(101))
    targets = Targets(torch.tensor([0, 9]), torch.tensor([9, -9]), 64)
    assert head(torch.randn(2, 32), targets).tolist() == [0.0, 0.0]
