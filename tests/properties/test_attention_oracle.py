"""The dense mask of every objective against a triple loop written from the paper's figures, not from the reads tables."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from ernie_m.models.attention import build_mask
from ernie_m.rows.batch import PackedBatch
from ernie_m.rows.objective import Objective
from ernie_m.rows.objectives import BTMLM, CAMLM, CLM, MMLM, TLM

if TYPE_CHECKING:
    from conftest import BatchOf, DocumentsOf

MASK_RATE, PSEUDO_SHARE, S = 0.3, 0.2, 64  # those of conftest
ROWS = (((7, 5), (4, 9), (1, 1)), ((12, 3), (5, 5)))


@dataclass(frozen=True)
class Role:
    """What a position is: a token of the first or second sentence, a mask of one, a placeholder; -1 is padding."""

    document: int
    kind: str


def roles(objective: Objective) -> list[list[Role]]:
    """Roles of all positions from the sentence lengths alone."""
    laid_out = []
    for row in ROWS:
        roles_of_row: list[Role] = []
        for number, lengths in enumerate(row):
            kinds = ["x"] * (lengths[0] + 2)
            if objective in (TLM, CAMLM):
                kinds += ["y"] * (lengths[1] + 2)
            if objective is CAMLM:
                kinds += ["mx"] * max(1, round(lengths[0] * MASK_RATE)) + ["my"] * max(1, round(lengths[1] * MASK_RATE))
            if objective is BTMLM:
                kinds += ["p"] * max(1, round(lengths[0] * PSEUDO_SHARE))
            roles_of_row += [Role(number, kind) for kind in kinds]
        laid_out.append(roles_of_row + [Role(-1, "pad")] * (S - len(roles_of_row)))
    return laid_out


def everybody(query: str, key: str) -> bool:
    """MMLM, TLM, BTMLM stage 2: each token of a document reads each."""
    return True


def camlm(query: str, key: str) -> bool:
    """Sentences read themselves alone; a mask reads the *other* sentence and its fellow masks of the same one."""
    if query in ("x", "y"):
        return key == query
    own, other = ("x", "y") if query == "mx" else ("y", "x")
    assert own != other
    return key in (query, other)


def btmlm_stage_1(query: str, key: str) -> bool:
    """The sentence does not know of the placeholders; these read the sentence and one another."""
    return key == "x" if query == "x" else True


def oracle(laid_out: list[list[Role]], may_read: Callable[[str, str], bool], causal: bool = False) -> np.ndarray:
    mask = np.zeros((len(laid_out), 1, S, S), bool)
    for row, row_roles in enumerate(laid_out):
        for q, query in enumerate(row_roles):
            for k, key in enumerate(row_roles):
                if q == k:
                    mask[row, 0, q, k] = True
                elif query.document >= 0 and query.document == key.document and (not causal or k < q):
                    mask[row, 0, q, k] = may_read(query.kind, key.kind)
    return mask


def dense(batch: PackedBatch) -> np.ndarray:
    return np.asarray(build_mask("sdpa", batch))


@pytest.mark.parametrize(
    ("objective", "may_read"),
    [(MMLM, everybody), (TLM, everybody), (CAMLM, camlm), (BTMLM, everybody), (CLM, everybody)],
    ids=lambda value: getattr(value, "name", ""),
)
def test_every_objective_reads_as_the_figures_draw_it(
    objective: Objective, may_read: Callable[[str, str], bool], documents_of: DocumentsOf, batch_of: BatchOf
) -> None:
    batch = batch_of(objective, documents_of(objective, ROWS), S)
    expected = oracle(roles(objective), may_read, causal=objective is CLM)
    actual = dense(batch)
    assert actual.shape == expected.shape
    assert np.array_equal(actual, expected), (
        f"first difference (row, head, query, key): {np.argwhere(actual != expected)[0]}"
    )
    assert 0.02 < expected.mean() < 0.6  # neither empty nor full


def test_BTMLM_stage_1_hides_the_placeholders_from_the_sentence(documents_of: DocumentsOf, batch_of: BatchOf) -> None:
    batch = batch_of(BTMLM, documents_of(BTMLM, ROWS), S)
    stage_1 = replace(batch, input_ids_BS=batch.generation.input_ids_RS, reads_BS=batch.generation.reads_RS)
    assert batch.generation.rows_R.tolist() == [0, 1]
    expected = oracle(roles(BTMLM), btmlm_stage_1)
    assert np.array_equal(dense(stage_1), expected)
    assert not np.array_equal(dense(stage_1), dense(batch)), "the two stages must differ"


def test_padding_reads_itself_alone_and_nobody_reads_it(
    objective: Objective, documents_of: DocumentsOf, batch_of: BatchOf
) -> None:
    batch = batch_of(objective, documents_of(objective, ROWS), S)
    padding = np.asarray(batch.document_BS) == -1
    assert padding.any(axis=1).all(), "each row must have padding for this to mean something"
    mask = dense(batch)[:, 0]
    for row in range(len(mask)):
        for position in np.flatnonzero(padding[row]):
            alone = np.arange(S) == position
            assert np.array_equal(mask[row, position], alone)
            assert np.array_equal(mask[row, :, position], alone)


def test_roles_of_the_oracle_are_those_of_the_layout(documents_of: DocumentsOf, batch_of: BatchOf) -> None:
    """The oracle's guess of who is where, against ids: masks of CAMLM and BTMLM's slots hold <mask>, sentences do not."""
    for objective, masked in ((CAMLM, ("mx", "my")), (BTMLM, ("p",))):
        batch = batch_of(objective, documents_of(objective, ROWS), S)
        ids = batch.input_ids_BS if objective is CAMLM else batch.generation.input_ids_RS
        expected = torch.tensor([[role.kind in masked for role in row] for row in roles(objective)])
        assert torch.equal(ids == 100, expected)
        assert torch.equal(batch.document_BS, torch.tensor([[r.document for r in row] for row in roles(objective)]).int())
