"""Who may read whom: one predicate for every objective.

Each token carries four small integers: `document`, `group`, `reads` (a bitmask over groups) and `horizon`. Query q may
read key k iff

    q == k   or   ( document[q] == document[k]  and  (reads[q] >> group[k]) & 1  and  k <= horizon[q] )

For CAMLM on x1 x2 | y3 y4 + M2 M4 (the masks are extra tokens) this gives

             x1 x2 y3 y4 M2 M4
        x1    #  #  .  .  .  .      X  -> X
        x2    #  #  .  .  .  .
        y3    .  .  #  #  .  .      Y  -> Y
        y4    .  .  #  #  .  .
        M2    .  .  #  #  #  .      MX -> Y, MX
        M4    #  #  .  .  .  #      MY -> X, MY

The predicate uses only operators, so the same code works on numpy arrays, on torch tensors and under FlexAttention's tracer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, TypeVar

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor

Array = TypeVar("Array", np.ndarray, "Tensor")
MaskRule = Callable[[Array, "Array | None", Array, Array], Array]
"""(row, head, query, key), which broadcast together -> whether the query may read the key; no rule looks at the head."""
ReadsTable = Mapping[str, str]  # group -> the groups it reads, separated by spaces


def attention_rule(document_BS: Array, group_BS: Array, reads_BS: Array, horizon_BS: Array) -> MaskRule[Array]:
    """The rule of one micro-batch as `may_read(row, head, query, key)`, which FlexAttention takes as its `mask_mod`."""

    def may_read(row: Array, head: Array | None, query: Array, key: Array) -> Array:
        same_document = document_BS[row, query] == document_BS[row, key]
        group_is_read = ((reads_BS[row, query] >> group_BS[row, key]) & 1) == 1
        within_horizon = key <= horizon_BS[row, query]
        return (query == key) | (same_document & group_is_read & within_horizon)

    return may_read


def within_window(may_read: MaskRule[Array], position_BS: Array, window: int) -> MaskRule[Array]:
    """The rule with a sliding window: a key is read only if its position id is at most `window` from the query's.

    Position ids count inside a document. A mask shares its original's, so it reads as far as the original would.
    """

    def may_read_near(row: Array, head: Array | None, query: Array, key: Array) -> Array:
        distance = position_BS[row, query] - position_BS[row, key]
        return may_read(row, head, query, key) & (distance <= window) & (distance >= -window)

    return may_read_near


def from_part_to_part(may_read: MaskRule[Array], document_BS: Array, first_query: int, first_key: int) -> MaskRule[Array]:
    """The rule for queries and keys of two parts of the rows, each numbered from its part's first position.

    In another part padding finds not even itself. It reads the first key there: a softmax over nothing is not a number, and
    nobody reads padding.
    """

    def may_read_there(row: Array, head: Array | None, query: Array, key: Array) -> Array:
        is_read = may_read(row, head, query + first_query, key + first_key)
        if first_query == first_key:
            return is_read
        return is_read | ((document_BS[row, query + first_query] < 0) & (key == 0))

    return may_read_there


def dense_mask(may_read: MaskRule[Array], rows: Array, queries: Array, keys: Array | None = None) -> Array:
    """Evaluate the rule for all pairs: bool [B, 1, Q, K], from arange(B), arange(Q), arange(K); `keys` None: `queries`."""
    row = rows[:, None, None, None]
    query = queries[None, None, :, None]
    key = (queries if keys is None else keys)[None, None, None, :]
    return may_read(row, None, query, key)


def group_bits(groups: Iterable[str], table: ReadsTable) -> dict[str, int]:
    """Each group's `reads` bitmask; bit i stands for the i-th of `groups`."""
    index = {group: i for i, group in enumerate(groups)}
    return {group: sum(1 << index[read] for read in table[group].split()) for group in index}


def closure(table: ReadsTable) -> dict[str, set[str]]:
    """Groups whose content can reach each group through any number of layers (itself included: q == k)."""
    reached = {group: {group, *reads.split()} for group, reads in table.items()}
    while True:
        wider = {group: set().union(*(reached[other] for other in others)) for group, others in reached.items()}
        if wider == reached:
            return reached
        reached = wider


def check_no_leak(name: str, table: ReadsTable, must_not_reach: Iterable[tuple[str, str]]) -> None:
    """Raise ValueError if a group's content arrives, over any number of layers, where it must not.

    `must_not_reach` holds (reader, forbidden) pairs, e.g. ("MX", "X"): a mask of X must not learn anything about X. Horizons
    are ignored: the check counts what a horizon hides as readable.
    """
    reached = closure(table)
    for reader, forbidden in must_not_reach:
        if forbidden in reached[reader]:
            raise ValueError(
                f"{name}: {forbidden} reaches {reader} through {dict(table)}; a mask would see its answer. "
                f"Let neither {reader} nor any group whose content reaches it read {forbidden}"
            )
