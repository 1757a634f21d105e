"""What is taken as a backbone and what is refused, in one line; heads; what a backbone says of itself."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
import transformers
from torch import Tensor, nn
from transformers import AutoModelForMaskedLM, BertConfig, BertForMaskedLM

from ernie_m.base.console import InputError
from ernie_m.models.backbones import rule as rule_module
from ernie_m.models.backbones.encoder import ForeignEncoder
from ernie_m.models.backbones.rule import NAME, OtherAttentionError, RowsRead, attend_by_rule
from ernie_m.rows.batch import LossRequest
from ernie_m.rows.objective import SENTENCE, TOKEN
from ernie_m.rows.objectives import CAMLM, LOSS_INDEX, MMLM, TLM
from tests.backbone_fixtures import FAMILIES, SHAPE, VOCAB_SIZE, WINDOW, backbone_of, own_states, random_model, targets_of

if TYPE_CHECKING:
    from conftest import BatchOf, DocumentsOf

BEHIND_PADDING = {"XLMRoberta", "Roberta", "Camembert", "XLMRobertaXL", "RobertaPreLayerNorm", "Data2VecText"}


@pytest.mark.parametrize("family", FAMILIES)
def test_a_backbone_says_what_rows_must_know_of_it(family: str) -> None:
    backbone = backbone_of(random_model(family))
    assert (backbone.width, backbone.num_layers, backbone.vocab_size, backbone.head_size) == (32, 4, VOCAB_SIZE, 8)
    first = 2 if family in BEHIND_PADDING else 0
    assert (backbone.first_position, backbone.longest_document) == (first, 130 - first)
    assert backbone.windows == ((WINDOW,) if family == "ModernBert" else ())


# -- refused -------------------------------------------------------------------------------------------------------


class BroughtAlong(BertForMaskedLM):
    """As a folder with Python code brings its class."""

    __module__ = "transformers_modules.somebody.model"


def decoder() -> Any:
    return random_model("Bert", "LMHeadModel", is_decoder=True)


def encoder_decoder() -> Any:
    return random_model(
        "Bart", "Model", d_model=32, encoder_layers=1, decoder_layers=1, encoder_ffn_dim=8, decoder_ffn_dim=8
    )


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (decoder, "model type bert: a decoder, whose tokens"),
        (lambda: random_model("Llama", "ForCausalLM"), "model type llama: a decoder"),
        (encoder_decoder, "model type bart: an encoder with a decoder behind it"),
        (lambda: BroughtAlong(BertConfig(**SHAPE)), "its Python code is not transformers' own"),
        (lambda: random_model("DebertaV2"), "model type deberta-v2: its layers compute attention by themselves"),
        (lambda: random_model("MPNet"), "model type mpnet: its layers compute attention by themselves"),
        (lambda: random_model("RemBert"), "model type rembert: its layers compute attention by themselves"),
        (lambda: random_model("Xmod"), "model type xmod: Input language unknown"),
        (
            lambda: random_model("Esm", mask_token_id=3),
            "model type esm: the states of a document change when another",
        ),
    ],
    ids=["decoder", "llama", "bart", "code", "deberta", "mpnet", "rembert", "xmod", "esm"],
)
def test_what_the_rule_cannot_be_carried_into_is_refused_in_one_line(made: Any, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        ForeignEncoder(made(), name="somebody/model")
    assert str(caught.value).startswith("somebody/model: ")
    assert "expected an encoder" in str(caught.value)
    assert "\n" not in str(caught.value)


def everybody(rows: RowsRead, window: int | None) -> Tensor:
    num_rows, length = rows.batch.document_BS.shape
    return torch.ones(num_rows, 1, length, length, dtype=torch.bool)


def without_windows(rows: RowsRead, window: int | None) -> Any:
    return rule_module.build_mask("sdpa", rows.batch)


def one_too_wide(rows: RowsRead, window: int | None) -> Any:
    return rule_module.build_mask("sdpa", rows.batch, window and window + 1)


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (everybody, "documents of one row read each other"),
        (without_windows, "change when another stands before it"),
        (one_too_wide, "change when another stands before it"),
    ],
)
def test_a_rule_that_does_not_arrive_is_noticed(mask: Any, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = random_model("ModernBert")
    monkeypatch.setattr(RowsRead, "mask", mask)
    with pytest.raises(InputError, match=message):
        ForeignEncoder(model)


def test_positions_that_do_not_arrive_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    for family in ("Bert", "EuroBert"):
        model = random_model(family)
        plain = type(model.base_model).forward

        def without_positions(self: Any, *inputs: Any, plain: Any = plain, **keywords: Any) -> Any:
            keywords.pop("position_ids", None)
            return plain(self, *inputs, **keywords)

        with monkeypatch.context() as patched:
            patched.setattr(type(model.base_model), "forward", without_positions)
            with pytest.raises(InputError, match="change when another stands before it"):
                ForeignEncoder(model)


def test_layers_that_do_not_ask_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    model = random_model("Bert")
    monkeypatch.setattr(model.bert.encoder.layer[1], "forward", lambda hidden, *_, **__: hidden)
    with pytest.raises(InputError, match="3 of its 4 layers call our attention function"):
        ForeignEncoder(model)
    alone = backbone_of(random_model("Bert"))
    with pytest.raises(OtherAttentionError, match="does not reach its layers"):
        alone.encoder(torch.ones(1, 3, dtype=torch.long))


@pytest.mark.parametrize("scaling", [None, 0.125, 0.3])
def test_attention_is_scaled_as_the_layer_asks_and_keys_are_shared_by_groups_of_heads(
    scaling: float | None, documents_of: DocumentsOf, batch_of: BatchOf
) -> None:
    batch, rng = batch_of(CAMLM, documents_of(CAMLM)), torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(2, heads, 64, 16, generator=rng) for heads in (4, 2, 2))
    rows = RowsRead(batch, "sdpa", 0.0)
    attended, _ = attend_by_rule(nn.Identity(), query, key, value, None, scaling=scaling, ernie_m_rows=rows)
    key, value = (tensor[:, [0, 0, 1, 1]] for tensor in (key, value))
    scores = (query @ key.transpose(-1, -2)) * (0.25 if scaling is None else scaling)
    expected = scores.masked_fill(~rows.mask(None), -torch.inf).softmax(-1) @ value
    torch.testing.assert_close(attended, expected.transpose(1, 2), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "brought", [{"position_bias": torch.zeros(1)}, {"softcap": 30.0}, {"attention_mask": torch.ones(1)}]
)
def test_layers_that_bring_more_than_the_rule_carries_are_refused(
    brought: dict[str, Any], documents_of: DocumentsOf, batch_of: BatchOf
) -> None:
    rows, states = RowsRead(batch_of(MMLM, documents_of(MMLM)), "sdpa", 0.0), torch.zeros(2, 1, 64, 8)
    keywords = {"attention_mask": None, "ernie_m_rows": rows, **brought}
    with pytest.raises(OtherAttentionError, match="its layers bring"):
        attend_by_rule(nn.Identity(), states, states, states, **keywords)


def test_a_model_is_tried_without_dropout_and_stays_in_its_mode() -> None:
    model = random_model("XLMRoberta").train()
    backbone = ForeignEncoder(model)
    assert model.training
    assert backbone.encoder.training
    assert model.config._attn_implementation == NAME


def test_a_skeleton_without_weights_says_what_it_is() -> None:
    config = random_model("ModernBert").config
    with torch.device("meta"):
        model = transformers.ModernBertForMaskedLM(config)
    backbone = ForeignEncoder(model)
    assert (backbone.vocab_size, backbone.windows, backbone.words.weight.is_meta) == (VOCAB_SIZE, (WINDOW,), True)


# -- heads ---------------------------------------------------------------------------------------------------------


def test_a_model_without_head_gets_one_that_is_tied_to_its_words_and_drawn_from_the_seed(
    documents_of: DocumentsOf, batch_of: BatchOf
) -> None:
    for family in ("Bert", "Albert", "EuroBert"):
        model = random_model(family, "Model")
        backbone, again, other = (backbone_of(model, seed=seed) for seed in (1, 1, 2))
        assert str(backbone.head_choice) == "token head: new (the model has no masked-language head)"
        assert backbone.head.decoder_weight is backbone.words.weight
        dense, same, another = (
            next(part.weight for part in of.head.transform.modules() if isinstance(part, nn.Linear))
            for of in (backbone, again, other)
        )
        assert torch.equal(dense, same)
        assert not torch.equal(dense, another)
        batch = batch_of(MMLM, documents_of(MMLM))
        nll_N = backbone.head(backbone.hidden_states(batch, wanted_N=batch.predicted_N), targets_of(batch))
        nll_N.sum().backward()
        assert backbone.words.weight.grad.abs().max() > 1e-3
        assert not [
            name
            for name in backbone.names_in_class()
            if name.startswith(("heads.token.transform", "heads.token.decoder_bias"))
        ]


def test_a_head_that_is_not_known_is_replaced_and_that_is_said() -> None:
    model = random_model("Ernie")
    model.config.model_type = "something-new"
    choice = backbone_of(model).head_choice
    assert (choice.value, choice.reason) == ("new", "how ErnieForMaskedLM names its parts is not known here")


def test_parameters_stand_once_and_under_the_names_of_the_class() -> None:
    for family in FAMILIES:
        backbone = backbone_of(random_model(family))
        names = backbone.names_in_class()
        assert {*names} == {name for name, _ in backbone.named_parameters()}
        unused = {name for name, _ in backbone.whole.named_parameters()} - {*names.values()}
        assert not unused, f"{family}: {unused}"


def test_a_pooler_that_no_loss_reaches_is_left_as_it_is(documents_of: DocumentsOf, batch_of: BatchOf) -> None:
    backbone, batch = backbone_of(random_model("XLMRoberta", "Model")), batch_of(MMLM, documents_of(MMLM))
    assert backbone.hidden_states(batch, wanted_N=batch.predicted_N[:0]).shape == (0, 32), "though it looks at the first"
    assert not any(parameter.requires_grad for parameter in backbone.encoder.pooler.parameters())
    assert backbone.words.weight.requires_grad


def test_the_whole_model_is_saved_as_it_was_trained(tmp_path: Path, documents_of: DocumentsOf, batch_of: BatchOf) -> None:
    rows = documents_of(MMLM)
    for family in ("Bert", "ModernBert"):
        backbone, batch = backbone_of(random_model(family)), batch_of(MMLM, rows)
        optimizer = torch.optim.SGD(backbone.parameters(), 0.1)
        backbone.head(backbone.hidden_states(batch, wanted_N=batch.predicted_N), targets_of(batch)).mean().backward()
        optimizer.step()
        backbone.whole.save_pretrained(tmp_path / family)
        assert NAME not in (tmp_path / family / "config.json").read_text(encoding="utf-8")
        there = AutoModelForMaskedLM.from_pretrained(tmp_path / family).eval()
        own = own_states(there, torch.from_numpy(rows[0][0].input_ids).long())[-1]
        with torch.no_grad():
            trained = backbone.hidden_states(batch)[0, : len(own)]
        torch.testing.assert_close(trained, own, rtol=1e-5, atol=1e-5)
        assert (
            trained - own_states(random_model(family), torch.from_numpy(rows[0][0].input_ids).long())[-1]
        ).abs().max() > 0.01


# -- dropout -------------------------------------------------------------------------------------------------------


def test_dropout_of_attention_is_the_models_unless_told_otherwise(documents_of: DocumentsOf, batch_of: BatchOf) -> None:
    model = random_model("Bert", attention_probs_dropout_prob=0.5, hidden_dropout_prob=0.0)
    batch = batch_of(CAMLM, documents_of(CAMLM))
    own, none = backbone_of(model), backbone_of(model, attention_dropout=0.0)
    assert (own.attention_dropout, none.attention_dropout) == (0.5, 0.0)
    with torch.no_grad():
        expected = none.hidden_states(batch)
        assert torch.equal(none.train().hidden_states(batch), expected)
        assert not torch.equal(own.train().hidden_states(batch), expected)
        assert torch.equal(own.eval().hidden_states(batch), expected)
    with pytest.raises(InputError, match="attention=flex: not possible here"):
        backbone_of(model, attention="flex")


# -- what training needs of every class -----------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_every_parameter_gets_a_gradient_and_a_pooler_is_none(
    family: str, documents_of: DocumentsOf, batch_of: BatchOf
) -> None:
    """ZeRO waits for the gradients of all parameters."""
    model = random_model(family, "Model")
    has_pooler = any("pooler" in name for name, _ in model.named_parameters())
    backbone = backbone_of(model, heads=(TOKEN, SENTENCE)).train()
    assert bool(backbone.constants) == has_pooler
    batch = batch_of(TLM, documents_of(TLM))
    loss, _ = backbone(batch, LossRequest(torch.ones(len(LOSS_INDEX)), 1))
    loss.backward()
    assert [name for name, parameter in backbone.named_parameters() if parameter.grad is None] == []
    assert {*backbone.whole.state_dict()} == {*model.state_dict()}, "a pooler is saved all the same"


@pytest.mark.parametrize("suffix", ["Model", "ForMaskedLM"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_class_whose_parameters_alone_are_bf16_trains(
    family: str, suffix: str, documents_of: DocumentsOf, batch_of: BatchOf
) -> None:
    """DeepSpeed casts these and no buffer: a pooler that is none keeps its type, and must not meet the states."""
    backbone, batch = backbone_of(random_model(family, suffix, scale=0.1)), batch_of(TLM, documents_of(TLM))
    request = LossRequest(torch.ones(len(LOSS_INDEX)), 1)
    with torch.no_grad():
        expected, _ = backbone(batch, request)
    for parameter in backbone.parameters():
        parameter.data = parameter.data.bfloat16()
    loss, _ = backbone(batch, request)
    loss.backward()
    assert loss.item() == pytest.approx(expected.item(), rel=0.02)
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in backbone.parameters())


@pytest.mark.parametrize("family", FAMILIES)
def test_dropout_of_zero_is_none_in_any_class(family: str, documents_of: DocumentsOf, batch_of: BatchOf) -> None:
    model, batch = random_model(family), batch_of(MMLM, documents_of(MMLM))
    with torch.no_grad():
        still = backbone_of(model, dropout=0.0, attention_dropout=0.0).train()
        assert torch.equal(still.hidden_states(batch), still.hidden_states(batch))
        if family == "EuroBert":
            with pytest.raises(InputError, match=r"model.dropout: 0.5; .* has no dropout of hidden states"):
                backbone_of(model, dropout=0.5)
            return
        moved = backbone_of(model, dropout=0.5, attention_dropout=0.0).train()
        assert not torch.equal(moved.hidden_states(batch), moved.hidden_states(batch))


@pytest.mark.parametrize("family", ["ModernBert", "EuroBert", "NomicBert"])
def test_angles_of_rotary_positions_stay_fp32(family: str) -> None:
    backbone = backbone_of(random_model(family))
    before = {name: buffer.clone() for name, buffer in backbone.named_buffers() if "inv_freq" in name}
    assert before
    backbone.bfloat16()
    after = dict(backbone.named_buffers())
    assert all(torch.equal(after[name], buffer) for name, buffer in before.items())
    assert backbone.words.weight.dtype == torch.bfloat16


def test_new_heads_follow_from_the_seed_alone() -> None:
    def drawn(seed: int) -> list[Tensor]:
        torch.rand(3)
        heads = backbone_of(random_model("Bert", "Model"), heads=(TOKEN, SENTENCE), seed=seed).heads
        return [p.detach() for name, p in heads.named_parameters() if "decoder_weight" not in name]

    state = torch.get_rng_state()
    first, again, other = drawn(1), drawn(1), drawn(2)
    assert all(map(torch.equal, first, again))
    assert not all(map(torch.equal, first, other))
    torch.set_rng_state(state)
    backbone_of(random_model("Bert", "Model"), heads=(TOKEN, SENTENCE))
    assert torch.equal(state, torch.get_rng_state()), "nobody else's numbers change"
