"""Rows of two halves and the model that translates: who reads whom, packed as alone, as transformers' encoder-decoder."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.nn.attention.flex_attention import flex_attention
from transformers import EncoderDecoderModel, XLMRobertaConfig, XLMRobertaForCausalLM, XLMRobertaModel

from ernie_m.base.special_tokens import BOS_ID, EOS_ID, PAD_ID
from ernie_m.interop.export import hugging_face_config
from ernie_m.interop.layout import XLM_ROBERTA
from ernie_m.models import block_mask
from ernie_m.models.attention import attend, build_mask
from ernie_m.models.block_mask import judged_blocks
from ernie_m.models.shape import ModelConfig
from ernie_m.models.size import parameter_count
from ernie_m.models.translation import TranslationModel
from ernie_m.rows.batch import Document, LossRequest, PackedBatch
from ernie_m.rows.dataloader import DataConfig, PretrainingData
from ernie_m.rows.half_rows import place_pairs, turned
from ernie_m.rows.halves import halves_of
from ernie_m.rows.objective import Objective
from ernie_m.rows.objectives import LOSS_INDEX, MT, OBJECTIVES, PLM
from ernie_m.rows.packing import NO_ROW
from ernie_m.rows.read_pairs import pairs_read
from ernie_m.rows.row_source import RowSettings, RowSource
from ernie_m.rows.schedule import Schedule, StageConfig

if TYPE_CHECKING:
    from conftest import BatchOf, DocumentsOf

    from ernie_m.corpus.folder import CorpusFolder

S = 64
ROWS = (((7, 5), (4, 9), (1, 1)), ((12, 3), (5, 5)))  # sentence lengths without <s> and </s>
SHAPE = {"num_layers": 2, "hidden_size": 32, "num_heads": 4, "ffn_size": 64, "max_positions": 66, "dropout": 0.0}
SOURCE, TARGET = halves_of(S)
PARTS = {"sources": (SOURCE, SOURCE), "targets": (TARGET, TARGET), "across": (TARGET, SOURCE)}
REQUEST = LossRequest(torch.ones(len(LOSS_INDEX)), num_metrics=1)


def translation_model(decoder: str = "separate", **shape: object) -> TranslationModel:
    """A small one, all its weights drawn at random."""
    config = ModelConfig(**{**SHAPE, "vocab_size": 101, "num_languages": 4, "decoder": decoder, **shape})  # type: ignore[arg-type]
    model = TranslationModel(config).eval()
    rng = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.empty(parameter.shape).normal_(0, 0.15, generator=rng)
            parameter.copy_(1 + noise if name.endswith("norm.weight") else noise)
    return model


@pytest.fixture
def packed(documents_of: DocumentsOf, batch_of: BatchOf) -> PackedBatch:
    return batch_of(MT, documents_of(MT, ROWS), S)


def places(half: int) -> list[list[tuple[int, int]]]:
    """(pair, index in its sentence) at each position of a half, by the lengths alone; (-1, 0) for padding."""
    rows = []
    for row in ROWS:
        own = [(pair, i) for pair, lengths in enumerate(row) for i in range(lengths[half] + 2)]
        rows.append(own + [(-1, 0)] * (S // 2 - len(own)))
    return rows


def oracle(name: str) -> np.ndarray:
    query_half, key_half = {"sources": (0, 0), "targets": (1, 1), "across": (1, 0)}[name]
    mask = np.zeros((len(ROWS), 1, S // 2, S // 2), bool)
    for row, (queries, keys) in enumerate(zip(places(query_half), places(key_half), strict=True)):
        for q, (pair, index) in enumerate(queries):
            for k, (other, other_index) in enumerate(keys):
                is_past = name != "targets" or other_index <= index
                padding_reads = k == 0 if name == "across" else q == k
                mask[row, 0, q, k] = padding_reads if pair < 0 else pair == other and is_past
    return mask


@pytest.mark.parametrize("name", PARTS)
def test_each_attention_reads_what_the_oracle_says(name: str, packed: PackedBatch) -> None:
    queries, keys = PARTS[name]
    found = np.asarray(build_mask("sdpa", packed, queries=queries, keys=keys))
    assert np.array_equal(found, oracle(name))
    assert (np.asarray(packed.document_BS) < 0).any(axis=1).all(), "each row has padding"


def test_pairs_that_are_read_are_counted_over_both_halves(packed: PackedBatch) -> None:
    expected = 0
    for name in PARTS:
        is_real = np.array([[pair >= 0 for pair, _ in row] for row in places(0 if name == "sources" else 1)])
        expected += int((oracle(name)[:, 0] & is_real[:, :, None]).sum())
    assert pairs_read(packed.map(np.asarray)) == expected


def test_one_stack_reads_rows_of_halves_as_the_whole_rule_says(packed: PackedBatch) -> None:
    mask = build_mask("sdpa", packed)
    across = np.asarray(mask)[:, :, S // 2 :, : S // 2]
    assert np.array_equal(across & (np.asarray(packed.document_BS)[:, None, S // 2 :, None] >= 0), across)
    assert across.any()


LENGTHS = (((150, 120),), ((90, 60), (40, 90), (5, 5)), ((4, 3), (7, 9)))


@pytest.mark.parametrize("length", [512, 400])
@pytest.mark.parametrize("block", [128, 8])
def test_blocks_across_are_judged_safely(
    length: int, block: int, documents_of: DocumentsOf, batch_of: BatchOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(block_mask, "BLOCK", block)
    batch = batch_of(MT, documents_of(MT, LENGTHS), length)
    source, target = halves_of(length)
    for queries, keys in ((source, source), (target, target), (target, source)):
        dense = build_mask("sdpa", batch, queries=queries, keys=keys)[:, 0]
        beyond = -dense.shape[-1] % block
        blocks = F.pad(dense, (0, beyond, 0, beyond)).unflatten(2, (-1, block)).unflatten(1, (-1, block))
        some, everything = blocks.any(-1).any(2), blocks.all(-1).all(2)
        partial, full = judged_blocks(batch, None, queries, keys)
        assert not (partial & full).any()
        assert not (some & ~(partial | full)).any(), "a block is skipped that is read"
        assert not (full & ~everything).any(), "a block is called full that is not"
        assert block == 128 or not (partial | full).all(), "something is skipped"


@pytest.mark.filterwarnings("ignore")
def test_flex_reads_across_as_the_dense_mask(documents_of: DocumentsOf, batch_of: BatchOf) -> None:
    batch = batch_of(MT, documents_of(MT, LENGTHS), 512)
    source, target = halves_of(512)
    rng = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(3, 2, 256, 16, generator=rng) for _ in range(3))
    flex, dense = (build_mask(backend, batch, queries=target, keys=source) for backend in ("flex", "sdpa"))
    with torch.no_grad():
        torch.testing.assert_close(
            flex_attention(query, key, value, block_mask=flex), attend(query, key, value, dense, 0.0), rtol=1e-5, atol=1e-5
        )


# -- the model -----------------------------------------------------------------------------------------------------


def located(rows: list[list[Document]]) -> list[tuple[int, int, Document, slice, slice]]:
    """(row, number, document, its source's and its target's places in the row)."""
    found = []
    for row, documents in enumerate(rows):
        starts = [0, S // 2]
        for number, document in enumerate(documents):
            sizes = [int((document.group == group).sum()) for group in (0, 1)]
            source, target = (slice(start, start + size) for start, size in zip(starts, sizes, strict=True))
            found.append((row, number, document, source, target))
            starts = [start + size for start, size in zip(starts, sizes, strict=True)]
    return found


@pytest.mark.parametrize("attention", ["sdpa", "pieces"])
def test_states_in_packed_halves_are_those_of_the_pair_alone(
    attention: str, packed: PackedBatch, documents_of: DocumentsOf, batch_of: BatchOf
) -> None:
    model = translation_model(attention=attention)
    with torch.no_grad():
        states = model.hidden_states(packed)
        for row, _, document, source, target in located(documents_of(MT, ROWS)):
            width = 2 * max(source.stop - source.start, target.stop - target.start)
            alone = model.hidden_states(batch_of(MT, [[document]], width))[0]
            for half, part in ((0, source), (width // 2, target)):
                own = alone[half : half + part.stop - part.start]
                assert (states[row, part] - own).abs().max() < 1e-5
                assert own.std() > 0.1


def _renamed(weights: dict[str, torch.Tensor], side: str, names: dict[str, tuple[str, ...]]) -> dict[str, torch.Tensor]:
    parts = {ours: weights[f"{side}.{ours}"].chunk(len(theirs)) for ours, theirs in names.items()}
    return {name: part for ours in names for name, part in zip(names[ours], parts[ours], strict=True)}


def theirs_of(model: TranslationModel) -> EncoderDecoderModel:
    """transformers' encoder-decoder of XLM-R's classes with our weights."""
    keys = {**hugging_face_config(model.config), "type_vocab_size": 1, "attn_implementation": "eager"}
    encoder = XLMRobertaModel(XLMRobertaConfig(**keys), add_pooling_layer=False)
    decoder = XLMRobertaForCausalLM(XLMRobertaConfig(**keys, is_decoder=True, add_cross_attention=True))
    weights = dict(model.state_dict())
    names = XLM_ROBERTA.encoder_names(model.num_layers)
    of_encoder = _renamed(weights, "encoder", names)
    of_decoder = _renamed(weights, "decoder", XLM_ROBERTA.with_prefix(names))
    of_encoder["embeddings.token_type_embeddings.weight"] = torch.zeros(1, model.config.hidden_size)
    of_decoder["roberta.embeddings.token_type_embeddings.weight"] = torch.zeros(1, model.config.hidden_size)
    of_decoder |= {to: weights[ours] for ours, to in XLM_ROBERTA.head.items()}
    of_decoder["lm_head.decoder.weight"] = weights["decoder.embeddings.word.weight"]
    of_decoder["lm_head.decoder.bias"] = weights["heads.token.decoder_bias"]
    for i, kind in itertools.product(range(model.num_layers), ("weight", "bias")):
        layer, own = f"roberta.encoder.layer.{i}.crossattention", f"decoder.layers.{i}.across_"
        key, value = weights[f"{own}key_value.{kind}"].chunk(2)
        query, out, norm = (weights[f"{own}{name}.{kind}"] for name in ("query", "out", "norm"))
        of_decoder |= {
            f"{layer}.self.query.{kind}": query,
            f"{layer}.self.key.{kind}": key,
            f"{layer}.self.value.{kind}": value,
        }
        of_decoder |= {f"{layer}.output.dense.{kind}": out, f"{layer}.output.LayerNorm.{kind}": norm}
    encoder.load_state_dict(of_encoder)
    decoder.load_state_dict(of_decoder)
    return EncoderDecoderModel(encoder=encoder, decoder=decoder).eval()


@pytest.mark.filterwarnings("ignore")
def test_packed_losses_and_gradients_are_those_of_transformers_one_pair_at_a_time(
    documents_of: DocumentsOf, batch_of: BatchOf
) -> None:
    model = translation_model(language_embedding="none")
    theirs, rows = theirs_of(model), documents_of(MT, ROWS)
    batch = batch_of(MT, rows, S)
    loss, _ = model(batch, REQUEST)
    loss.backward()
    their_loss, count = torch.zeros(()), 0
    for _, _, document, _, _ in located(rows):
        source, target = (torch.from_numpy(document.input_ids[document.group == group]).long()[None] for group in (0, 1))
        assert (source[0, 0], source[0, -1], target[0, 0], target[0, -1]) == (BOS_ID, EOS_ID, BOS_ID, EOS_ID)
        logits = theirs(source, decoder_input_ids=target[:, :-1]).logits[0]
        their_loss = their_loss + F.cross_entropy(logits, target[0, 1:], reduction="sum")
        count += target.shape[1] - 1
    their_loss.backward()
    assert len(batch.labels_N) == count
    torch.testing.assert_close(loss, their_loss, rtol=1e-5, atol=1e-4)
    ours, own = dict(model.named_parameters()), dict(theirs.named_parameters(remove_duplicate=False))
    for name, to in (
        ("encoder.embeddings.position.weight", "encoder.embeddings.position_embeddings.weight"),
        ("encoder.embeddings.word.weight", "encoder.embeddings.word_embeddings.weight"),
        ("decoder.embeddings.word.weight", "decoder.roberta.embeddings.word_embeddings.weight"),
        ("encoder.layers.0.ffn_in.weight", "encoder.encoder.layer.0.intermediate.dense.weight"),
        ("decoder.layers.0.across_query.weight", "decoder.roberta.encoder.layer.0.crossattention.self.query.weight"),
        ("decoder.layers.1.across_norm.weight", "decoder.roberta.encoder.layer.1.crossattention.output.LayerNorm.weight"),
        ("heads.token.dense.weight", "decoder.lm_head.dense.weight"),
    ):
        gradient, expected = ours[name].grad, own[to].grad
        assert gradient is not None
        assert expected is not None
        assert expected.norm() > 1e-3, name
        kept = torch.arange(len(expected)) != PAD_ID if "embeddings" in name else slice(None)
        assert (gradient[kept] - expected[kept]).norm() < 1e-4 * expected.norm(), name


@pytest.mark.parametrize("decoder", ["separate", "shared"])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_gradients_are_plain_torchs_with_embeddings_separate_or_shared(
    decoder: str, checkpointing: bool, packed: PackedBatch
) -> None:
    model = translation_model(decoder, activation_checkpointing=checkpointing)
    assert sum(p.numel() for p in model.parameters()) == parameter_count(model.config)
    plain = translation_model(decoder)
    loss, _ = model(packed, REQUEST)
    loss.backward()
    logits = plain.token_head.logits(plain.hidden_states(packed).flatten(0, 1))[packed.predicted_N.long()]
    F.cross_entropy(logits, packed.labels_N.long(), reduction="sum").backward()
    for (name, parameter), expected in zip(model.named_parameters(), plain.parameters(), strict=True):
        assert parameter.grad is not None, name
        torch.testing.assert_close(parameter.grad, expected.grad, rtol=1e-4, atol=1e-5, msg=name)


def test_no_state_knows_of_a_later_target_or_of_another_pair(packed: PackedBatch) -> None:
    model, position = translation_model(), S // 2 + 3  # the fourth target token of the first pair
    with torch.no_grad():
        before = model.hidden_states(packed)
        ids = packed.input_ids_BS.clone()
        ids[0, position] = 77 if ids[0, position] != 77 else 78
        changed = (model.hidden_states(replace(packed, input_ids_BS=ids)) != before).any(-1)
        assert torch.equal(changed[1], torch.zeros(S, dtype=torch.bool))
        own = torch.zeros(S, dtype=torch.bool)
        own[position : S // 2 + ROWS[0][0][1] + 2] = True
        assert torch.equal(changed[0], own), "from there on to its end, and nothing else, sources included"
        ids = packed.input_ids_BS.clone()
        ids[0, 2] = 77 if ids[0, 2] != 77 else 78  # a source token of the first pair
        changed = (model.hidden_states(replace(packed, input_ids_BS=ids)) != before).any(-1)
        own[:] = False
        own[: ROWS[0][0][0] + 2] = own[S // 2 : S // 2 + ROWS[0][0][1] + 2] = True
        assert torch.equal(changed[0] & (packed.document_BS[0] >= 0), own), "padding reads the first source of all"


def test_entries_that_would_let_a_source_know_its_target_are_refused() -> None:
    with pytest.raises(ValueError, match="Y reaches X"):
        Objective("BAD", 2, "none", ("X", "Y"), {"X": "X Y", "Y": "X Y"}, MT.predictions, ("Y",), halves=True)
    with pytest.raises(ValueError, match="expected a pair, no corruption, and its second sentence causal"):
        Objective("BAD", 2, "none", ("X", "Y"), {"X": "X", "Y": "Y"}, OBJECTIVES["XLCO"].predictions, halves=True)


# -- rows ----------------------------------------------------------------------------------------------------------


def sides(rng: np.random.Generator, count: int, ratio: float) -> np.ndarray:
    """Lengths of pairs whose second language is `ratio` times as long."""
    first = np.clip(rng.lognormal(2.4, 0.5, count), 1, 90)
    second = np.clip(first * ratio * rng.uniform(0.7, 1.4, count), 1, 100)
    return np.stack([first, second], axis=1).astype(np.int64) + 2


@pytest.mark.parametrize("ratio", [0.7, 1.0, 1.4])
def test_both_halves_are_full_though_one_language_is_longer(ratio: float) -> None:
    pairs, half = sides(np.random.default_rng(3), 800, ratio), 128
    num_rows = -(-int(pairs.sum()) // int(2 * half * 0.98))
    rows = place_pairs(pairs, half, num_rows)
    assert (rows == NO_ROW).mean() < 0.005
    totals = np.zeros((num_rows, 2), np.int64)
    for row in range(num_rows):
        own = pairs[rows == row]
        own = np.where(turned(own)[:, None], own[:, ::-1], own)
        totals[row] = own.sum(axis=0)
    assert totals.max() <= half
    assert (totals.mean(axis=0) / half > 0.95).all(), totals.mean(axis=0)


def test_each_pair_comes_once_an_epoch_and_over_epochs_in_both_directions(corpus_folder: CorpusFolder) -> None:
    stream = corpus_folder.parallel()[0]
    settings = RowSettings(256, corpus_folder.manifest.specials, DataConfig().corruption, seed=0)
    source = RowSource(MT, stream, corpus_folder.language_ids, settings)
    seen: dict[tuple[bytes, ...], list[tuple[int, ...]]] = {}
    for visit in range(4 * source.rows_per_epoch):
        examples = source.examples(visit)
        texts = np.split(examples.tokens_T, np.cumsum(examples.lengths_EC.ravel())[:-1])
        assert (source.layout.sides(examples.lengths_EC).sum(axis=0) <= 128).all()
        for e, languages in enumerate(examples.languages_EC.tolist()):
            pair = {language: texts[2 * e + side].tobytes() for side, language in enumerate(languages)}
            seen.setdefault(tuple(pair[language] for language in sorted(pair)), []).append(tuple(languages))
    assert {len(directions) for directions in seen.values()} == {4}
    assert len(seen) > 0.995 * stream.num_rows
    both = sum(len(set(directions)) == 2 for directions in seen.values())
    assert both > 0.75 * len(seen), "seven of eight in four epochs"


def test_rows_of_halves_are_the_same_on_any_number_of_ranks_and_full(corpus_folder: CorpusFolder) -> None:
    schedule = Schedule((StageConfig(steps=9, rows={"MT": 1}),), 8)
    data = PretrainingData(corpus_folder, DataConfig(sequence_length=256), schedule, seed=1)
    (whole,) = data.step(5, 0, 1, 8)
    halves = [data.step(5, rank, 2, 4)[0] for rank in range(2)]
    assert np.array_equal(whole.input_ids_BS[0::2], halves[0].input_ids_BS)
    assert np.array_equal(whole.input_ids_BS[1::2], halves[1].input_ids_BS)
    steps = [batch for step in range(9) for batch in data.step(step, 0, 1, 8)]
    real = np.concatenate([batch.document_BS for batch in steps]) >= 0
    assert (real[:, :128].mean(), real[:, 128:].mean()) > (0.9, 0.9)
    for batch in steps:
        assert np.array_equal(batch.labels_N, batch.input_ids_BS.ravel()[batch.predicted_N + 1])
        assert (batch.predicted_N % 256 >= 128).all()


def test_documents_are_the_prefix_language_models_but_for_where_a_target_begins(documents_of: DocumentsOf) -> None:
    lengths = (((7, 5),), ((4, 9),))
    for (document,), (other,) in zip(documents_of(MT, lengths), documents_of(PLM, lengths), strict=True):
        for name in ("group", "reads", "horizon", "predicted", "language"):
            assert np.array_equal(getattr(document, name), getattr(other, name)), name
        first = int((document.group == 0).sum())
        assert document.position_ids[first] == 2
        assert (document.input_ids[first], other.input_ids[first]) == (BOS_ID, EOS_ID)


def test_the_share_of_pairs_that_no_half_has_room_for_is_that_which_no_row_takes(corpus_folder: CorpusFolder) -> None:
    told = {}
    for length in (32, 64, 4096):
        settings = RowSettings(length, corpus_folder.manifest.specials, DataConfig().corruption, seed=3)
        for stream in corpus_folder.parallel():
            source = RowSource(MT, stream, corpus_folder.language_ids, settings)
            sizes = np.concatenate([np.diff(shard.borders(0, shard.entry.rows), axis=0) for shard in stream.shards])
            too_long = (sizes.max(axis=1) + 2 > length // 2).mean()
            told[length] = source.without_room(10**6)
            assert told[length] == pytest.approx(too_long)
            assert source.without_room(5) == pytest.approx((sizes[:5].max(axis=1) + 2 > length // 2).mean())
    assert told[32] > told[64] > told[4096] == 0
    schedule = Schedule((StageConfig(steps=3, rows={"MT": 1, "TLM": 1}),), 4)
    lines = PretrainingData(corpus_folder, DataConfig(sequence_length=32), schedule, seed=3).too_long()
    assert lines
    assert all(line.startswith("MT/") and "longer than half a row" in line for line in lines), "TLM cuts"
