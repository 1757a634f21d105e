"""A trained model and pairs -> links: the most probable source token of each target token, and the other way, made one."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from data_prep.word_alignment.cells import SortedPairs
from data_prep.word_alignment.engines import Engine
from data_prep.word_alignment.model import Direction, Model, prior
from data_prep.word_alignment.symmetrization import symmetrized
from ernie_m.corpus.ragged import EncodedTexts, Ragged

CELLS_AT_A_TIME = 1 << 22
"""Of a piece, 16 MB of their types at most; a longer pair is taken alone."""


def links_of(model: Model, source: EncodedTexts, target: EncodedTexts, method: str, engine: Engine) -> Ragged:
    """Links of each pair, (source token, target token) after (source token, target token), ascending."""
    cells = np.diff(source.offsets) * np.diff(target.offsets)
    pieces = np.cumsum(cells) // CELLS_AT_A_TIME
    borders = [0, *(np.flatnonzero(np.diff(pieces)) + 1).tolist(), len(cells)]
    counts, values = [np.zeros(0, np.int64)], [np.zeros(0, np.int32)]
    for first, last in pairwise(borders):
        piece = SortedPairs.of(_part(source, first, last), _part(target, first, last))
        found = _links_of_piece(model, piece, method, engine)
        counts.append(found[0])
        values.append(found[1])
    offsets = np.concatenate([[0], np.cumsum(np.concatenate(counts))])
    return Ragged(offsets.astype(np.int32), np.concatenate(values))


def _part(texts: EncodedTexts, first: int, last: int) -> EncodedTexts:
    offsets = np.asarray(texts.offsets[first : last + 1], np.int64)
    return EncodedTexts(texts.values[offsets[0] : offsets[-1]], offsets - offsets[0])


def _links_of_piece(model: Model, pairs: SortedPairs, method: str, engine: Engine) -> tuple[np.ndarray, np.ndarray]:
    """Integers of each pair, and all of them, in the order in which the pairs were given."""
    cells_of = engine.cells_of(pairs, model.types)
    pair_L, item_L2 = [np.zeros(0, np.int64)], [np.zeros((0, 2), np.int64)]
    for group in pairs.groups():
        cells, sources, targets = cells_of(group), pairs.sources(group), pairs.targets(group)
        ahead = _best(model.forward, cells, sources, targets, model.null_prior)
        back = _best(model.backward, cells.transpose(0, 2, 1), targets, sources, model.null_prior).transpose(0, 2, 1)
        pair, source, target = np.nonzero(symmetrized(method, ahead, back, engine.grow_pairs))
        pair_L.append(pairs.order[group.first + pair])
        item_L2.append(np.stack([source, target], axis=1))
    pairs_of, items = np.concatenate(pair_L), np.concatenate(item_L2)
    order = np.argsort(pairs_of, kind="stable")  # links of a pair already ascend
    return 2 * np.bincount(pairs_of, minlength=len(pairs.order)), items[order].astype(np.int32).ravel()


def _best(
    direction: Direction, cells_PNM: np.ndarray, sources_PN: np.ndarray, targets_PM: np.ndarray, null_prior: float
) -> np.ndarray:
    """The links of one direction: for each target its most probable source token, or none; bool [P, N, M]."""
    _, n, m = cells_PNM.shape
    values_PNM = np.where(cells_PNM >= 0, direction.table[cells_PNM], direction.floor[sources_PN][:, :, None])
    scores = prior(n, m, direction.tension, null_prior) * values_PNM
    best_PM = scores.argmax(axis=1)
    is_linked_PM = np.take_along_axis(scores, best_PM[:, None], axis=1)[:, 0] > null_prior * direction.null[targets_PM]
    found = np.arange(n)[None, :, None] == best_PM[:, None]
    return found & is_linked_PM[:, None]
