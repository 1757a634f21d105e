"""Sides that slip are seen where they do, and good pairs of any kind are left in peace."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import asdict

import numpy as np
import pytest

from data_prep.alignment import FEWEST_PAIRS, MISALIGNED, SAME, Alignment, measure

Pairs = list[tuple[str, str]]


def translations(count: int, mean_words: float = 9.0, noise: float = 0.2) -> Pairs:
    """Pairs whose lengths go together as those of translations do."""
    draw = np.random.default_rng(0)
    source = np.maximum(2, draw.lognormal(np.log(5 * mean_words), 0.5, count)).astype(int)
    target = np.maximum(2, source * draw.lognormal(0.1, noise, count)).astype(int)
    return [("s" * int(a), "t" * int(b)) for a, b in zip(source, target, strict=True)]


def measured(pairs: Pairs, chunk: int = 10**9) -> Alignment:
    total = Alignment()
    for first in range(0, len(pairs), chunk):
        part = pairs[first : first + chunk]
        lengths = np.array([[len(pair[side]) for pair in part] for side in (0, 1)])
        found = measure(lengths, np.array([a == b for a, b in part]), np.arange(1, len(part) + 1))
        total += Alignment.of(json.loads(json.dumps(asdict(found))), first)  # as markers keep it
    return total


def spans(pairs: Pairs, chunk: int = 10**9) -> list[tuple[int, int, str]]:
    found = []
    for warning in measured(pairs, chunk).warnings():
        _, first, _, last, *fault = warning.split(" (")[0].split()
        found.append((int(first.replace(",", "")), int(last.replace(",", "")), " ".join(fault)))
    return found


def slipped(pairs: Pairs, first: int, last: int, by: int = 1) -> Pairs:
    moved = [(pairs[i][0], pairs[(i + by) % len(pairs)][1]) for i in range(len(pairs))]
    return pairs[:first] + moved[first:last] + pairs[last:]


@pytest.mark.parametrize("chunk", [10**9, 1700])
@pytest.mark.parametrize(("first", "last"), [(1000, 10_000), (5000, 10_000), (9000, 10_000), (4000, 6000), (0, 10_000)])
@pytest.mark.parametrize("by", [1, 40])
def test_the_lines_between_which_a_side_has_slipped_are_named(first: int, last: int, by: int, chunk: int) -> None:
    ((begin, end, fault),) = spans(slipped(translations(10_000), first, last, by), chunk)
    assert fault == MISALIGNED
    assert abs(begin - 1 - first) <= 500
    assert abs(end - last) <= 500


def shuffled(pairs: Pairs) -> Pairs:
    targets = [target for _, target in pairs]
    random.Random(0).shuffle(targets)
    return [(source, target) for (source, _), target in zip(pairs, targets, strict=True)]


def test_shuffled_sides_are_misaligned_throughout() -> None:
    assert spans(shuffled(translations(5000))) == [(1, 5000, MISALIGNED)]


def in_order_of_length(pairs: Pairs) -> Pairs:
    return sorted(pairs, key=lambda pair: len(pair[0]))


@pytest.mark.parametrize("kind", [list, in_order_of_length])
@pytest.mark.parametrize("noise", [0.1, 0.3])
def test_translations_are_not_suspected(kind: Callable[[Pairs], Pairs], noise: float) -> None:
    assert spans(kind(translations(10_000, noise=noise))) == []


def test_a_dictionary_is_not_suspected_and_one_that_slips_is() -> None:
    words = translations(20_000, mean_words=1.1, noise=0.8)  # they correlate weakly
    assert 0 < (measured(words).score or 0) < 0.35
    assert spans(words) == []
    ((begin, end, fault),) = spans(slipped(words, 10_000, 20_000))
    assert fault == MISALIGNED
    assert abs(begin - 10_000) <= 2500
    assert abs(end - 20_000) <= 500


def test_the_same_text_on_both_sides_is_named() -> None:
    pairs = translations(3000)
    assert spans(pairs[:1000] + [(a, a) for a, _ in pairs[1000:2000]] + pairs[2000:]) == [(1001, 2000, SAME)]


def test_neighbours_that_are_alike_in_length_do_not_hide_a_slip() -> None:
    blocks = [pair for mean in (3, 12, 5, 20) * 25 for pair in translations(100, mean)]
    assert spans(blocks) == []
    assert [fault for *_, fault in spans(slipped(blocks, 5000, 10_000))] == [MISALIGNED]


def test_few_pairs_and_pairs_of_one_length_are_not_judged() -> None:
    assert spans(translations(FEWEST_PAIRS - 1)) == []
    assert spans([("abc" * 9, "abd" * 9)] * 1000) == []


def test_what_is_kept_does_not_grow_with_good_pairs() -> None:
    assert len(measured(translations(20_000)).windows) == 1
