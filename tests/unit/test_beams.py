"""Beam search: one beam is greedy, many are exhaustive, each step what a search without a cache does, any batch the same."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from ernie_m.base.special_tokens import BOS_ID, EOS_ID, Specials
from ernie_m.models import past
from ernie_m.models.beams import Search, searched
from ernie_m.models.decoding import longest_target, translated
from ernie_m.models.translation import TranslationModel
from tests.properties.test_halves import translation_model
from tests.unit.test_decoding import LONGEST, ending, sources_of

LANGUAGES = (1, 2)


def log_probabilities(model: TranslationModel, source: np.ndarray, target: list[int]) -> torch.Tensor:
    """Of each token behind each prefix of the target, [T + 1, V], without a cache: the decoder reads all at once."""
    specials = model.specials
    ids = [torch.tensor([[BOS_ID, *tokens, *end]]) for tokens, end in ((source.tolist(), [EOS_ID]), (target, []))]
    places = [torch.arange(row.shape[1])[None] + specials.first_position for row in ids]
    languages = [torch.full_like(row, language) for row, language in zip(ids, LANGUAGES, strict=True)]
    everything = torch.ones(1, 1, 1, ids[0].shape[1], dtype=torch.bool)
    past = torch.ones(ids[1].shape[1], ids[1].shape[1], dtype=torch.bool).tril()[None, None]
    with torch.no_grad():
        states = model.encoder.embeddings(ids[0], places[0], languages[0])
        for layer in model.encoder.layers:
            states = layer(states, everything)
        hidden = model.decoder.embeddings(ids[1], places[1], languages[1])
        for layer in model.decoder.layers:
            hidden = layer(hidden, past, states, everything)
        return model.token_head.logits(hidden)[0].log_softmax(-1)


def allowed(specials: Specials) -> list[int]:
    return sorted([EOS_ID, *(i for first, last in specials.replaceable for i in range(first, last))])


def oracle(model: TranslationModel, source: np.ndarray, limit: int, search: Search) -> list[int]:
    """The same search in plain Python, every prefix computed anew."""
    beams: list[tuple[float, list[int]]] = [(0.0, [])]
    finished: list[tuple[float, list[int]]] = []
    choices = allowed(model.specials)
    for place in range(limit + 1):
        if place == limit:
            finished += [(total / place**search.length_penalty, ids) for total, ids in beams]
            break
        following = [
            (total + float(row[token]), [*ids, token])
            for total, ids in beams
            for row in [log_probabilities(model, source, ids)[-1]]
            for token in choices
        ]
        best = sorted(following, key=lambda beam: -beam[0])[: search.beams - len(finished)]
        ended = [(total, ids) for total, ids in best if ids[-1] == EOS_ID]
        finished += [(total / (place + 1) ** search.length_penalty, ids[:-1]) for total, ids in ended]
        beams = [beam for beam in best if beam[1][-1] != EOS_ID]
        if not beams:
            break
    return max(finished, key=lambda beam: beam[0])[1]


def found(model: TranslationModel, sources: list[np.ndarray], search: Search, limit: int | None = None) -> list[list[int]]:
    limits = [min(longest_target(len(source)), LONGEST - 2) if limit is None else limit for source in sources]
    return [ids.tolist() for ids in searched(model, sources, LANGUAGES, limits, search)]


@pytest.fixture(scope="module")
def model() -> TranslationModel:
    return ending(translation_model(language_embedding="all"), 1.5)


@pytest.fixture(scope="module")
def tiny() -> TranslationModel:
    """It can write two pieces, and end."""
    tiny = translation_model(vocab_size=7, language_embedding="all")
    assert len(allowed(tiny.specials)) == 3
    return ending(tiny, -1.0)


def test_one_beam_is_greedy(model: TranslationModel) -> None:
    sources = sources_of(9, 1, 17, 5, 12, 30, 2, 3)
    greedy = [ids.tolist() for ids in translated(model, sources, LANGUAGES, LONGEST)]
    assert found(model, sources, Search(1)) == greedy
    ends = {len(ids) < longest_target(len(source)) for ids, source in zip(greedy, sources, strict=True)}
    assert ends == {True, False}, "some end by themselves, some at their longest"


@pytest.mark.parametrize(("taste", "penalty"), [(-1.0, 0.0), (-1.0, 1.0), (-1.0, 2.0), (3.0, 0.0), (3.0, 3.0)])
def test_enough_beams_find_the_best_of_all_targets(taste: float, penalty: float, tiny: TranslationModel) -> None:
    """Against all of them, one by one; also where short ones are likely and a long one wins in the end."""
    ending(tiny, taste)
    limit, pieces = 4, [token for token in allowed(tiny.specials) if token != EOS_ID]
    for source in ([4, 5, 5], [5], [4, 4, 4, 5, 5]):
        scores: dict[tuple[int, ...], float] = {}
        for ids in itertools.chain.from_iterable(itertools.product(pieces, repeat=n) for n in range(limit + 1)):
            rows, whole = log_probabilities(tiny, np.array(source), list(ids)), len(ids) == limit
            tokens = [*ids] if whole else [*ids, EOS_ID]  # at its longest a target does not need its end
            scores[ids] = sum(float(rows[i, token]) for i, token in enumerate(tokens)) / len(tokens) ** penalty
        best = max(scores, key=lambda ids: scores[ids])
        assert found(tiny, [np.array(source, np.int32)], Search(40, penalty), limit) == [list(best)]


@pytest.mark.parametrize("look_at", [1, 1000])
@pytest.mark.parametrize("search", [Search(2), Search(4), Search(4, 0.0), Search(3, 2.5)], ids=str)
def test_a_search_is_that_of_the_oracle_without_a_cache(
    search: Search, look_at: int, model: TranslationModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where what no beam reads any more is let go as soon as it can be."""
    monkeypatch.setattr(past, "LOOK_AT", look_at)
    sources = sources_of(3, 5, 1)
    expected = [oracle(model, source, 7, search) for source in sources]
    assert found(model, sources, search, 7) == expected
    assert len({len(ids) for ids in expected}) > 1 or search.length_penalty != 1.0


@pytest.mark.parametrize("beams", [1, 4])
def test_batches_of_one_and_of_many_give_the_same(beams: int, model: TranslationModel) -> None:
    """Some sentences end long before others, and leave the batch."""
    sources = sources_of(9, 1, 17, 5, 12, 30, 2, 3)
    together = found(model, sources, Search(beams))
    assert together == [found(model, [source], Search(beams))[0] for source in sources]
    assert max(map(len, together)) > 3 * min(map(len, together))


def test_shorter_targets_win_without_a_penalty_and_longer_ones_with_a_high_one(model: TranslationModel) -> None:
    sources = sources_of(9, 17, 5, 12, 30)
    lengths = [sum(map(len, found(model, sources, Search(4, penalty)))) for penalty in (0.0, 1.0, 3.0)]
    assert lengths[0] < lengths[1] <= lengths[2]


def test_beams_compare_tokens_in_fp32_as_greedy_decoding_does(model: TranslationModel) -> None:
    """In bf16 logits of 100 are half a unit apart: most tokens would be equally likely, and the first taken."""
    with torch.no_grad():
        model.token_head.decoder_bias.fill_(100)
    model.to(torch.bfloat16)
    sources = sources_of(9, 17, 5, 12)
    greedy = [ids.tolist() for ids in translated(model, sources, LANGUAGES, LONGEST)]
    assert found(model, sources, Search(1)) == greedy
    assert len({token for ids in greedy for token in ids}) > 3
