"""A document in a packed row is computed as if it were alone, in both stages of every objective."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import fields, replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from ernie_m.base.special_tokens import FIRST_PIECE_ID, mask_id
from ernie_m.models.pseudo_parallel import fill_placeholders
from ernie_m.rows.batch import Document, LossRequest, PackedBatch
from ernie_m.rows.dataloader import to_device
from ernie_m.rows.objective import SENTENCE, Objective
from ernie_m.rows.objectives import BTMLM, LOSS_INDEX, OBJECTIVE_INDEX, OBJECTIVES
from ernie_m.rows.packing import PackedRow, pack

if TYPE_CHECKING:
    from conftest import BatchOf, DocumentsOf, EncoderOf

    from ernie_m.rows.objective import Objective

CPU = torch.device("cpu")
S, VOCAB_SIZE = 64, 101


def located(rows: Sequence[Sequence[Document]]) -> Iterator[tuple[int, int, int, Document]]:
    """(row, number in the row, first position, document) of every document."""
    for row, documents in enumerate(rows):
        start = 0
        for number, document in enumerate(documents):
            yield row, number, start, document
            start += len(document)


def test_hidden_states_in_a_packed_row_are_those_of_the_document_alone(
    objective: Objective, encoder_of: EncoderOf, documents_of: DocumentsOf, batch_of: BatchOf
) -> None:
    model, rows = encoder_of(num_layers=4, seed=4), documents_of(objective)
    with torch.no_grad():
        packed = model.hidden_states(batch_of(objective, rows))
        for row, _, start, document in located(rows):
            alone = model.hidden_states(batch_of(objective, [[document]], len(document)))[0]
            assert (packed[row, start : start + len(document)] - alone).abs().max() < 1e-5
            assert alone.std() > 0.1
    assert sum(1 for _ in located(rows)) == 5


def independent(objective: Objective, rows: list[list[Document]]) -> list[list[Document]]:
    """What no other document's company may change: each document; where sentences of a row are told apart, each row."""
    if any(prediction.head == SENTENCE for prediction in objective.predictions):
        return rows
    return [[document] for row in rows for document in row]


