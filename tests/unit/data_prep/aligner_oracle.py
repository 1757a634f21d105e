"""The aligner again, as its equations are written: dicts of ids, a loop a token. Slow."""

from __future__ import annotations

import itertools
import math
from collections import defaultdict

Pair = tuple[list[int], list[int]]
Links = set[tuple[int, int]]


def digamma(x: float) -> float:
    """By its recurrence far up, then the first terms of its series."""
    total = 0.0
    while x < 40:
        total -= 1 / x
        x += 1
    return total + math.log(x) - 1 / (2 * x) - 1 / (12 * x**2) + 1 / (120 * x**4) - 1 / (252 * x**6)


def prior(i: int, j: int, n: int, m: int, tension: float) -> float:
    """Of source token i for target token j, both from 1, among the source tokens."""

    def weight(k: int) -> float:
        return math.exp(-tension * abs(k / n - j / m))

    return weight(i) / sum(weight(k) for k in range(1, n + 1))


class Oracle:
    """One direction: target tokens are explained by source tokens, or by None."""

    def __init__(self, pairs: list[Pair], iterations: int, null_prior: float, alpha: float) -> None:
        self.null_prior, self.tension, self.perplexity = null_prior, 4.0, 1.0
        self.types: defaultdict[int | None, set[int]] = defaultdict(set)
        for source, target in pairs:
            for e, f in itertools.product([None, *source], target):
                self.types[e].add(f)
        self.table = {(e, f): 1.0 for e, seen in self.types.items() for f in seen}
        for update in range(iterations - 1):
            counts: defaultdict[tuple[int | None, int], float] = defaultdict(float)
            closeness, log_likelihood = 0.0, 0.0
            for source, target in pairs:
                for j, f in enumerate(target, 1):
                    scores = self.scores(source, target, j)
                    log_likelihood += math.log(sum(scores))
                    for i, score in enumerate(scores):
                        counts[source[i - 1] if i else None, f] += score / sum(scores)
                        if i:
                            closeness -= score / sum(scores) * abs(i / len(source) - j / len(target))
            num_tokens = sum(len(target) for _, target in pairs)
            self.perplexity = math.exp(-log_likelihood / num_tokens)
            if update > 0:
                for _ in range(8):
                    step = 20 * (closeness - self.expected_closeness(pairs, self.tension)) / num_tokens
                    self.tension = min(6.0, max(0.1, self.tension + step))
            for e, seen in self.types.items():
                total = sum(counts[e, f] + alpha for f in seen)
                for f in seen:
                    self.table[e, f] = math.exp(digamma(counts[e, f] + alpha) - digamma(max(total, 1.0)))

    @staticmethod
    def expected_closeness(pairs: list[Pair], tension: float) -> float:
        """Of the prior alone."""
        total = 0.0
        for source, target in pairs:
            n, m = len(source), len(target)
            for j, i in itertools.product(range(1, m + 1), range(1, n + 1)):
                total -= prior(i, j, n, m, tension) * abs(i / n - j / m)
        return total

    def scores(self, source: list[int], target: list[int], j: int) -> list[float]:
        """Of nothing, then of each source token, for the j-th target token (from 1)."""
        f, n, m = target[j - 1], len(source), len(target)
        found = [self.null_prior * self.table[None, f]]
        for i in range(1, n + 1):
            found.append((1 - self.null_prior) * prior(i, j, n, m, self.tension) * self.table[source[i - 1], f])
        return found

    def links(self, source: list[int], target: list[int]) -> Links:
        """(source token, target token), from 0."""
        found = set()
        for j in range(1, len(target) + 1):
            scores = self.scores(source, target, j)
            best = scores.index(max(scores))
            if best:
                found.add((best - 1, j - 1))
        return found


def grow_diag_final_and(forward: Links, backward: Links) -> Links:
    """As Koehn, Och and Marcu write it, on sets."""
    links, union = forward & backward, forward | backward
    if not union:
        return set()
    n, m = (1 + max(link[side] for link in union) for side in (0, 1))
    while True:
        before = len(links)
        for i, j in itertools.product(range(n), range(m)):
            if (i, j) not in links:
                continue
            for di, dj in ((-1, 0), (0, -1), (1, 0), (0, 1), (-1, -1), (-1, 1), (1, -1), (1, 1)):
                near = i + di, j + dj
                is_free = near[0] not in {a for a, _ in links} or near[1] not in {b for _, b in links}
                if near in union and is_free:
                    links.add(near)
        if len(links) == before:
            break
    for direction in (forward, backward):
        for i, j in sorted(direction):
            if i not in {a for a, _ in links} and j not in {b for _, b in links}:
                links.add((i, j))
    return links
