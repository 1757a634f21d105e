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
from ernie_m.models.head import Targets
from ernie_m.models.heads import HEADS, AlignedHead
from ernie_m.models.model import Encoder
from ernie_m.models.retrieval import mean_over_tokens
from ernie_m.models.sentence_head import SentenceHead, sentence_keys
from ernie_m.models.shape import ModelConfig, Pooling
from ernie_m.models.size import HEAD_SIZES, parameter_count
from ernie_m.rows.batch import Document, Example, LossRequest
from ernie_m.rows.corruption import CorruptionConfig
from ernie_m.rows.dataloader import to_device
from ernie_m.rows.layout import Layout
from ernie_m.rows.objective import HEADS as NAMES
from ernie_m.rows.objective import TOKEN
from ernie_m.rows.objectives import ALIGNLM, CAMLM, LOSS_INDEX, OBJECTIVE_INDEX, OBJECTIVES, PLM, TLM, XLCO, heads_of
from ernie_m.rows.packing import PackedRow, pack

if TYPE_CHECKING:
    from conftest import BatchOf, DocumentsOf, EncoderOf

SHAPE = ModelConfig(num_layers=2, hidden_size=32, num_heads=4, ffn_size=64, vocab_size=101, num_languages=4)


def request(num_metrics: int = 1) -> LossRequest:
    return LossRequest(torch.ones(len(LOSS_INDEX), dtype=torch.float64), num_metrics)


def cut(document: Document, start: int, stop: int) -> Document:
    """Its positions [start, stop); nothing is predicted there."""
    asked = ("predicted", "labels", "prediction", "num_sources", "sources", "placeholders")
    columns = {f.name: getattr(document, f.name) for f in fields(Document)}
    return Document(**{name: column[:0] if name in asked else column[start:stop] for name, column in columns.items()})


def test_both_rooms_have_the_same_heads() -> None:
    assert tuple(HEADS) == tuple(HEAD_SIZES) == NAMES


@pytest.mark.parametrize(
    ("heads", "pooling"),
    [
        (None, None),
        (("sentence",), None),
        (("sentence",), "mean"),
        (("token", "sentence"), "first"),
        (("aligned",), None),
        (("token", "aligned"), None),
    ],
)
def test_sizes_are_those_of_the_modules(heads: tuple[str, ...] | None, pooling: Pooling | None) -> None:
    model = Encoder(replace(SHAPE, heads=heads, pooling=pooling))
    assert parameter_count(model.config) == sum(parameter.numel() for parameter in model.parameters())
    for name, head in model.heads.items():
        own = [p for n, p in head.named_parameters() if n != "decoder_weight"]
        assert HEAD_SIZES[name].parameters(model.config) == sum(parameter.numel() for parameter in own)
        matrices = sum(p.numel() for p in head.parameters() if p.dim() == 2)
        assert HEAD_SIZES[name].flops(model.config) == 6 * matrices, "a prediction passes each matrix once, and twice back"


def sentences_of(document: Document) -> list[slice]:
    """The positions of each of its sentences, special tokens included."""
    first, second = document.predicted.tolist()
    return [slice(first, second), slice(second, len(document))]


def nll_by_hand(model: Encoder, rows: list[list[Document]], batch_of: BatchOf) -> list[float]:
    """Sentence by sentence, in plain Python: states of a document alone, cosines, softmax over the row's others.

    Others of pairs that share a sentence with the own one are left out.
    """
    head, expected = model.heads["sentence"], []
    assert isinstance(head, SentenceHead)
    for row in rows:
        vectors, partners, pairs = [], [], []
        for document in row:
            hidden = model.hidden_states(batch_of(XLCO, [[document]]))[0]
            texts = [tuple(document.input_ids[sentence].tolist()) for sentence in sentences_of(document)]
            for sentence in sentences_of(document):
                states = hidden[sentence]
                pooled = states.mean(dim=0) if head.pooling == "mean" else states[0]
                vectors.append(F.normalize(head.projection(pooled), dim=-1))
                pairs.append({*texts})
            partners += [len(vectors) - 1, len(vectors) - 2]
        for i, partner in enumerate(partners):
            others = [j for j in range(len(vectors)) if j != i and (j == partner or not pairs[i] & pairs[j])]
            scores = {j: (vectors[i] @ vectors[j]).item() / head.TEMPERATURE for j in others}
            expected.append(math.log(sum(math.exp(s - scores[partner]) for s in scores.values())))
    return expected