def test_losses_of_a_packed_batch_are_those_of_its_documents_alone(
    objective: Objective, encoder_of: EncoderOf, documents_of: DocumentsOf, batch_of: BatchOf
) -> None:
    model, rows = encoder_of(num_layers=4, seed=4), documents_of(objective)
    scales = torch.linspace(0.5, 1.5, len(LOSS_INDEX))
    number, count = OBJECTIVE_INDEX[objective.name], len(objective.predictions)
    each_its_metric = [PackedRow(own, number, count * i) for i, own in enumerate(independent(objective, rows))]
    request = LossRequest(scales, num_metrics=count * len(each_its_metric))
    apart = model(to_device(pack(each_its_metric, S), CPU), request)[1].view(-1, count)
    loss, together = model(batch_of(objective, rows), LossRequest(scales, num_metrics=count))
    alone = [model(batch_of(objective, [own]), LossRequest(scales, count)) for own in independent(objective, rows)]
    torch.testing.assert_close(together, apart.sum(0), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(apart, torch.stack([nll for _, nll in alone]), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(loss, torch.stack([part for part, _ in alone]).sum(), rtol=1e-5, atol=1e-5)
    of_losses = scales[[LOSS_INDEX[prediction.loss] for prediction in objective.predictions]]
    torch.testing.assert_close(loss.double(), together @ of_losses.double(), rtol=1e-5, atol=1e-5)
    assert bool((apart[:, 0] > 0.1).all())
    assert bool((together > 0.1).all())


def test_gradients_of_a_packed_batch_are_the_sum_of_its_documents(
    objective: Objective, encoder_of: EncoderOf, documents_of: DocumentsOf, batch_of: BatchOf
) -> None:
    model, rows = encoder_of(dtype=torch.float64), documents_of(objective)
    request = LossRequest(torch.ones(len(LOSS_INDEX), dtype=torch.float64), len(objective.predictions))
    model(batch_of(objective, rows), request)[0].backward()
    packed = {name: parameter.grad.clone() for name, parameter in model.named_parameters() if parameter.grad is not None}
    model.zero_grad()
    for own in independent(objective, rows):
        model(batch_of(objective, [own]), request)[0].backward()
    for name, parameter in model.named_parameters():
        if name in packed:
            torch.testing.assert_close(parameter.grad, packed[name], rtol=1e-5, atol=1e-6)
    assert packed["layers.0.qkv.weight"].abs().max() > 1e-3


@pytest.fixture
def spread(documents_of: DocumentsOf) -> list[list[Document]]:
    """BTMLM documents in rows 0 and 2; row 1 is another objective's."""
    first, second = documents_of(BTMLM)
    return [first, documents_of(OBJECTIVES["MMLM"])[0], second]


def mixed_batch(rows: Sequence[Sequence[Document]]) -> PackedBatch:
    names = ["BTMLM", "MMLM", "BTMLM"]
    packed = [PackedRow(row, OBJECTIVE_INDEX[name], 0) for row, name in zip(rows, names, strict=True)]
    return to_device(pack(packed, S, generates=True), CPU)


def slots_of(batch: PackedBatch) -> torch.Tensor:
    where = torch.zeros(batch.input_ids_BS.numel(), dtype=torch.bool)
    where[batch.generation.slots_K.long()] = True
    return where.view_as(batch.input_ids_BS)


def test_pseudo_tokens_of_a_packed_batch_are_those_of_the_document_alone(
    encoder_of: EncoderOf, batch_of: BatchOf, spread: list[list[Document]]
) -> None:
    model, seen = encoder_of(num_layers=4, seed=4), set()
    batch = mixed_batch(spread)
    assert batch.generation.rows_R.tolist() == [0, 2]
    filled = fill_placeholders(model, batch)
    for row, _, start, document in located(spread):
        if len(document.placeholders):
            alone = fill_placeholders(model, batch_of(BTMLM, [[document]], len(document)))
            assert torch.equal(alone.input_ids_BS[0], filled.input_ids_BS[row, start : start + len(document)])
            seen.update(alone.input_ids_BS[0, document.placeholders].tolist())
    assert len(seen) > 2, "one and the same token everywhere would prove little"


def test_filling_changes_the_slots_alone(encoder_of: EncoderOf, spread: list[list[Document]]) -> None:
    batch = mixed_batch(spread)
    filled = fill_placeholders(encoder_of(num_layers=4, seed=4), batch)
    slots = slots_of(batch)
    assert int(slots.sum()) == sum(len(d.placeholders) for *_, d in located(spread)) > 0
    assert torch.equal(filled.input_ids_BS[~slots], batch.input_ids_BS[~slots])
    assert bool((batch.input_ids_BS[slots] == mask_id(VOCAB_SIZE)).all()), "the batch given in must stay as it was"
    assert bool((filled.input_ids_BS[slots] != mask_id(VOCAB_SIZE)).all())
    assert filled.input_ids_BS.dtype == batch.input_ids_BS.dtype
    others = {field.name for field in fields(batch)} - {"input_ids_BS"}
    assert all(getattr(filled, name) is getattr(batch, name) for name in others), "all other fields are the same objects"


def test_pseudo_tokens_are_never_special_even_when_these_are_likeliest(
    encoder_of: EncoderOf, spread: list[list[Document]]
) -> None:
    model = encoder_of()
    with torch.no_grad():
        model.token_head.decoder_bias[:FIRST_PIECE_ID] = 1000.0
        model.token_head.decoder_bias[mask_id(VOCAB_SIZE)] = 1000.0
    batch = mixed_batch(spread)
    pseudo = fill_placeholders(model, batch).input_ids_BS[slots_of(batch)]
    assert int(pseudo.min()) >= FIRST_PIECE_ID
    assert int(pseudo.max()) < mask_id(VOCAB_SIZE)
    for ordinary in (FIRST_PIECE_ID, mask_id(VOCAB_SIZE) - 1):  # the borders themselves can be generated
        with torch.no_grad():
            model.token_head.decoder_bias[ordinary] = 500.0
        assert bool((fill_placeholders(model, batch).input_ids_BS[slots_of(batch)] == ordinary).any())
        with torch.no_grad():
            model.token_head.decoder_bias[ordinary] = 0.0


def test_generation_reads_the_uncorrupted_sentence(
    encoder_of: EncoderOf, documents_of: DocumentsOf, batch_of: BatchOf
) -> None:
    model = encoder_of(num_layers=4, seed=4)
    one, two = (batch_of(BTMLM, documents_of(BTMLM, mask_seed=seed)) for seed in (0, 1))
    assert not torch.equal(one.input_ids_BS, two.input_ids_BS), "the masks must differ"
    assert torch.equal(one.generation.input_ids_RS, two.generation.input_ids_RS)
    filled = [fill_placeholders(model, batch) for batch in (one, two)]
    assert torch.equal(filled[0].input_ids_BS[slots_of(one)], filled[1].input_ids_BS[slots_of(two)])
    assert not torch.equal(filled[0].input_ids_BS, filled[1].input_ids_BS)


def test_stage_1_runs_on_its_own_ids_and_its_own_reads(encoder_of: EncoderOf, spread: list[list[Document]]) -> None:
    """The hidden states that fill the slots, caught on their way, against those of a batch put together here."""
    model, batch, caught = encoder_of(num_layers=4, dtype=torch.float64), mixed_batch(spread), []
    handles = [b.register_forward_hook(lambda _, inputs, output: caught.append(output)) for b in model.layers[-2:]]
    fill_placeholders(model, batch)
    for handle in handles:
        handle.remove()
    own_rows = batch_of_rows(batch, [0, 2])
    ids, reads = own_rows.input_ids_BS.clone(), own_rows.reads_BS.clone()
    labels = batch.labels_N[batch.loss_N == OBJECTIVE_INDEX["BTMLM"]]
    at = batch.predicted_N[batch.loss_N == OBJECTIVE_INDEX["BTMLM"]].long()
    ids.view(-1)[torch.where(at < S, at, at - S)] = labels  # row 2 is row 1 of these
    reads[(own_rows.group_BS == 0) & (own_rows.document_BS >= 0)] = 0b01  # the sentence reads the sentence
    with torch.no_grad():
        right = replace(own_rows, input_ids_BS=ids, reads_BS=reads)
        expected, real = model.hidden_states(right), own_rows.document_BS >= 0
        on_the_way, in_slots = caught
        assert torch.equal(on_the_way[real], model.hidden_states(right, layer=3)[real])
        slots = expected.flatten(0, 1)[batch.generation.placeholders_K.long()]
        torch.testing.assert_close(in_slots, slots, rtol=1e-12, atol=1e-12)
        assert len(slots) > 0
        for wrong in (replace(own_rows, reads_BS=reads), replace(own_rows, input_ids_BS=ids)):
            assert (model.hidden_states(wrong) - expected)[real].abs().max() > 0.01


def batch_of_rows(batch: PackedBatch, rows: list[int]) -> PackedBatch:
    """These rows of a batch, as far as attention and embeddings need them."""
    names = ("input_ids", "position_ids", "language", "document", "group", "reads", "horizon")
    return replace(batch, **{f"{name}_BS": getattr(batch, f"{name}_BS")[rows] for name in names})


def test_generation_restores_the_tokens_that_stage_2_masks(documents_of: DocumentsOf, batch_of: BatchOf) -> None:
    batch = batch_of(BTMLM, documents_of(BTMLM))
    at, labels = batch.predicted_N.long(), batch.labels_N
    assert torch.equal(batch.generation.input_ids_RS.flatten()[at], labels)
    shown = batch.input_ids_BS.flatten()[at]
    assert bool((shown != labels).any())
    untouched = torch.ones(batch.input_ids_BS.numel(), dtype=torch.bool)
    untouched[at] = False
    assert torch.equal(batch.generation.input_ids_RS.flatten()[untouched], batch.input_ids_BS.flatten()[untouched])


def test_generation_knows_its_target_language(encoder_of: EncoderOf, documents_of: DocumentsOf, batch_of: BatchOf) -> None:
    model = encoder_of(num_layers=2)
    with torch.no_grad():
        model.embeddings.language.weight.mul_(20)
    batch = batch_of(BTMLM, documents_of(BTMLM))
    slots = slots_of(batch)
    assert batch.language_BS[slots].unique().tolist() == [3]
    changed = replace(batch, language_BS=torch.where(slots, 4, batch.language_BS))
    results = [fill_placeholders(model, b).input_ids_BS[slots] for b in (batch, changed)]
    assert not torch.equal(*results)


def test_generation_is_free_of_dropout_and_gradient_and_gives_the_mode_back(
    encoder_of: EncoderOf, documents_of: DocumentsOf, batch_of: BatchOf
) -> None:
    model = encoder_of(num_layers=4, dropout=0.5)
    batch = batch_of(BTMLM, documents_of(BTMLM))
    in_evaluation = fill_placeholders(model.eval(), batch).input_ids_BS
    assert not model.training
    torch.manual_seed(0)
    in_training = fill_placeholders(model.train(), batch).input_ids_BS
    assert model.training
    assert torch.equal(in_training, in_evaluation)
    assert torch.is_grad_enabled()


def test_a_batch_without_generation_passes_untouched(
    encoder_of: EncoderOf, documents_of: DocumentsOf, batch_of: BatchOf
) -> None:
    batch = batch_of(OBJECTIVES["TLM"], documents_of(OBJECTIVES["TLM"]))
    assert batch.generation is None
    assert fill_placeholders(encoder_of(), batch) is batch


def test_a_rank_without_placeholders_takes_part_in_generation_all_the_same(
    encoder_of: EncoderOf, documents_of: DocumentsOf
) -> None:
    """Under ZeRO-3 all ranks must do the same forwards: a Generation of no slots runs the model and changes nothing."""
    rows = documents_of(OBJECTIVES["MMLM"])
    batch = to_device(pack([PackedRow(row, 0, 0) for row in rows], S, generates=True), CPU)
    assert batch.generation is not None
    assert len(batch.generation.slots_K) == 0
    model, forwards = encoder_of(), []
    model.layers[0].register_forward_hook(lambda *_: forwards.append(1))
    filled = fill_placeholders(model, batch)
    assert forwards == [1]
    assert torch.equal(filled.input_ids_BS, batch.input_ids_BS)


def test_packing_keeps_documents_and_metrics_apart(objective: Objective, documents_of: DocumentsOf) -> None:
    rows = documents_of(objective)
    number = OBJECTIVE_INDEX[objective.name]
    first_loss = LOSS_INDEX[objective.predictions[0].loss]
    batch = pack([PackedRow(row, number, 10 * i) for i, row in enumerate(rows)], S)
    for row, document_number, start, document in located(rows):
        span = slice(start, start + len(document))
        for name in ("input_ids", "position_ids", "language", "group", "reads"):
            assert np.array_equal(getattr(batch, f"{name}_BS")[row, span], getattr(document, name))
        assert (batch.document_BS[row, span] == document_number).all()
        of_document = (batch.predicted_N >= row * S + start) & (batch.predicted_N < row * S + start + len(document))
        by_head = np.argsort(document.prediction, kind="stable")
        assert np.array_equal(batch.predicted_N[of_document], row * S + start + document.predicted[by_head])
        assert np.array_equal(batch.labels_N[of_document], document.labels[by_head])
        assert np.array_equal(batch.metric_N[of_document], 10 * row + document.prediction[by_head])
        assert np.array_equal(batch.loss_N[of_document], first_loss + document.prediction[by_head])
    assert len(batch.predicted_N) == sum(len(d.predicted) for *_, d in located(rows))
