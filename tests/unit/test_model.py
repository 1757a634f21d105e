"""The encoder's own promises: initialisation, embeddings, checkpointing, the head."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import torch

from ernie_m.base.console import InputError
from ernie_m.base.special_tokens import FIRST_PIECE_ID
from ernie_m.models.head import Targets
from ernie_m.models.model import Encoder
from ernie_m.models.shape import ModelConfig, longest_document
from ernie_m.rows.batch import LossRequest
from ernie_m.rows.objectives import BTMLM, CAMLM, LOSS_INDEX, MMLM

if TYPE_CHECKING:
    from conftest import BatchOf, DocumentsOf, EncoderOf

SHAPE = {"num_layers": 2, "hidden_size": 32, "num_heads": 4, "ffn_size": 64, "vocab_size": 101, "num_languages": 4}


def test_initialisation_is_drawn_from_the_seed_as_the_paper_says() -> None:
    config = ModelConfig(**SHAPE)
    one, same, other = (Encoder(config).initialise(seed).state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(one[name], same[name]) for name in one)
    for name, weight in one.items():
        if "norm." in name:
            assert (weight == (1.0 if name.endswith("weight") else 0.0)).all(), name
        elif name.endswith("bias") or "language" in name:
            assert (weight == 0).all(), name
        else:
            assert weight.std().item() == pytest.approx(0.02, rel=0.15), name
            assert not torch.equal(weight, other[name]), name
    assert (one["embeddings.word.weight"][1] == 0).all()
    assert (one["embeddings.position.weight"][1] == 0).all()


def test_the_output_matrix_is_the_word_embedding() -> None:
    model = Encoder(ModelConfig(**SHAPE))
    assert model.token_head.decoder_weight is model.embeddings.word.weight
    names = [name for name, _ in model.named_parameters()]
    assert len(names) == len(set(names))
    assert "heads.token.decoder_weight" not in names


@pytest.mark.parametrize(("which", "changed"), [("masked", "masks"), ("all", "tokens"), ("none", "nothing")])
def test_the_language_embedding_goes_where_the_configuration_says(
    which: str, changed: str, encoder_of: EncoderOf, documents_of: DocumentsOf, batch_of: BatchOf
) -> None:
    model = encoder_of(language_embedding=which)
    batch = batch_of(MMLM, documents_of(MMLM))
    inputs = (batch.input_ids_BS, batch.position_ids_BS)
    with torch.no_grad():
        differs = (model.embeddings(*inputs, batch.language_BS) != model.embeddings(*inputs, batch.language_BS * 0)).any(-1)
    masks = batch.input_ids_BS == 100
    assert 0 < int(masks.sum()) < masks.numel() / 4
    expected = {"masks": masks, "tokens": batch.language_BS > 0, "nothing": torch.zeros_like(masks)}
    assert torch.equal(differs, expected[changed])


def test_activation_checkpointing_changes_no_number(
    encoder_of: EncoderOf, documents_of: DocumentsOf, batch_of: BatchOf
) -> None:
    batch, request = batch_of(CAMLM, documents_of(CAMLM)), LossRequest(torch.ones(len(LOSS_INDEX)), 1)
    gradients = []
    for checkpointing in (False, True):
        model = encoder_of(activation_checkpointing=checkpointing)
        model(batch, request)[0].backward()
        gradients.append({name: parameter.grad for name, parameter in model.named_parameters()})
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-5, atol=1e-6)
    assert gradients[0]["layers.0.qkv.weight"].abs().max() > 1e-4


def test_hidden_states_behind_each_layer_are_those_on_the_way(
    encoder_of: EncoderOf, documents_of: DocumentsOf, batch_of: BatchOf
) -> None:
    model, batch = encoder_of(num_layers=3), batch_of(CAMLM, documents_of(CAMLM))
    on_the_way: list[torch.Tensor] = []
    for block in [model.embeddings, *model.layers]:
        block.register_forward_hook(lambda module, inputs, output: on_the_way.append(output))
    with torch.no_grad():
        last = model.hidden_states(batch)
        wanted = on_the_way[:4]
        found = [model.hidden_states(batch, layer) for layer in range(4)]
    assert all(torch.equal(a, b) for a, b in zip(wanted, found, strict=True))
    assert torch.equal(last, found[3])


@pytest.mark.parametrize("checkpointing", [False, True])
def test_positions_that_nobody_wants_cost_the_last_layer_no_feed_forward_and_change_no_number(
    encoder_of: EncoderOf, documents_of: DocumentsOf, batch_of: BatchOf, checkpointing: bool
) -> None:
    model, batch = encoder_of(num_layers=2, activation_checkpointing=checkpointing), batch_of(CAMLM, documents_of(CAMLM))
    widths: list[list[int]] = [[], []]
    for block, seen in zip(model.layers, widths, strict=True):
        block.ffn_in.register_forward_hook(lambda module, inputs, output, seen=seen: seen.append(output[..., 0].numel()))
    everywhere = batch.input_ids_BS.numel()
    wanted = batch.predicted_N.long()
    alone = model.hidden_states(batch, wanted_N=batch.predicted_N)
    assert (widths[0][0], widths[1][0]) == (everywhere, len(wanted))
    assert len(wanted) < everywhere
    of_all = model.hidden_states(batch).flatten(0, 1)[wanted]
    torch.testing.assert_close(alone, of_all, rtol=1e-5, atol=1e-6)
    factor = torch.linspace(-1, 1, alone.numel()).view_as(alone)
    parameters = [p for name, p in model.named_parameters() if not name.startswith("head")]
    found = torch.autograd.grad((alone * factor).sum(), parameters, allow_unused=True)
    expected = torch.autograd.grad((of_all * factor).sum(), parameters, allow_unused=True)
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours.to_dense(), theirs.to_dense(), rtol=1e-4, atol=1e-5)
        assert theirs.to_dense().abs().max() > 0


def test_the_head_alone_agrees_with_the_logits(encoder_of: EncoderOf, documents_of: DocumentsOf, batch_of: BatchOf) -> None:
    model, batch = encoder_of(), batch_of(BTMLM, documents_of(BTMLM))
    with torch.no_grad():
        hidden = model.hidden_states(batch).flatten(0, 1)[batch.predicted_N.long()]
        logits = model.token_head.logits(hidden)
        nll = model.token_head(hidden, Targets(batch.predicted_N, batch.labels_N, batch.input_ids_BS.shape[1]))
        assert torch.equal(model.token_head(hidden), logits[:, 4:100].argmax(-1).int() + 4)
    expected = -logits.log_softmax(-1).gather(1, batch.labels_N.long()[:, None])[:, 0]
    torch.testing.assert_close(nll, expected, rtol=1e-5, atol=1e-5)


def test_generation_by_slices_of_the_vocabulary_is_generation_at_once(
    encoder_of: EncoderOf, documents_of: DocumentsOf, batch_of: BatchOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, batch = encoder_of(), batch_of(BTMLM, documents_of(BTMLM))
    with torch.no_grad():
        at_once = model(batch)
        for logits in (1, 7 * len(at_once), 50 * len(at_once)):  # one word at a time, 14 slices of 7, 2 of 50
            monkeypatch.setattr("ernie_m.models.heads.logits_at_a_time", lambda device, most=logits: most)
            assert torch.equal(model(batch), at_once)
        for parameter in (model.token_head.decoder_weight, model.token_head.decoder_bias):
            parameter.zero_()
        assert (model(batch) == 4).all(), "the first piece of equals"
    assert at_once.dtype == torch.int32
    assert len(at_once) > 4


def test_loss_weighs_each_objective_by_its_scale(
    encoder_of: EncoderOf, documents_of: DocumentsOf, batch_of: BatchOf
) -> None:
    model = encoder_of()
    mixed = batch_of(CAMLM, documents_of(CAMLM))
    number = torch.arange(len(mixed.predicted_N)) % 2 * 2  # MMLM's and CAMLM's in turn
    mixed = replace(mixed, loss_N=number.int(), metric_N=(number // 2).int())
    scales = torch.tensor([0.5, 9.0, 2.0, 9.0, 9.0, 9.0, 9.0])
    loss, nll = model(mixed, LossRequest(scales, 2))
    assert loss.item() == pytest.approx((0.5 * nll[0] + 2 * nll[1]).item(), rel=1e-5)
    assert not nll.requires_grad


def test_the_shape_takes_what_the_data_says() -> None:
    config = ModelConfig(num_layers=2, hidden_size=32, num_heads=4, ffn_size=64)
    assert config.vocab == 250_002
    resolved = config.resolved(101, 4)
    assert (resolved.vocab, resolved.num_languages) == (101, 4)
    assert resolved.resolved(101, 4) == resolved
    with pytest.raises(InputError, match=r"vocab_size: 101; expected 102, the data's"):
        resolved.resolved(102, 4)
    with pytest.raises(InputError, match=r"num_languages: 4; expected 5, the data's"):
        resolved.resolved(101, 5)
    assert longest_document(config) == 512


@pytest.mark.parametrize(
    ("key", "value"),
    [("num_layers", 0), ("num_heads", 7), ("dropout", 1.0), ("attention_dropout", -0.1), ("hidden_size", -12)],
)
def test_shapes_that_make_no_sense_are_refused(key: str, value: float) -> None:
    with pytest.raises(InputError, match=f"^{key}|num_heads"):
        ModelConfig(**{key: value})


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_generation_tells_words_apart_that_are_alike_in_half_precision(dtype: torch.dtype, encoder_of: EncoderOf) -> None:
    """Of a vocabulary of close words the one that is likeliest in fp64 is written, not the first of those that tie."""
    head = encoder_of(dtype, vocab_size=2001).token_head
    rng = torch.Generator().manual_seed(0)
    with torch.no_grad():
        head.decoder_weight.copy_(1 + 0.002 * torch.randn(head.decoder_weight.shape, generator=rng))
        head.decoder_bias.zero_()
        hidden_ND = (1 + torch.rand(64, head.decoder_weight.shape[1], generator=rng)).to(dtype)
        piece_N = head._likeliest(hidden_ND)
        logits_NV = (hidden_ND.double() @ head.decoder_weight.double().t())[:, FIRST_PIECE_ID:-1]
    chosen_N = logits_NV.gather(1, piece_N[:, None] - FIRST_PIECE_ID)[:, 0]
    torch.testing.assert_close(chosen_N, logits_NV.amax(-1), rtol=1e-6, atol=0)
