"""Classes of transformers under the attention rule compute what they do alone, in packed rows, and nothing leaks."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModel

from ernie_m.base.console import InputError
from ernie_m.interop.encoder import open_encoder
from ernie_m.models import row_pieces
from ernie_m.models.attention import build_mask
from ernie_m.models.backbones.encoder import ForeignEncoder
from ernie_m.models.backbones.rule import RowsRead
from ernie_m.models.pseudo_parallel import fill_placeholders
from ernie_m.models.row_pieces import RowPieces
from ernie_m.models.tied_gradient import tied_gradient
from ernie_m.rows.batch import Document, LossRequest, PackedBatch
from ernie_m.rows.objectives import BTMLM, CAMLM, LOSS_INDEX, MMLM
from tests.backbone_fixtures import FAMILIES, WINDOW, backbone_of, own_states, random_model, targets_of
from tests.batch_fixtures import MX, MY, X, Y, is_group, with_other_ids

if TYPE_CHECKING:
    from conftest import BatchOf, DocumentsOf

    from ernie_m.rows.objective import Objective

LONG = (((40, 45), (52, 36), (30, 61)), ((45, 62), (50, 5)))  # sentence lengths; rows long enough to be cut into pieces
KINDS = ("Bert", "XLMRoberta", "ModernBert", "EuroBert")  # positions from 0, behind padding's, windows, grouped queries
LEAKS = (*KINDS, "Roberta", "Electra", "Gte")


@pytest.fixture(params=list(FAMILIES))
def model(request: pytest.FixtureRequest) -> Any:
    return random_model(request.param)


def assert_same(found: torch.Tensor, expected: torch.Tensor) -> None:
    """To 1e-5 of the largest number: small ones are differences of large ones, and round as those do."""
    largest = float(expected.detach().abs().amax()) if expected.numel() else 0.0
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5 * max(1.0, largest))


def located(rows: Sequence[Sequence[Document]]) -> Iterator[tuple[int, slice, Document]]:
    """(row, span in it, document) of every document."""
    for row, documents in enumerate(rows):
        start = 0
        for document in documents:
            yield row, slice(start, start + len(document)), document
            start += len(document)


def test_states_of_a_packed_document_are_the_classes_own_behind_every_layer(
    model: Any, documents_of: DocumentsOf, batch_of: BatchOf
) -> None:
    rows = documents_of(MMLM)
    backbone, batch = backbone_of(model), batch_of(MMLM, rows)
    with torch.no_grad():
        layers = [backbone.hidden_states(batch, layer) for layer in range(backbone.num_layers + 1)]
        assert torch.equal(layers[-1], backbone.hidden_states(batch))
        for row, span, document in located(rows):
            own = own_states(model, torch.from_numpy(document.input_ids).long())
            assert len(own) == backbone.num_layers + 1
            for there, here in zip(own, layers, strict=True):
                assert_same(here[row, span], there)
            assert own[-1].std() > 0.1


@pytest.mark.parametrize("attention", ["pieces", "sdpa"])
@pytest.mark.parametrize("family", KINDS)
def test_states_in_a_packed_row_are_those_of_the_document_alone(
    family: str,
    attention: str,
    objective: Objective,
    documents_of: DocumentsOf,
    batch_of: BatchOf,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(row_pieces, "LEAST", 16)
    backbone, rows = backbone_of(random_model(family), attention=attention), documents_of(objective, LONG)
    batch = batch_of(objective, rows, 5 + max(sum(map(len, row)) for row in rows))
    is_cut = isinstance(build_mask(attention, batch), RowPieces)
    assert is_cut == (attention == "pieces"), "else nothing new is tried"
    with torch.no_grad():
        packed = backbone.hidden_states(batch)
        assert bool(packed.isfinite().all()), "padding too"
        for row, span, document in located(rows):
            alone = backbone.hidden_states(batch_of(objective, [[document]], len(document)))[0]
            assert_same(packed[row, span], alone)


def test_logits_are_the_classes_own_and_wanted_positions_alone_give_the_same(
    model: Any, documents_of: DocumentsOf, batch_of: BatchOf
) -> None:
    rows = documents_of(MMLM)
    backbone, batch = backbone_of(model), batch_of(MMLM, rows)
    with torch.no_grad():
        logits = backbone.head.logits(backbone.hidden_states(batch))
        for row, span, document in located(rows):
            ids = torch.from_numpy(document.input_ids).long()[None]
            own = model(ids, attention_mask=torch.ones_like(ids)).logits[0]
            assert_same(logits[row, span], own)
        assert len(batch.predicted_N) > 5
        for wanted_N in (batch.predicted_N, batch.predicted_N.flip(0)[:3], batch.predicted_N[:0]):
            here = backbone.head.logits(backbone.hidden_states(batch, wanted_N=wanted_N))
            assert_same(here, logits.flatten(0, 1)[wanted_N.long()])
            second = backbone.hidden_states(batch, layer=2, wanted_N=wanted_N)
            assert torch.equal(second, backbone.hidden_states(batch, layer=2).flatten(0, 1)[wanted_N.long()])
    assert logits.std() > 0.3


@pytest.mark.parametrize("family", KINDS)
def test_wanted_positions_of_one_row_come_in_the_order_asked_for(
    family: str, documents_of: DocumentsOf, batch_of: BatchOf
) -> None:
    """As many as the row has: their shape says nothing about what the last layer left out."""
    backbone, batch = backbone_of(random_model(family)), batch_of(MMLM, documents_of(MMLM)[:1])
    backwards = torch.arange(batch.input_ids_BS.numel()).flip(0)
    with torch.no_grad():
        everything = backbone.hidden_states(batch)[0]
        assert_same(backbone.hidden_states(batch, wanted_N=backwards), everything.flip(0))


def count_calls(monkeypatch: pytest.MonkeyPatch, backbone: ForeignEncoder) -> Callable[[], int]:
    """How often the layers of all forwards to come ask for their attention."""
    made: list[RowsRead] = []

    def rows_read(*of_forward: Any) -> RowsRead:
        made.append(ForeignEncoder.rows_read(backbone, *of_forward))
        return made[-1]

    monkeypatch.setattr(backbone, "rows_read", rows_read, raising=False)
    return lambda: sum(rows.num_calls for rows in made)


@pytest.mark.parametrize("is_recomputed", [False, True], ids=["kept", "recomputed"])
def test_gradients_of_a_row_are_those_of_the_classes_own_loss(
    model: Any,
    is_recomputed: bool,
    documents_of: DocumentsOf,
    batch_of: BatchOf,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rows = documents_of(MMLM)[:1]
    if is_recomputed and not model.supports_gradient_checkpointing:
        with pytest.raises(InputError, match="cannot recompute"):
            backbone_of(model, activation_checkpointing=True)
        return
    model, batch = model.double(), batch_of(MMLM, rows)
    backbone = backbone_of(model, activation_checkpointing=is_recomputed, attention_dropout=0.0).train(is_recomputed)
    for module in backbone.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    calls = count_calls(monkeypatch, backbone)
    tied = tied_gradient(batch.input_ids_BS)
    states = backbone.hidden_states(batch, wanted_N=batch.predicted_N, tied=tied)
    nll_N = backbone.head(states, targets_of(batch), tied)
    nll_N.sum().backward()
    assert calls() == backbone.num_layers * (2 if is_recomputed else 1)
    total = torch.zeros((), dtype=torch.float64)
    for _, span, document in located(rows):
        ids, labels = torch.from_numpy(document.input_ids).long(), torch.full((len(document),), -100)
        labels[document.predicted] = torch.from_numpy(document.labels).long()
        loss = model(ids[None], attention_mask=torch.ones_like(ids)[None], labels=labels[None]).loss
        total = total + loss * len(document.predicted)
        assert span.stop <= 64
    total.backward()
    assert nll_N.sum().item() == pytest.approx(total.item(), rel=1e-6)
    own = {name: parameter.grad for name, parameter in model.named_parameters()}
    compared = {there: backbone.get_parameter(here).grad for here, there in backbone.names_in_class().items()}
    assert {name for name, gradient in own.items() if gradient is not None} <= {*compared}
    for name, gradient in compared.items():
        if own[name] is not None:
            torch.testing.assert_close(gradient, own[name], rtol=1e-5, atol=1e-6, msg=lambda m, n=name: f"{n}: {m}")
    assert sum(bool(gradient is not None and gradient.abs().max() > 1e-3) for gradient in compared.values()) > 10


@pytest.mark.parametrize("family", KINDS)
def test_pseudo_tokens_of_a_packed_batch_are_those_of_the_document_alone(
    family: str, documents_of: DocumentsOf, batch_of: BatchOf
) -> None:
    backbone, rows, seen = backbone_of(random_model(family)), documents_of(BTMLM, LONG), set()
    with torch.no_grad():  # so that places, all that placeholders differ in, decide
        for name, parameter in backbone.named_parameters():
            if "position_embeddings" in name:
                parameter.mul_(20)
            elif name.endswith("bias"):
                parameter.zero_()
    filled = fill_placeholders(backbone, batch_of(BTMLM, rows, 420))
    for row, span, document in located(rows):
        alone = fill_placeholders(backbone, batch_of(BTMLM, [[document]], len(document)))
        assert torch.equal(alone.input_ids_BS[0], filled.input_ids_BS[row, span])
        seen.update(alone.input_ids_BS[0, document.placeholders].tolist())
    assert len(seen) > 2, "one and the same token everywhere would prove little"


@pytest.mark.parametrize("family", KINDS)
def test_the_loss_of_a_packed_batch_is_the_sum_of_its_documents(
    family: str, documents_of: DocumentsOf, batch_of: BatchOf
) -> None:
    backbone, rows = backbone_of(random_model(family)), documents_of(CAMLM)
    request = LossRequest(torch.ones(len(LOSS_INDEX)), 1)
    loss, sums_M = backbone(batch_of(CAMLM, rows), request)
    alone = [backbone(batch_of(CAMLM, [[document]]), request)[0] for _, _, document in located(rows)]
    assert_same(loss, torch.stack(alone).sum())
    assert_same(loss.double(), sums_M[0])


# -- leaks ---------------------------------------------------------------------------------------------------------


@pytest.fixture(params=LEAKS)
def deep(request: pytest.FixtureRequest) -> ForeignEncoder:
    wide = {"local_attention": 40} if request.param == "ModernBert" else {}
    model = random_model(request.param, num_hidden_layers=12, scale=0.1, **wide)
    return backbone_of(model).double()


def test_CAMLM_masks_are_bit_equal_when_their_own_sentence_changes(deep: ForeignEncoder, camlm: PackedBatch) -> None:
    with torch.no_grad():
        before = deep.hidden_states(camlm)
        for own, masks, other_masks in ((X, MX, MY), (Y, MY, MX)):
            at_masks, at_others = is_group(camlm, 1, masks), is_group(camlm, 1, other_masks)
            elsewhere = camlm.document_BS != 1
            states = deep.hidden_states(with_other_ids(camlm, is_group(camlm, 1, own)))
            assert torch.equal(states[at_masks], before[at_masks])
            assert torch.equal(states[elsewhere], before[elsewhere])
            assert bool((states[at_others] != before[at_others]).any(-1).all()), "what may be read must be read"


def test_CAMLM_gradient_is_exactly_zero_where_nothing_may_be_learnt(deep: ForeignEncoder, camlm: PackedBatch) -> None:
    caught: list[Tensor] = []

    def catch(module: object, inputs: object, output: Tensor) -> None:
        output.retain_grad()
        caught.append(output)

    deep.words.register_forward_hook(catch)
    for own, other, masks, other_masks in ((X, Y, MX, MY), (Y, X, MY, MX)):
        states = deep.hidden_states(camlm)[is_group(camlm, 1, masks)]
        deep.head.logits(states).log_softmax(-1)[:, 7].sum().backward()
        assert caught[-1].grad is not None
        gradient = caught[-1].grad.abs().amax(-1)
        assert torch.count_nonzero(gradient[is_group(camlm, 1, own, other_masks)]) == 0
        assert torch.count_nonzero(gradient[camlm.document_BS != 1]) == 0
        assert bool((gradient[is_group(camlm, 1, other, masks)] > 0).all())


# -- windows -------------------------------------------------------------------------------------------------------


def test_sliding_windows_shorter_than_the_document_hold_in_packed_rows(documents_of: DocumentsOf, batch_of: BatchOf) -> None:
    model, rows = random_model("ModernBert"), documents_of(MMLM, LONG)
    backbone = backbone_of(model)
    assert backbone.windows == (WINDOW,)
    with torch.no_grad():
        packed = backbone.hidden_states(batch_of(MMLM, rows, 256))
        for row, span, document in located(rows):
            assert len(document) > 3 * WINDOW
            ids = torch.from_numpy(document.input_ids).long()
            own = own_states(model, ids)[-1]
            assert_same(packed[row, span], own)
            wide = own_states(random_model("ModernBert", local_attention=100), ids)[-1]
            assert (wide - own).abs().max() > 0.01, "the window must matter"


# -- a real encoder ------------------------------------------------------------------------------------------------


@pytest.mark.skipif("ERNIE_M_REAL_MODELS" not in os.environ, reason="no ERNIE_M_REAL_MODELS with a folder e5-small")
@pytest.mark.parametrize("objective", [MMLM, CAMLM], ids=lambda objective: objective.name)
def test_a_real_encoder_in_packed_rows_is_itself(objective: Objective, documents_of: DocumentsOf, batch_of: BatchOf) -> None:
    opened = open_encoder(Path(os.environ["ERNIE_M_REAL_MODELS"]) / "e5-small")
    model, rows = opened.model(AutoModel).eval(), documents_of(objective, LONG)
    backbone = backbone_of(model, name=opened.name)
    assert backbone.head_choice.value == "new"
    with torch.no_grad():
        packed = backbone.hidden_states(batch_of(objective, rows, 400))
        for row, span, document in located(rows):
            alone = backbone.hidden_states(batch_of(objective, [[document]], len(document)))[0]
            assert_same(packed[row, span], alone)
            if objective is MMLM:
                own = own_states(model, torch.from_numpy(document.input_ids).long())[-1]
                assert_same(packed[row, span], own)
