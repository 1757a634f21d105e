"""Attention in pieces is attention with the dense mask, forward and gradient."""

from __future__ import annotations

from dataclasses import replace
from itertools import accumulate
from typing import TYPE_CHECKING

import pytest
import torch

from ernie_m.models import row_pieces
from ernie_m.models.attention import attend, build_mask
from ernie_m.models.pseudo_parallel import fill_placeholders
from ernie_m.models.row_pieces import RowPieces
from ernie_m.rows.batch import LossRequest, PackedBatch
from ernie_m.rows.objectives import BTMLM, MMLM, Objective

if TYPE_CHECKING:
    from conftest import BatchOf, DocumentsOf, EncoderOf, StagesOf

S = 256
LENGTHS = (((90, 20),), ((50, 3), (30, 40), (5, 5)), ((4, 3), (7, 9), (2, 2), (30, 30)), ((20, 20),) * 3)


@pytest.fixture(params=[1, 30, 80], ids=lambda least: f"pieces of {least} and more")
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


def pieces_of(batch: PackedBatch) -> RowPieces:
    pieces = build_mask("pieces", batch)
    assert isinstance(pieces, RowPieces)
    return pieces


def test_pieces_hold_all_that_the_dense_mask_holds(batch: PackedBatch, stages_of: StagesOf) -> None:
    for stage in stages_of(batch):
        pieces, dense = pieces_of(stage), build_mask("sdpa", stage)
        assert sum(pieces.lengths) == stage.document_BS.numel()
        found = torch.block_diag(*(mask[0, 0] for mask in pieces.masks))
        assert torch.equal(found, torch.block_diag(*dense[:, 0]))


def test_pieces_are_as_short_as_borders_allow_and_not_shorter(batch: PackedBatch) -> None:
    documents = batch.document_BS.flatten()
    ends = list(accumulate(pieces_of(batch).lengths))
    for start, end in zip([0, *ends], ends, strict=False):
        is_end_of_row = end % S == 0
        assert is_end_of_row or documents[end - 1] != documents[end]
        assert is_end_of_row or end - start >= row_pieces.LEAST
        inner = range(start + row_pieces.LEAST, end)
        assert all(documents[position - 1] == documents[position] for position in inner), "cut later than it might be"


def test_pieces_attend_as_the_dense_mask_does_forward_and_gradient(batch: PackedBatch, stages_of: StagesOf) -> None:
    rng = torch.Generator().manual_seed(0)
    for stage in stages_of(batch):
        shape = (len(stage.document_BS), S, 3, 2, 16)
        qkv, factor = (torch.randn(*shape, generator=rng, dtype=torch.float64) for _ in range(2))
        results = []
        for backend in ("sdpa", "pieces"):
            leaf = qkv.clone().requires_grad_()
            out = attend(*leaf.permute(2, 0, 3, 1, 4), build_mask(backend, stage), 0.0)
            (out * factor[:, :, 0].transpose(1, 2)).sum().backward()
            assert leaf.grad is not None
            results.append((out.detach(), leaf.grad))
        torch.testing.assert_close(results[1], results[0], rtol=1e-10, atol=1e-12)
        assert results[0][1].abs().max() > 0.1


def test_rows_are_left_whole_where_pieces_save_less_than_half(documents_of: DocumentsOf, batch_of: BatchOf) -> None:
    batch = batch_of(MMLM, documents_of(MMLM), S)
    by_half = torch.arange(S).div(S // 2, rounding_mode="floor").expand_as(batch.document_BS).int()
    later = torch.where(torch.arange(S) < S // 2 + 1, 0, 1).expand_as(batch.document_BS).int()
    halves, unequal = (replace(batch, document_BS=document_BS) for document_BS in (by_half, later))
    assert pieces_of(halves).lengths == [S // 2] * 2 * len(batch.document_BS)
    assert torch.equal(build_mask("pieces", unequal), build_mask("sdpa", unequal))


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
    assert len(pieces_of(batch).lengths) > len(batch.document_BS)
    results = []
    for backend in ("sdpa", "pieces"):
        model = encoder_of(attention=backend, max_positions=S + 2, activation_checkpointing=checkpointing).double()
        filled = fill_placeholders(model, batch)
        loss, _ = model(filled, LossRequest(torch.ones(5), 2))
        loss.backward()
        results.append((filled.input_ids_BS, loss.detach(), *(parameter.grad for parameter in model.parameters())))
    torch.testing.assert_close(results[1], results[0], rtol=1e-6, atol=1e-6)
