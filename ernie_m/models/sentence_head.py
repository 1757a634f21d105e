"""The sentence head: which of the row's sentences is the translation of this one?

1. A sentence becomes a vector: its first token's state through a projection (InfoXLM, arXiv 2007.07834, section 3.3), or,
   with `pooling`, that state itself or the mean over its tokens. Train a sentence encoder with the pooling that it is used
   with: a part of what is learnt through a projection stays in the projection.
2. A score is the cosine of two vectors / TEMPERATURE. The candidates are the row's other sentences, in both languages. So
   the result does not depend on ranks or micro-batches, and there is no queue of old states (InfoXLM has one of 131,072).
3. If another pair of the row has a sentence in common with this pair, its sentences are no candidates: they are also
   translations of it, or the same text again, and would be pushed away from it.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ernie_m.models.head import Head, Targets
from ernie_m.models.shape import Pooling
from ernie_m.models.tied_gradient import TiedGradient
from ernie_m.rows.batch import PackedBatch

POSITION_BITS = 20
"""Of a position id, beside a token id in one number; rows have fewer positions than that."""


class SentenceHead(Head):
    """The contrast of a sentence's translation with all others of its row. Without `pooling` it has a projection."""

    TEMPERATURE = 0.05

    def __init__(self, width: int, pooling: Pooling | None = None) -> None:
        super().__init__()
        self.pooling = pooling
        self.projection = nn.Linear(width, width) if pooling is None else nn.Identity()

    def wants(self, targets: Targets) -> Tensor:
        """First tokens, or all positions of the micro-batch where states are averaged. Nothing where nothing is asked."""
        if self.pooling != "mean" or not len(targets.positions_N):
            return targets.positions_N
        assert targets.batch is not None
        return torch.arange(targets.batch.input_ids_BS.numel(), device=targets.positions_N.device)

    def forward(self, states: Tensor, targets: Targets | None = None, tied: TiedGradient | None = None) -> Tensor:
        """-log p(translation) of each sentence, fp32 [N]. A label is the distance to the translation's first token."""
        assert targets is not None
        is_mean = self.pooling == "mean" and len(targets.positions_N) > 0
        vectors_ND = self.projection(_mean_states(states, targets) if is_mean else states)
        vectors_ND = F.normalize(vectors_ND.to(torch.promote_types(vectors_ND.dtype, torch.float32)), dim=-1)
        positions_N = targets.positions_N.long()
        rows_N, partners_N = positions_N // targets.row_length, positions_N + targets.labels_N.long()
        is_partner_NN = positions_N[None, :] == partners_N[:, None]
        is_candidate_NN = rows_N[None, :] == rows_N[:, None]
        is_candidate_NN = is_candidate_NN & (positions_N[None, :] != positions_N[:, None])
        if targets.batch is not None:
            is_candidate_NN = is_candidate_NN & (is_partner_NN | ~shares_a_sentence(targets, is_partner_NN))
        scores_NN = (vectors_ND @ vectors_ND.t()) / self.TEMPERATURE
        scores_NN = scores_NN.masked_fill(~is_candidate_NN, torch.finfo(scores_NN.dtype).min)
        return scores_NN.logsumexp(-1) - (scores_NN * is_partner_NN).sum(-1)


def shares_a_sentence(targets: Targets, is_partner_NN: Tensor) -> Tensor:
    """Whether two sentences' pairs have a sentence in common, the same tokens, on either side: bool [N, N]."""
    assert targets.batch is not None
    own_N = sentence_keys(targets.positions_N, targets.batch)
    partner_N = (own_N[None, :] * is_partner_NN).sum(-1)
    sides = (own_N, partner_N)
    alike = [ours[:, None] == theirs[None, :] for ours in sides for theirs in sides]
    return torch.stack(alike).any(dim=0)


def tokens_of_sentences(positions_N: Tensor, batch: PackedBatch[Tensor]) -> Tensor:
    """Which positions belong to the sentence that begins at each of `positions_N`: bool [N, B x S].

    They are those of its row with the same document and group.
    """
    document_P, group_P = batch.document_BS.flatten(), batch.group_BS.flatten()
    row_P = torch.arange(len(document_P), device=document_P.device) // batch.document_BS.shape[1]
    first_N = positions_N.long()
    same = [of_P[None, :] == of_P[first_N][:, None] for of_P in (row_P, document_P, group_P)]
    return same[0] & same[1] & same[2]


def _mean_states(states_PD: Tensor, targets: Targets) -> Tensor:
    """Mean state of each sentence, its special tokens included: fp32 [N, D]. A product, which is the same on every run."""
    assert targets.batch is not None
    wide = torch.promote_types(states_PD.dtype, torch.float32)
    belongs_NP = tokens_of_sentences(targets.positions_N, targets.batch).to(wide)
    return (belongs_NP @ states_PD.to(wide)) / belongs_NP.sum(-1, keepdim=True)


def sentence_keys(positions_N: Tensor, batch: PackedBatch[Tensor]) -> Tensor:
    """A number of 64 bits for each sentence, int64 [N]: the same for the same tokens, else another (but once in 10^19)."""
    token_P = (batch.input_ids_BS.flatten().long() << POSITION_BITS) + batch.position_ids_BS.flatten().long()
    before = F.pad(_mixed(token_P).cumsum(0), (1, 0))  # modulo 2^64, so differences are exact
    first_N = positions_N.long()
    behind_N = first_N + tokens_of_sentences(positions_N, batch).sum(-1)
    return before[behind_N] - before[first_N]


def _mixed(number: Tensor) -> Tensor:
    """splitmix64's last steps, modulo 2^64: neighbours become numbers without anything in common."""
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB), (31, 1)):
        number = (number ^ ((number >> shift) & ((1 << (64 - shift)) - 1))) * (factor - (factor >> 63 << 64))
    return number
