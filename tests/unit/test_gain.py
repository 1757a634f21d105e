"""The cross-lingual gain compares like with like, on any number of ranks."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from ernie_m.base.console import InputError
from ernie_m.base.special_tokens import Specials
from ernie_m.corpus.folder import HELD_OUT
from ernie_m.models.gain import SHUFFLED, TRUE, cross_lingual_gain, gain_rows, held_out_pairs
from ernie_m.rows.batch import Example
from ernie_m.rows.corruption import CorruptionConfig
from ernie_m.rows.row_source import RowSettings

if TYPE_CHECKING:
    from conftest import EncoderOf

    from ernie_m.corpus.folder import CorpusFolder
    from ernie_m.models.model import Encoder
    from ernie_m.rows.packing import PackedRow

S, CPU = 128, torch.device("cpu")
SETTINGS = RowSettings(S, Specials.xlm_r(101), CorruptionConfig(), seed=0)


def pairs_of(count: int, languages: tuple[int, int] = (1, 2), seed: int = 0) -> list[Example]:
    rng = np.random.default_rng([seed, *languages])
    lengths = rng.integers(4, 12, (count, 2))
    return [Example(tuple(rng.integers(4, 100, n, dtype=np.int32) for n in row), languages) for row in lengths]


def test_its_rows_have_the_positions_of_training() -> None:
    (row, _) = gain_rows(pairs_of(2), replace(SETTINGS, positions="restarting"))
    document = row.documents[0]
    begins = [document.position_ids[document.group == group][0] for group in (0, 1)]
    assert begins == [2, 2]


def test_true_and_shuffled_rows_predict_the_same_tokens_at_the_same_places() -> None:
    pairs = pairs_of(12) + pairs_of(5, (1, 3))
    rows = gain_rows(pairs, SETTINGS)
    kinds = {kind: [d for row in rows if row.metric == kind for d in row.documents] for kind in (TRUE, SHUFFLED)}
    assert len(kinds[TRUE]) == len(kinds[SHUFFLED]) == 2 * 17, "each pair in both directions"
    for true, shuffled in zip(kinds[TRUE], kinds[SHUFFLED], strict=True):
        assert np.array_equal(true.labels, shuffled.labels)
        assert np.array_equal(true.position_ids[true.predicted], shuffled.position_ids[shuffled.predicted])
        first = true.group == 0
        assert np.array_equal(true.input_ids[first], shuffled.input_ids[: first.sum()])
        assert set(true.group[true.predicted].tolist()) == {2}, "masks of the first sentence alone"
        others = [d.input_ids[d.group == 1].tolist() for d in (true, shuffled)]
        assert others[0] != others[1]
        assert set(true.language.tolist()) == set(shuffled.language.tolist()), "shuffled within its language pair"
    assert all(row.num_tokens <= S for row in rows)


def test_a_lone_pair_cannot_be_shuffled() -> None:
    rows = gain_rows(pairs_of(6) + pairs_of(1, (1, 3)), SETTINGS)
    assert sum(len(row.documents) for row in rows) == 2 * 2 * 6
    for pairs in ([], pairs_of(1)):
        with pytest.raises(InputError, match="no language pair has two held-out pairs"):
            gain_rows(pairs, SETTINGS)


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_the_gain_is_the_same_on_every_number_of_ranks(encoder_of: EncoderOf, world_size: int) -> None:
    model = encoder_of().train()
    rows = gain_rows(pairs_of(20), SETTINGS)
    expected = cross_lingual_gain(model, rows, S, CPU, rows_at_a_time=2)
    partial: list[torch.Tensor] = []
    for rank in range(world_size):

        def keep(tensor: torch.Tensor) -> torch.Tensor:
            partial.append(tensor)
            return torch.stack(partial).sum(0)

        found = cross_lingual_gain(model, rows, S, CPU, 2, rank, world_size, keep) if rank == world_size - 1 else None
        if found is None:
            _ignoring_division(model, rows, rank, world_size, partial)
    assert found is not None
    assert found.num_predicted == expected.num_predicted
    assert (found.nll_true, found.nll_shuffled) == pytest.approx((expected.nll_true, expected.nll_shuffled), rel=1e-5)
    assert found.gain == pytest.approx(found.nll_shuffled - found.nll_true)
    assert model.training


def _ignoring_division(
    model: Encoder, rows: list[PackedRow], rank: int, world_size: int, partial: list[torch.Tensor]
) -> None:
    """One rank's sums; its own quotient may be 0 / 0 and does not matter."""

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        partial.append(tensor)
        return torch.ones_like(tensor)

    cross_lingual_gain(model, rows, S, CPU, 2, rank, world_size, keep)


def test_the_gain_is_positive_for_a_model_that_copies(encoder_of: EncoderOf) -> None:
    """Translations that equal their source: whoever reads the other sentence knows the answer."""
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    sentences = [rng.integers(4, 100, 8, dtype=np.int32) for _ in range(24)]
    rows = gain_rows([Example((s, s.copy()), (1, 2)) for s in sentences], SETTINGS)
    model = encoder_of(num_layers=1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        model.embeddings.word.weight.normal_(0, 1)
        model.embeddings.norm.weight.fill_(1)
        block = model.layers[0]
        for norm in (block.attention_norm, block.ffn_norm, model.token_head.norm):
            norm.weight.fill_(1)
        block.qkv.weight[64:].copy_(torch.eye(32))
        block.attention_out.weight.copy_(8 * torch.eye(32))
        model.token_head.dense.weight.copy_(torch.eye(32))
    gain = cross_lingual_gain(model, rows, S, CPU)
    assert gain.gain > 0.1
    assert gain.num_predicted == 2 * 24


def test_held_out_pairs_come_from_all_language_pairs_in_turn(corpus_folder: CorpusFolder) -> None:
    pairs = held_out_pairs(corpus_folder, 10)
    assert len(pairs) == 10
    (stream,) = corpus_folder.parallel(HELD_OUT)
    shard = stream.shards[0]
    assert np.array_equal(pairs[0].sentences[0], shard.values[0][: shard.offsets[0][1]])
    assert len(held_out_pairs(corpus_folder, 1000)) == 30
    assert pairs[0].languages == (corpus_folder.language_ids["de"], corpus_folder.language_ids["en"])
