"""How sure is a unigram segmentation? The scores of the best two segmentations of many words, in numpy.

SentencePiece's Viterbi search adds piece scores from the start of the text in float32. So the sums, and with them the choice
between segmentations of almost equal score, depend on what stands in front of a word: `1111` may be 11+1+1 in one text and
1+1+11 in another, though nothing crosses its border. When is a word's segmentation the same in every text?

Let the word begin where the sum is B. A path of k pieces is summed with k roundings, each at most u = 2**-24 times the
largest sum on the way, which is below T, the sum of |scores| of the text up to the word's end (no score is above 0, so
sums only fall). Rounding is monotonic: the search's sum at the end is at least that of the exact best path, and it is the
sum of the path it takes. So that path's exact score is within (k + k') u T of the best one's, with k, k' at most the word's
characters n. If the second-best segmentation is further away than 2 n u T, the search takes the best one, whatever B is.

    gap > 2 n u T    <=>    T < gap / (2 n u) =: the word's limit

MARGIN covers what the above leaves out: T's own roundings (below 1.01 for texts within MAX_SCORE) and float64's here.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ernie_m.base.special_tokens import FAIRSEQ_OFFSET

ROUNDING = 2.0**-24
MARGIN = 1.1
MAX_SCORE = 50_000.0  # of a text; beyond 100,000 SentencePiece moves the zero of its sums
UNKNOWN_PENALTY = 10.0  # below the lowest score, for a character that is no piece
MAX_CHARACTERS = 48  # of a normalised word
WORDS_AT_A_TIME = 1024
CHARACTER_BITS = 21
NOWHERE = -1
HASH_FACTOR = np.uint64(0x9E3779B97F4A7C15)


class SegmentationGap:
    """The limits of words under one unigram model: see the module's story."""

    def __init__(self, model: Any) -> None:
        types = np.fromiter((piece.type for piece in model.pieces), np.int64, len(model.pieces))
        all_scores = np.fromiter((piece.score for piece in model.pieces), np.float64, len(model.pieces))
        normal = np.flatnonzero(types == model.SentencePiece.NORMAL)
        names = [piece.piece for piece in model.pieces]
        scores = all_scores[normal]  # float32 values, exactly
        self.trie = PieceTrie([names[i] for i in normal.tolist()], scores)
        self.unknown = scores.min() - UNKNOWN_PENALTY
        self.largest = -float(scores.min())
        self._score_of_id = np.full(len(model.pieces) + FAIRSEQ_OFFSET, np.nan)
        self._score_of_id[normal + FAIRSEQ_OFFSET] = scores

    def limits(self, normalised: list[str], values: np.ndarray, offsets: np.ndarray) -> np.ndarray:
        """The largest sum of |scores| of a text up to which each word's ids hold: float32 [words]; 0 for never.

        `values` and `offsets` are the words' ids as SentencePiece gives them for each alone. A word with <unk> or with ids
        that are not the best ones by our sums (which would be a fault) gets 0.
        """
        lengths = np.fromiter(map(len, normalised), np.int64, len(normalised))
        of_token = np.repeat(np.arange(len(normalised)), np.diff(offsets))
        told = np.bincount(of_token, self._score_of_id[values], len(normalised))
        limits = np.zeros(len(normalised))
        order = np.argsort(-lengths, kind="stable")
        order = order[np.searchsorted(-lengths[order], -MAX_CHARACTERS) :]
        for start in range(0, len(order), WORDS_AT_A_TIME):
            chosen = order[start : start + WORDS_AT_A_TIME]
            best, second = self._best_two([normalised[i] for i in chosen.tolist()], lengths[chosen])
            is_told = np.abs(best - told[chosen]) <= 1e-9 * (1 - best)
            gap = np.where(is_told, best - second, 0)
            limits[chosen] = np.minimum(gap / (2 * ROUNDING * MARGIN * np.maximum(lengths[chosen], 1)), MAX_SCORE)
        return limits.astype(np.float32)

    def _best_two(self, words: list[str], lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The scores of the best two segmentations of each word; the words come longest first. float64 [words] each.

        Node `first[w] + j` stands behind j characters of word w; arriving[k, node] is the score of the piece of k + 1
        characters that ends there. Two paths to a node are never the same pieces, so ties give a gap of 0.
        """
        first = np.concatenate([[0], np.cumsum(lengths[:-1] + 1)])
        arriving = self._arriving(words, lengths, first)
        best, second = np.full((2, arriving.shape[1]), -np.inf)
        best[first] = 0
        for j in range(1, int(lengths[0]) + 1):
            nodes = first[: np.searchsorted(-lengths, -j, side="right")] + j
            sizes = np.arange(min(j, len(arriving)))[:, None]
            before = nodes - sizes - 1
            pieces = arriving[sizes, nodes]
            through_best = best[before] + pieces
            chosen = through_best.argmax(axis=0)
            columns = np.arange(len(nodes))
            best[nodes] = through_best[chosen, columns]
            through_best[chosen, columns] = -np.inf
            second[nodes] = np.maximum(through_best.max(axis=0), (second[before] + pieces).max(axis=0))
        return best[first + lengths], second[first + lengths]

    def _arriving(self, words: list[str], lengths: np.ndarray, first: np.ndarray) -> np.ndarray:
        codes = np.frombuffer("".join(words).encode("utf-32-le", "surrogatepass"), "<u4").astype(np.int64)
        arriving = np.full((self.trie.depth, len(codes) + len(words)), -np.inf)
        nodes = np.repeat(first - np.concatenate([[0], np.cumsum(lengths[:-1])]), lengths) + np.arange(len(codes))
        arriving[0, nodes + 1] = self.unknown  # overwritten where the character is a piece
        ends = np.repeat(np.cumsum(lengths), lengths)
        at, states = np.arange(len(codes)), np.zeros(len(codes), np.int64)
        for k in range(self.trie.depth):
            states = self.trie.step(states, codes[at + k])
            scores = self.trie.scores[states]
            is_piece = scores > -np.inf  # state NOWHERE has none
            arriving[k, nodes[at[is_piece]] + k + 1] = scores[is_piece]
            goes_on = (states != NOWHERE) & (at + k + 1 < ends[at])
            at, states = at[goes_on], states[goes_on]
        return arriving


class PieceTrie:
    """All pieces as a trie over characters: one hash table of edges (state, character) -> state. State 0 is the root."""

    def __init__(self, pieces: list[str], scores: np.ndarray) -> None:
        lengths = np.fromiter(map(len, pieces), np.int64, len(pieces))
        codes = np.frombuffer("".join(pieces).encode("utf-32-le"), "<u4").astype(np.int64)
        starts = np.cumsum(lengths) - lengths
        self.depth = int(lengths.max())
        states, levels, num_states = np.zeros(len(pieces), np.int64), [], 1
        for k in range(self.depth):
            longer = np.flatnonzero(lengths > k)
            edges, of_piece = np.unique(states[longer] << CHARACTER_BITS | codes[starts[longer] + k], return_inverse=True)
            states[longer] = num_states + of_piece
            levels.append(edges)
            num_states += len(edges)
        self.scores = np.full(num_states + 1, -np.inf)
        self.scores[states] = scores
        self._fill(np.concatenate(levels))

    def _fill(self, edges: np.ndarray) -> None:
        """Open addressing, at most half full: an edge lies at its hash or in the first free place after it."""
        bits = max(4, int(2 * len(edges)).bit_length())
        self._shift = np.uint64(64 - bits)
        self._mask = (1 << bits) - 1
        self._edges = np.full(1 << bits, -1, np.int64)
        self._targets = np.full(1 << bits, NOWHERE, np.int32)  # as int64 they would fill the cache
        places, left = self._places(edges), np.arange(len(edges))
        while len(left):
            free = self._edges[places] == -1
            self._edges[places[free]] = edges[left[free]]  # of several that want a place, the last one gets it
            placed = self._edges[places] == edges[left]
            self._targets[places[placed]] = left[placed] + 1
            places, left = (places[~placed] + 1) & self._mask, left[~placed]

    def step(self, states: np.ndarray, codes: np.ndarray) -> np.ndarray:
        """The state after a further character, or NOWHERE: int64 as `states`."""
        edges = states << CHARACTER_BITS | codes
        places = self._places(edges)
        there = self._edges[places]
        states = np.where(there == edges, self._targets[places], NOWHERE).astype(np.int64)
        left = np.flatnonzero((there != edges) & (there != -1))
        while len(left):
            places[left] = (places[left] + 1) & self._mask
            there = self._edges[places[left]]
            found = there == edges[left]
            states[left[found]] = self._targets[places[left[found]]]
            left = left[~found & (there != -1)]
        return states

    def _places(self, edges: np.ndarray) -> np.ndarray:
        return (edges.astype(np.uint64) * HASH_FACTOR >> self._shift).astype(np.int64)
