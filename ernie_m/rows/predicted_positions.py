"""Where predictions are made, and what their labels are: a finder for each way to ask (ernie_m.rows.objective.ASKED)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from ernie_m.base.arrays import rows_in_order
from ernie_m.corpus.columns import LINKS
from ernie_m.rows.corruption import Corrupted, Laid
from ernie_m.rows.objective import CORRUPTED, LINKED, NEXT, SENTENCES, Objective

NO_SOURCES = np.zeros(0, np.int32)


class Asked(NamedTuple):
    """The predicted positions of one prediction (ascending) and their labels, int32.

    `num_sources` and `sources`, int32: how many positions each reads instead of its own, and these; None: all their own.
    """

    positions: np.ndarray
    labels: np.ndarray
    num_sources: np.ndarray | None = None
    sources: np.ndarray = NO_SOURCES


class Found(NamedTuple):
    """What the finders look at: the layout, the tokens chosen by the corruption, and where the sentences begin.

    `starts_EP` and `parts_EP`: first position and length of each part of each example. `group`: of each position.
    `columns`: the optional columns of the examples, as in Examples.
    """

    laid: Laid
    corrupted: Corrupted
    chosen: np.ndarray
    group: np.ndarray
    starts_EP: np.ndarray
    parts_EP: np.ndarray
    columns: Mapping[str, np.ndarray]


def _corrupted_tokens(objective: Objective, found: Found) -> Asked:
    return Asked(found.corrupted.predicted, found.laid.tokens_T[found.chosen])


def _next_tokens(objective: Objective, found: Found) -> Asked:
    is_asked = objective.causal_by_group[found.group]
    is_asked[(found.starts_EP + found.parts_EP - 1)[:, : objective.num_sentences].ravel()] = False
    positions = np.flatnonzero(is_asked).astype(np.int32)
    return Asked(positions, found.laid.ids[positions + 1])


def _translations(objective: Objective, found: Found) -> Asked:
    """The label is a distance, so it stays right wherever in a row the document is put."""
    first_EC = found.starts_EP[:, : objective.num_sentences]
    return Asked(first_EC.ravel().astype(np.int32), (first_EC[:, ::-1] - first_EC).ravel().astype(np.int32))


def _linked_tokens(objective: Objective, found: Found) -> Asked:
    """Links are read in both directions. The sources of a token ascend."""
    links_I2, tokens_T = found.columns[LINKS.name], found.laid.tokens_T
    number_T = np.full(len(tokens_T), -1, np.int64)  # of each chosen token: its number among the predicted ones
    number_T[found.chosen] = np.arange(len(found.chosen))
    both_I2 = np.concatenate([links_I2, links_I2[:, ::-1]])
    both_I2 = both_I2[number_T[both_I2[:, 0]] >= 0]
    both_I2 = both_I2[np.lexsort((both_I2[:, 1], both_I2[:, 0]))]
    tokens, counts = np.unique(both_I2[:, 0], return_counts=True)
    positions, sources = found.corrupted.predicted[number_T[tokens]], found.laid.places_T[both_I2[:, 1]]
    return Asked(positions, tokens_T[tokens], counts.astype(np.int32), sources.astype(np.int32))


FINDERS: dict[str, Callable[[Objective, Found], Asked]] = {
    CORRUPTED: _corrupted_tokens,
    NEXT: _next_tokens,
    SENTENCES: _translations,
    LINKED: _linked_tokens,
}
"""For each key of ernie_m.rows.objective.ASKED: what finds its positions and labels."""


def in_order(asked: Sequence[Asked]) -> dict[str, np.ndarray]:
    """What a Document says of its predictions, int32: by position, and those of one position in the objective's order."""
    counts = [np.zeros(len(a.positions), np.int32) if a.num_sources is None else a.num_sources for a in asked]
    number = np.repeat(np.arange(len(asked), dtype=np.int32), [len(a.positions) for a in asked])
    names = ("predicted", "labels", "prediction", "num_sources", "sources")
    columns = [a.positions for a in asked], [a.labels for a in asked], [number], counts, [a.sources for a in asked]
    found = {name: np.concatenate(parts) for name, parts in zip(names, columns, strict=True)}
    if len(asked) == 1:
        return found
    order = np.argsort(found["predicted"], kind="stable")
    found["sources"] = rows_in_order(found["sources"], found["num_sources"], order)
    return found | {name: found[name][order] for name in names[:-1]}
