"""The aligner computes what its equations say, in numpy and in numba to the same bits."""

from __future__ import annotations

import importlib.util
import itertools
from collections.abc import Sequence

import numpy as np
import pytest
from aligner_oracle import Links, Oracle, Pair, grow_diag_final_and
from aligner_oracle import digamma as slow_digamma

from data_prep.word_alignment import cells, decoding
from data_prep.word_alignment.cells import SortedPairs
from data_prep.word_alignment.decoding import links_of
from data_prep.word_alignment.engines import Engine, chosen, engine
from data_prep.word_alignment.model import Model, Settings, digamma, distance, prior, train
from data_prep.word_alignment.symmetrization import SYMMETRIZATIONS, grow_pairs
from ernie_m.base.console import InputError
from ernie_m.corpus.columns import LINKS
from ernie_m.corpus.ragged import EncodedTexts

VOCAB_SIZE = 60
needs_numba = pytest.mark.skipif(importlib.util.find_spec("numba") is None, reason="no numba: pip install numba")


def random_pairs(count: int, seed: int, longest: int = 9) -> list[Pair]:
    """Translations by a table of ids, in an order of their own, with some ids left out and some added."""
    rng, meaning = np.random.default_rng(seed), np.random.default_rng(1).permutation(VOCAB_SIZE // 2) + VOCAB_SIZE // 2
    pairs = []
    for _ in range(count):
        source = rng.integers(0, VOCAB_SIZE // 2, int(rng.integers(1, longest))).tolist()
        target = [int(meaning[e]) for e in source if rng.random() < 0.9]
        target += rng.integers(VOCAB_SIZE // 2, VOCAB_SIZE, 1 + int(rng.integers(0, 2)) - bool(target)).tolist()
        if len(target) > 1 and rng.random() < 0.5:
            target[0], target[1] = target[1], target[0]
        pairs.append((source, target or [VOCAB_SIZE - 1]))
    return pairs


def texts(side: Sequence[list[int]]) -> EncodedTexts:
    values = np.array([number for ids in side for number in ids], np.int32)
    return EncodedTexts(values, np.concatenate([[0], np.cumsum([len(ids) for ids in side])]).astype(np.int64))


def sides(pairs: list[Pair]) -> tuple[EncodedTexts, EncodedTexts]:
    return texts([source for source, _ in pairs]), texts([target for _, target in pairs])


def trained(pairs: list[Pair], which: Engine, iterations: int = 5) -> Model:
    return train(SortedPairs.of(*sides(pairs)), VOCAB_SIZE, Settings(iterations), which)


def links_found(model: Model, pairs: list[Pair], method: str, which: Engine) -> list[Links]:
    offsets, values = links_of(model, *sides(pairs), method, which)
    items = list(map(tuple, values.reshape(-1, LINKS.width).tolist()))
    return [set(items[a // 2 : b // 2]) for a, b in itertools.pairwise(offsets.tolist())]


@pytest.mark.parametrize("iterations", [2, 3, 5])
def test_the_model_is_that_of_the_equations(iterations: int) -> None:
    pairs = random_pairs(60, seed=iterations)
    model = trained(pairs, engine("numpy"), iterations)
    turned = [(target, source) for source, target in pairs]
    for direction, given in ((model.forward, pairs), (model.backward, turned)):
        oracle = Oracle(given, iterations, 0.08, 0.05)
        assert direction.tension == pytest.approx(oracle.tension, rel=1e-6)
        assert (direction.tension == 4) == (iterations == 2), "learned from the second update on"
        count = len(model.types.targets)
        types = zip(model.types.sources(0, count).tolist(), model.types.targets.tolist(), strict=True)
        found = dict(zip(types, direction.table.tolist(), strict=True))
        assert len(found) > 100
        for (e, f), value in found.items():
            key = (e, f) if direction is model.forward else (f, e)
            assert value == pytest.approx(oracle.table[key], rel=1e-5)  # the table is float32
        seen = sorted({f for _, target in given for f in target})
        assert direction.null[seen] == pytest.approx([oracle.table[None, f] for f in seen], rel=1e-5)
        assert model.perplexity[direction is model.backward] == pytest.approx(oracle.perplexity)


def test_links_are_the_most_probable_ones_of_both_directions() -> None:
    pairs = random_pairs(80, seed=3)
    model = trained(pairs, engine("numpy"))
    ahead = Oracle(pairs, 5, 0.08, 0.05)
    back = Oracle([(target, source) for source, target in pairs], 5, 0.08, 0.05)
    expected = [(ahead.links(source, target), {(i, j) for j, i in back.links(target, source)}) for source, target in pairs]
    assert links_found(model, pairs, "intersection", engine("numpy")) == [a & b for a, b in expected]
    assert links_found(model, pairs, "union", engine("numpy")) == [a | b for a, b in expected]
    grown = [grow_diag_final_and(a, b) for a, b in expected]
    assert links_found(model, pairs, "grow-diag-final-and", engine("numpy")) == grown
    assert any(a & b < g < a | b for (a, b), g in zip(expected, grown, strict=True)), "the three differ somewhere"


@needs_numba
def test_numba_and_numpy_give_the_same_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    odd: list[Pair] = [([1], [40]), ([1], [41]), ([2], [40, 40, 41]), ([3, 3, 3], [40])]
    pairs = [*random_pairs(300, seed=5, longest=14), *odd]
    monkeypatch.setattr(cells, "CELLS_AT_A_TIME", 100)
    first, second = (trained(pairs, engine(name)) for name in ("numpy", "numba"))
    for one, other in zip(first[:3], second[:3], strict=True):
        for mine, its in zip(one, other, strict=True):
            assert np.array_equal(mine, its)
    assert first.perplexity == second.perplexity
    laid_out = SortedPairs.of(*sides(pairs))
    types = engine("numpy").types_of(laid_out, VOCAB_SIZE)
    cells_of = {name: engine(name).cells_of(laid_out, types) for name in ("numpy", "numba")}
    for group in laid_out.groups():
        outcomes = []
        for name in ("numpy", "numba"):
            counts, nulls = np.zeros(len(types.targets)), np.zeros(VOCAB_SIZE)
            table = np.random.default_rng(1).random(len(counts)).astype(np.float32)
            null = np.random.default_rng(2).random(VOCAB_SIZE)
            given = cells_of[name](group), laid_out.targets(group), table, null
            found = engine(name).expect(*given, prior(group.n, group.m, 3.0, 0.1), 0.1, counts, nulls)
            outcomes.append((*found, counts, nulls))
        for one, other in zip(*outcomes, strict=True):
            assert np.array_equal(one, other)
    fresh = random_pairs(100, seed=6, longest=30)  # with types that were never seen
    for method in SYMMETRIZATIONS:
        found = [links_of(first, *sides(fresh), method, engine(name)) for name in ("numpy", "numba")]
        for one, other in zip(*found, strict=True):
            assert np.array_equal(one, other)


def test_links_do_not_depend_on_how_pairs_are_cut_into_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    pairs, method = random_pairs(200, seed=7), "grow-diag-final-and"
    model = trained(pairs, engine("numpy"))
    whole = links_found(model, pairs, method, engine("numpy"))
    for limit in (1, 50, 700):
        monkeypatch.setattr(decoding, "CELLS_AT_A_TIME", limit)
        assert links_found(model, pairs, method, engine("numpy")) == whole
    assert links_found(model, pairs[::-1], method, engine("numpy")) == whole[::-1]
    assert links_found(model, [], method, engine("numpy")) == []


def test_a_dictionary_is_learned_from_pairs_alone() -> None:
    pairs = random_pairs(600, seed=8)
    meaning = np.random.default_rng(1).permutation(VOCAB_SIZE // 2) + VOCAB_SIZE // 2
    found = links_found(trained(pairs, engine("numpy")), pairs, "intersection", engine("numpy"))
    right = sum(
        meaning[source[i]] == target[j] for (source, target), links in zip(pairs, found, strict=True) for i, j in links
    )
    assert sum(map(len, found)) > 1500
    assert right / sum(map(len, found)) > 0.95


def test_symmetrization_grows_as_on_sets() -> None:
    rng = np.random.default_rng(9)
    for _ in range(150):
        n, m = (int(size) for size in rng.integers(1, 7, 2))
        forward, backward = (rng.random((1, n, m)) < 0.35 for _ in range(2))
        as_sets = [set(map(tuple, np.argwhere(links[0]).tolist())) for links in (forward, backward)]
        grown = set(map(tuple, np.argwhere(grow_pairs(forward, backward)[0]).tolist()))
        assert grown == grow_diag_final_and(*as_sets)


def test_the_gradient_of_the_tension_is_that_of_the_prior() -> None:
    """d/dt of sum(-t * |i/n - j/m|) - log Z is what one step follows; Z is of n source tokens, j counts from 1."""
    n, m, tension, step = 5, 3, 4.0, 1e-5
    at = {t: np.log(prior(n, m, t, 0.0)) for t in (tension - step, tension + step)}
    slope = (at[tension + step] - at[tension - step]) / (2 * step)
    expected = (prior(n, m, tension, 0.0) * distance(n, m)).sum(axis=0)
    assert slope == pytest.approx(distance(n, m) - expected, abs=1e-8)
    assert distance(n, m)[4, 2] == 0, "the last tokens lie on the diagonal"
    assert prior(n, m, tension, 0.1).sum(axis=0) == pytest.approx([0.9] * m)


def test_digamma_is_digamma() -> None:
    x = np.concatenate([np.geomspace(1e-3, 1e6, 40), [0.01, 1.0, 9.999, 10.0]])
    assert digamma(x) == pytest.approx([slow_digamma(value) for value in x.tolist()], rel=1e-9, abs=1e-9)
    assert digamma(np.array(1.0)) == pytest.approx(-0.5772156649015329)


def test_groups_hold_every_cell_once(monkeypatch: pytest.MonkeyPatch) -> None:
    pairs = SortedPairs.of(*sides(random_pairs(100, seed=10)))
    for limit in (1, 40, 1 << 20):
        monkeypatch.setattr(cells, "CELLS_AT_A_TIME", limit)
        groups = list(pairs.groups())
        assert [group.first for group in groups[1:]] == [group.last for group in groups[:-1]]
        assert sum((group.last - group.first) * group.n * group.m for group in groups) == pairs.num_cells
        assert (groups[0].first, groups[-1].last) == (0, 100)


def test_an_engine_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="--engine gpu: expected auto, numba, numpy"):
        chosen("gpu")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert chosen("auto").value == "numpy"
    with pytest.raises(InputError, match="--engine numba: not installed"):
        chosen("numba")
