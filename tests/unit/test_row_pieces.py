"""Attention in pieces is attention with the dense mask, forward and gradient."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import torch

from ernie_m.models import row_pieces
from ernie_m.models.attention import attend, build_mask
from ernie_m.models.pseudo_parallel import fill_placeholders
from ernie_m.models.row_pieces import Places, RowPieces
from ernie_m.rows.batch import LossRequest, PackedBatch
from ernie_m.rows.halves import halves_of
from ernie_m.rows.objective import Objective
from ernie_m.rows.objectives import BTMLM, MMLM, MT

if TYPE_CHECKING:
    from conftest import BatchOf, DocumentsOf, EncoderOf, StagesOf

S = 256
LENGTHS = (((90, 20),), ((50, 3), (30, 40), (5, 5)), ((4, 3), (7, 9), (2, 2), (30, 30)), ((20, 20),) * 3)


@pytest.fixture(params=[4, 30, 80], ids=lambda least: f"pieces of {least} and more")
def batch(
    request: pytest.FixtureRequest,
    objective: Objective,
    documents_of: DocumentsOf,
    batch_of: BatchOf,
    monkeypatch: pytest.MonkeyPatch,
) -> PackedBatch:
    monkeypatch.setattr(row_pieces, "LEAST", request.param)
    monkeypatch.setattr(row_pieces, "MOST", 1.0)
    return batch_of(objective, documents_of(objective, LENGTHS), S)


def pieces_of(batch: PackedBatch, **parts: range) -> RowPieces:
    pieces = build_mask("pieces", batch, **parts)
    assert isinstance(pieces, RowPieces)
    return pieces


def positions_of(places: Places) -> torch.Tensor:
    """The flat position of each place; -1 where it is empty."""
    return places.position_M.index_fill(0, places.empty, -1)


def read_by_flat_positions(pieces: RowPieces, num_queries: int, num_keys: int) -> torch.Tensor:
    """Who reads whom of all rows' positions, bool."""
    found = torch.zeros(num_queries, num_keys, dtype=torch.bool)
    sizes = [mask.shape[0] * mask.shape[2] for mask in pieces.masks]
    sides = (positions_of(places).split(sizes) for places in (pieces.queries, pieces.keys))
    for queries, keys, mask in zip(*sides, pieces.masks, strict=True):
        assert mask.any(-1).all(), "a softmax over nothing"
        for row, query, key in mask[:, 0].nonzero().tolist():
            of_query, of_key = (int(side.view(len(mask), -1)[row, at]) for side, at in ((queries, query), (keys, key)))
            assert of_query < 0 or of_key >= 0, "a token reads an empty place"
            if of_query >= 0:
                found[of_query, of_key] = True
    return found


def test_pieces_hold_all_that_the_dense_mask_holds(batch: PackedBatch, stages_of: StagesOf) -> None:
    is_real = (batch.document_BS >= 0).flatten()
    for stage in stages_of(batch):
        dense = torch.block_diag(*build_mask("sdpa", stage)[:, 0]) & is_real[:, None]
        assert torch.equal(read_by_flat_positions(pieces_of(stage), len(is_real), len(is_real)), dense)


def test_places_and_positions_are_each_others(batch: PackedBatch) -> None:
    places = pieces_of(batch).queries
    is_real = (batch.document_BS >= 0).flatten()
    rows = torch.randn(len(is_real), 3)
    filled = places.filled(rows)
    assert (filled[places.empty] == 0).all()
    assert torch.equal(places.returned(filled), torch.where(is_real[:, None], rows, 0))


def test_pieces_are_as_short_as_documents_allow_and_well_filled(batch: PackedBatch) -> None:
    pieces, documents = pieces_of(batch), batch.document_BS + 100 * torch.arange(len(batch.document_BS))[:, None]
    lengths = {int(x): int((documents == x).sum()) for x in documents[batch.document_BS >= 0].unique()}
    sizes = [mask.shape[0] * mask.shape[2] for mask in pieces.masks]
    widths = [mask.shape[2] for mask in pieces.masks]
    assert widths == sorted(set(widths), reverse=True)
    for width, positions in zip(widths, positions_of(pieces.queries).split(sizes), strict=True):
        for piece in positions.view(-1, width):
            of_piece = [int(x) for x in documents.flatten()[piece[piece >= 0]].unique()]
            assert len(piece[piece >= 0]) == sum(lengths[x] for x in of_piece), "documents are whole"
            longest = max(lengths[x] for x in of_piece)
            assert width <= row_pieces.LEAST or width < 1.5 * longest + row_pieces.ROUND
        filled = (positions.view(-1, width) >= 0).sum(1)
        assert (2 * filled <= width).sum() <= 1, "two of these would have been one"