@pytest.mark.parametrize("pooling", [None, "first", "mean"])
def test_XLCO_is_a_choice_among_the_other_sentences_of_its_row(
    pooling: Pooling | None, encoder_of: EncoderOf, documents_of: DocumentsOf, batch_of: BatchOf
) -> None:
    model, rows = encoder_of(dtype=torch.float64, seed=1, pooling=pooling), documents_of(XLCO)
    expected = nll_by_hand(model, rows, batch_of)
    _, nll_M = model(batch_of(XLCO, rows), request())
    assert nll_M.item() == pytest.approx(sum(expected), rel=1e-9)
    assert len(expected) == 10
    assert min(expected) > 0.001


@pytest.mark.parametrize("pooling", ["first", "mean"])
def test_what_XLCO_compares_is_what_the_encoder_gives_without_us(
    pooling: Pooling, encoder_of: EncoderOf, documents_of: DocumentsOf, batch_of: BatchOf
) -> None:
    """A sentence alone in a batch, pooled as retrieval pools it, is the vector in the packed row: forward and gradient."""
    model, rows = encoder_of(dtype=torch.float64, pooling=pooling), documents_of(XLCO)
    batch, seen = batch_of(XLCO, rows), []
    model.heads["sentence"].projection.register_forward_hook(lambda module, inputs, output: seen.append(output))
    model(batch, request())
    alone = []
    for document in (document for row in rows for document in row):
        for sentence in sentences_of(document):
            hidden = model.hidden_states(batch_of(XLCO, [[cut(document, sentence.start, sentence.stop)]]))
            length = sentence.stop - sentence.start
            whole = mean_over_tokens(hidden, (torch.arange(hidden.shape[1]) < length).long()[None])[0]
            alone.append(whole if pooling == "mean" else hidden[0, 0])
    torch.testing.assert_close(seen[0], torch.stack(alone))
    weights = torch.linspace(-1, 1, seen[0].numel(), dtype=torch.float64).view_as(seen[0])
    for ours, theirs in zip(*(torch.autograd.grad((of * weights).sum(), [*model.layers.parameters()])
                              for of in (seen[0], torch.stack(alone))), strict=True):  # fmt: skip
        torch.testing.assert_close(ours, theirs)


def repeated() -> list[Document]:
    """A row of pairs: a b, a c, d b, e f, a b once more, and g h. Only e f and g h share no sentence with another."""
    lengths = {"a": 5, "b": 5, "c": 7, "d": 4, "e": 5, "f": 5, "g": 5, "h": 6}
    drawn = np.random.default_rng(4)
    text = {name: drawn.integers(4, 100, n, dtype=np.int32) for name, n in lengths.items()}
    layout = Layout(XLCO, CorruptionConfig(), Specials.xlm_r(101))
    pairs = ("ab", "ac", "db", "ef", "ab", "gh")
    return [layout.lay_out(Example((text[x], text[y]), (1, 2)), key=n) for n, (x, y) in enumerate(pairs)]


@pytest.mark.parametrize("pooling", [None, "mean"])
def test_repeats_of_either_side_are_no_negatives(
    pooling: Pooling | None, encoder_of: EncoderOf, documents_of: DocumentsOf, batch_of: BatchOf
) -> None:
    model, row = encoder_of(dtype=torch.float64, pooling=pooling), repeated()
    rows = [row, documents_of(XLCO)[0]]
    expected = nll_by_hand(model, rows, batch_of)
    batch = batch_of(XLCO, rows, 128)
    _, nll_M = model(batch, request())
    assert nll_M.item() == pytest.approx(sum(expected), rel=1e-9)
    naive = nll_by_hand(model, [[row[0], row[3]]], batch_of)
    assert expected[:2] != pytest.approx(naive[:2], rel=1e-3), "g h is a negative, the repeats are not"


def test_sentences_have_one_key_if_and_only_if_their_tokens_are_the_same(
    documents_of: DocumentsOf, batch_of: BatchOf
) -> None:
    batch = batch_of(XLCO, [repeated(), *documents_of(XLCO)], 128)
    keys = sentence_keys(batch.predicted_N, batch).tolist()
    texts = []
    for position in batch.predicted_N.tolist():
        row, column = divmod(position, 128)
        same = (batch.document_BS[row] == batch.document_BS[row, column]) & (
            batch.group_BS[row] == batch.group_BS[row, column]
        )
        texts.append(tuple(batch.input_ids_BS[row][same].tolist()))
    assert len({*texts}) == len({*keys}) == len({*zip(texts, keys, strict=True)}) == 18
    assert len(texts) == 22


