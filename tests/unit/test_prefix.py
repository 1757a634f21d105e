"""A prefix language model writes what its encoder, which reads whole rows, says; one as many, one beam as greedy."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ernie_m.base.special_tokens import BOS_ID, EOS_ID, PAD_ID, Specials, mask_id
from ernie_m.models.beams import Search, searched
from ernie_m.models.decoding import longest_target, translated
from ernie_m.models.model import Encoder
from ernie_m.models.prefix import PrefixModel
from ernie_m.models.shape import ModelConfig
from ernie_m.rows.batch import Example
from ernie_m.rows.corruption import CorruptionConfig
from ernie_m.rows.dataloader import to_device
from ernie_m.rows.layout import Layout
from ernie_m.rows.objectives import MT, OBJECTIVE_INDEX
from ernie_m.rows.packing import PackedRow, pack
from tests.properties.test_halves import SHAPE
from tests.unit.test_decoding import CPU, LONGEST, sources_of


@pytest.fixture
def model() -> PrefixModel:
    config = ModelConfig(**{**SHAPE, "vocab_size": 101, "num_languages": 4, "language_embedding": "all"})  # type: ignore[arg-type]
    encoder, specials = Encoder(config).eval(), Specials.xlm_r(101)
    rng = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for name, parameter in encoder.named_parameters():
            noise = torch.empty(parameter.shape).normal_(0, 0.15, generator=rng)
            parameter.copy_(1 + noise if name.endswith("norm.weight") else noise)
        encoder.token_head.decoder_bias[EOS_ID] = 1.2
    return PrefixModel(encoder, specials)


def likeliest_next(model: PrefixModel, source: np.ndarray, target: np.ndarray) -> list[int]:
    """What the encoder says at each position of the target, in a row as it is trained on."""
    document = Layout(MT, CorruptionConfig(), model.specials).lay_out(Example((source, target), (1, 2)), 0)
    batch = to_device(pack([PackedRow([document], OBJECTIVE_INDEX["MT"], 0)], 128), CPU)
    logits = model.token_head.logits(model.encoder.hidden_states(batch)[0, 64 : 64 + len(target) + 1])
    logits[:, [BOS_ID, PAD_ID, 3, mask_id(101)]] = -torch.inf
    return logits.argmax(-1).tolist()


def test_each_token_is_the_likeliest_by_the_encoder_that_reads_source_and_target_in_one_row(model: PrefixModel) -> None:
    sources, ends = sources_of(9, 1, 17, 5), set()
    targets = translated(model, sources, (1, 2), LONGEST)
    with torch.no_grad():
        for source, target in zip(sources, targets, strict=True):
            expected, limit = likeliest_next(model, source, target), longest_target(len(source))
            assert expected[: len(target)] == target.tolist()
            ends.add(len(target) < limit)
            assert len(target) == limit or expected[-1] == EOS_ID
    assert ends == {True, False}, "some end by themselves, some at their longest"


def test_a_batch_of_one_and_one_beam_give_what_a_batch_of_many_gives(model: PrefixModel) -> None:
    sources = sources_of(9, 1, 17, 5, 12)
    together = [target.tolist() for target in translated(model, sources, (1, 2), LONGEST)]
    assert [translated(model, [source], (1, 2), LONGEST)[0].tolist() for source in sources] == together
    limits = [longest_target(len(source)) for source in sources]
    assert [target.tolist() for target in searched(model, sources, (1, 2), limits, Search())] == together


def test_wider_beams_find_targets_that_score_no_worse_and_are_the_same_in_any_batch(model: PrefixModel) -> None:
    sources, search = sources_of(9, 1, 5), Search(beams=3)
    limits = [longest_target(len(source)) for source in sources]
    together = [target.tolist() for target in searched(model, sources, (1, 2), limits, search)]
    alone = [searched(model, [s], (1, 2), [n], search)[0].tolist() for s, n in zip(sources, limits, strict=True)]
    assert together == alone
    assert together != [target.tolist() for target in searched(model, sources, (1, 2), limits, Search())]