def test_pieces_attend_as_the_dense_mask_does_forward_and_gradient(batch: PackedBatch, stages_of: StagesOf) -> None:
    rng, is_real = torch.Generator().manual_seed(0), batch.document_BS >= 0
    for stage in stages_of(batch):
        shape = (len(stage.document_BS), S, 3, 2, 16)
        qkv, factor = (torch.randn(*shape, generator=rng, dtype=torch.float64) for _ in range(2))
        results = []
        for backend in ("sdpa", "pieces"):
            leaf = qkv.clone().requires_grad_()
            out = attend(*leaf.permute(2, 0, 3, 1, 4), build_mask(backend, stage), 0.0).transpose(1, 2)
            (out * factor[:, :, 0])[is_real].sum().backward()
            assert leaf.grad is not None
            results.append((out.detach()[is_real], leaf.grad))
        torch.testing.assert_close(results[1], results[0], rtol=1e-10, atol=1e-12)
        assert results[0][1].abs().max() > 0.1


@pytest.mark.parametrize("least", [4, 32])
@pytest.mark.parametrize("parts", [(0, 0), (1, 1), (1, 0)], ids=["sources", "targets", "across"])
def test_pieces_of_halves_attend_as_the_dense_mask_does_forward_and_gradient(
    parts: tuple[int, int], least: int, documents_of: DocumentsOf, batch_of: BatchOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(row_pieces, "LEAST", least)
    batch = batch_of(MT, documents_of(MT, (((9, 30), (40, 7), (5, 5)), ((4, 3), (7, 9), (2, 2), (30, 30)))), S)
    queries, keys = (halves_of(S)[part] for part in parts)
    pieces, dense = (build_mask(x, batch, queries=queries, keys=keys) for x in ("pieces", "sdpa"))
    assert isinstance(pieces, RowPieces)
    is_real = batch.document_BS[:, queries.start : queries.stop] >= 0
    whole = torch.block_diag(*dense[:, 0]) & is_real.flatten()[:, None]
    assert torch.equal(read_by_flat_positions(pieces, len(whole), len(whole)), whole)
    rng = torch.Generator().manual_seed(0)
    tensors = [torch.randn(len(dense), 2, S // 2, 16, generator=rng, dtype=torch.float64) for _ in range(3)]
    results = []
    for mask in (dense, pieces):
        leaves = [tensor.clone().requires_grad_() for tensor in tensors]
        out = attend(*leaves, mask, 0.0).transpose(1, 2)[is_real]
        (out * out.detach().cos()).sum().backward()
        results.append([out.detach(), *(leaf.grad for leaf in leaves)])
    torch.testing.assert_close(results[1], results[0], rtol=1e-10, atol=1e-12)
    assert all(float(part.abs().max()) > 0.1 for part in results[0][1:])


def test_rows_are_left_whole_where_pieces_save_too_little_and_where_all_is_padding(
    documents_of: DocumentsOf, batch_of: BatchOf
) -> None:
    batch = batch_of(MMLM, documents_of(MMLM), S)

    def cut_in(parts: int) -> PackedBatch:
        numbers = torch.arange(S).div(S // parts, rounding_mode="floor")
        return replace(batch, document_BS=numbers.expand_as(batch.document_BS).int())

    assert [mask.shape for mask in pieces_of(cut_in(4)).masks] == [(4 * len(batch.document_BS), 1, S // 4, S // 4)]
    for whole in (cut_in(2), replace(batch, document_BS=torch.full_like(batch.document_BS, -1))):
        assert torch.equal(build_mask("pieces", whole), build_mask("sdpa", whole))


@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_models_loss_and_gradient_are_the_same_in_pieces(
    checkpointing: bool,
    encoder_of: EncoderOf,
    documents_of: DocumentsOf,
    batch_of: BatchOf,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(row_pieces, "LEAST", 10)
    monkeypatch.setattr(row_pieces, "MOST", 1.0)
    batch = batch_of(BTMLM, documents_of(BTMLM, LENGTHS), S)
    assert sum(len(mask) for mask in pieces_of(batch).masks) > len(batch.document_BS)
    results = []
    for backend in ("sdpa", "pieces"):
        model = encoder_of(attention=backend, max_positions=S + 2, activation_checkpointing=checkpointing).double()
        filled = fill_placeholders(model, batch)
        loss, _ = model(filled, LossRequest(torch.ones(5), 2))
        loss.backward()
        results.append((filled.input_ids_BS, loss.detach(), *(parameter.grad for parameter in model.parameters())))
    torch.testing.assert_close(results[1], results[0], rtol=1e-6, atol=1e-6)