def test_the_order_of_tokens_counts_in_a_key(batch_of: BatchOf) -> None:
    layout = Layout(XLCO, CorruptionConfig(), Specials.xlm_r(101))
    x, y = np.array([7, 8, 9, 10], np.int32), np.array([7, 9, 8, 10], np.int32)
    batch = batch_of(
        XLCO, [[layout.lay_out(Example((x, y), (1, 2)), key=0), layout.lay_out(Example((y, x), (1, 2)), key=1)]]
    )
    first, second, third, fourth = sentence_keys(batch.predicted_N, batch).tolist()
    assert first == fourth != second == third


@pytest.mark.parametrize("pooling", [None, "mean"])
def test_where_nothing_repeats_the_look_for_repeats_changes_no_bit(
    pooling: Pooling | None, encoder_of: EncoderOf, documents_of: DocumentsOf, batch_of: BatchOf
) -> None:
    model, batch = encoder_of(pooling=pooling), batch_of(XLCO, documents_of(XLCO))
    head = model.heads["sentence"]
    assert isinstance(head, SentenceHead)
    targets = Targets(batch.predicted_N, batch.labels_N, 64, batch)
    states = model.hidden_states(batch, wanted_N=head.wants(targets))
    looked = head(states, targets)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ernie_m.models.sentence_head.shares_a_sentence", lambda *_: torch.tensor(False))
        assert torch.equal(head(states, targets), looked)


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
    model = encoder_of(dtype=torch.float64)
    rows = [(objective, row) for pair in zip(documents_of(CAMLM), documents_of(XLCO), strict=True)
            for objective, row in zip((CAMLM, XLCO), pair, strict=True)]  # fmt: skip
    packed = [PackedRow(row, OBJECTIVE_INDEX[o.name], number) for number, (o, row) in enumerate(rows)]
    batch = to_device(pack(packed, 64), torch.device("cpu"))
    assert dict(batch.head_sizes) == {"token": int((batch.loss_N == LOSS_INDEX["CAMLM"]).sum()), "sentence": 10}
    _, nll_M = model(batch, request(4))
    alone = [model(batch_of(o, [row]), request())[1].item() for o, row in rows]
    assert nll_M.tolist() == pytest.approx(alone, rel=1e-6)


def test_a_head_with_nothing_to_predict_takes_part_with_a_zero_gradient(
    encoder_of: EncoderOf, documents_of: DocumentsOf, batch_of: BatchOf
) -> None:
    """Under ZeRO-3 every rank must run every module, forward and backward."""
    for objective, idle, pooling in ((CAMLM, "sentence", None), (CAMLM, "sentence", "mean"), (XLCO, TOKEN, "mean")):
        model = encoder_of(pooling=pooling)
        loss, _ = model(batch_of(objective, documents_of(objective)), LossRequest(torch.ones(len(LOSS_INDEX)), 1))
        loss.backward()
        for name, parameter in model.heads[idle].named_parameters():
            assert parameter.grad is not None, name
            if name != "decoder_weight":
                assert not parameter.grad.any(), name


def test_labels_of_sentences_hold_wherever_a_document_is_put(documents_of: DocumentsOf) -> None:
    rows = documents_of(XLCO)
    batch = pack([PackedRow(row, OBJECTIVE_INDEX["XLCO"], 0) for row in rows], 64)
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
    head = SentenceHead(32)
    targets = Targets(torch.tensor([0, 9]), torch.tensor([9, -9]), 64)
    assert head(torch.randn(2, 32), targets).tolist() == [0.0, 0.0]


def aligned_nll(model: Encoder, document: Document, batch_of: BatchOf) -> list[torch.Tensor]:
    """Equations 5 to 8 of arXiv 2106.01732, prediction by prediction, from the document alone."""
    head, words = model.heads["aligned"], model.embeddings.word.weight
    assert isinstance(head, AlignedHead)
    hidden, found, sources = model.hidden_states(batch_of(ALIGNLM, [[document]]))[0], [], document.sources.tolist()
    for number, count, label in zip(document.prediction, document.num_sources, document.labels, strict=True):
        own, sources = sources[:count], sources[count:]
        assert bool(own) == (number == 1)
        if number == 1:
            summed = sum(hidden[place] for place in own)
            through = head.transfer.weight @ summed + head.transfer.bias
            through = head.norm(F.gelu(head.dense.weight @ through + head.dense.bias))
            found.append(-(words @ through + head.decoder_bias).log_softmax(-1)[int(label)])
    return found


def test_AlignLM_is_the_loop_over_its_equations_forward_and_gradient(
    encoder_of: EncoderOf, documents_of: DocumentsOf, batch_of: BatchOf
) -> None:
    model, rows = encoder_of(dtype=torch.float64, seed=2), documents_of(ALIGNLM)
    weights = torch.ones(len(LOSS_INDEX), dtype=torch.float64)
    weights[LOSS_INDEX["AlignLM"]] = 0
    batch = batch_of(ALIGNLM, rows)
    assert batch.sources is not None
    assert int((batch.sources.counts_N > 1).sum()) > 1, "sums of several states"
    loss, nll_M = model(batch, LossRequest(weights, 2))
    loss.backward()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None and p.grad.any()}
    model.zero_grad()
    by_hand = [nll for row in rows for document in row for nll in aligned_nll(model, document, batch_of)]
    torch.stack(by_hand).sum().backward()
    assert nll_M[1].item() == pytest.approx(sum(nll.item() for nll in by_hand), rel=1e-9)
    assert len(by_hand) == dict(batch.head_sizes)["aligned"] > 8
    for name, parameter in model.named_parameters():
        if name in gradients:
            torch.testing.assert_close(gradients[name], parameter.grad, rtol=1e-5, atol=1e-7)
        else:
            assert parameter.grad is None or not parameter.grad.any(), name
    assert {"heads.aligned.transfer.weight", "embeddings.word.weight", "layers.0.qkv.weight"} <= {*gradients}


def test_AlignLM_is_TLM_beside_its_links(encoder_of: EncoderOf, documents_of: DocumentsOf, batch_of: BatchOf) -> None:
    """The monolingual prediction is TLM's; and it has the same masks."""
    model = encoder_of(dtype=torch.float64)
    one, other = batch_of(ALIGNLM, documents_of(ALIGNLM)), batch_of(TLM, documents_of(TLM))
    assert torch.equal(one.input_ids_BS, other.input_ids_BS)
    assert model(one, request(2))[1][0].item() == pytest.approx(model(other, request())[1].item(), rel=1e-12)


def test_a_masked_token_without_a_link_has_no_bilingual_loss(documents_of: DocumentsOf) -> None:
    documents = [document for row in documents_of(ALIGNLM) for document in row]
    num_masked, num_linked = (sum(int((d.prediction == n).sum()) for d in documents) for n in (0, 1))
    assert 0 < num_linked < num_masked
    for document in documents:
        masked, linked = ({*document.predicted[document.prediction == n].tolist()} for n in (0, 1))
        assert linked <= masked
        groups = np.repeat(document.group[document.predicted], document.num_sources)
        assert (document.group[document.sources] != groups).all(), "links go to the other sentence, never to itself"


def test_two_heads_add_up_in_the_gradient_of_the_tied_matrix(
    encoder_of: EncoderOf, documents_of: DocumentsOf, batch_of: BatchOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    gradients = []
    for tied in (True, False):
        if not tied:
            monkeypatch.setattr("ernie_m.models.pretraining.tied_gradient", lambda _: None)
        model = encoder_of(dtype=torch.float64)
        model(batch_of(ALIGNLM, documents_of(ALIGNLM)), request(2))[0].backward()
        gradients.append(model.embeddings.word.weight.grad)
    torch.testing.assert_close(*gradients)


def test_a_factor_of_a_stream_is_that_of_its_nll(encoder_of: EncoderOf, documents_of: DocumentsOf) -> None:
    model, number = encoder_of(dtype=torch.float64), OBJECTIVE_INDEX["AlignLM"]
    packed = [PackedRow(row, number, 2 * metric) for metric, row in enumerate(documents_of(ALIGNLM))]
    batch, factors = to_device(pack(packed, 64), torch.device("cpu")), torch.tensor([1.0, 0.3, 1.0, 0.0])
    loss, nll_M = model(batch, replace(request(4), weights_M=factors))
    assert loss.item() == pytest.approx(float(nll_M @ factors.double()), rel=1e-6)
    assert float(nll_M.min()) > 1
