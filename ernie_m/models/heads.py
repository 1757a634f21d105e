"""Heads: a head is a module (states, targets) -> nll of each prediction.

A model has the heads that its objectives need (ernie_m.rows.objective.Prediction). It runs all of them in every
micro-batch, also if one has nothing to predict: under ZeRO-3 all ranks must run the same modules. A head gets the states
of the positions that it `wants`; by default these are its predicted positions. A new head is a class here, a line in HEADS,
and its size in ernie_m.models.size. The head of sentences has its own file, ernie_m.models.sentence_head.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ernie_m.base.special_tokens import Specials
from ernie_m.models.head import Head, Targets
from ernie_m.models.loss import fp32_linear, logits_at_a_time, predicted_nll
from ernie_m.models.sentence_head import SentenceHead
from ernie_m.models.shape import ModelConfig
from ernie_m.models.tied_gradient import TiedGradient
from ernie_m.rows.objective import ALIGNED, SENTENCE, TOKEN

Norm = Callable[..., nn.Module]
"""(width, eps=...) -> a layer norm."""
NEW_NORM_EPS = 1e-5


class TokenHead(Head):
    """Dense, GELU, layer norm, then the word embedding as output matrix; only at selected positions.

    The head registers the embedding's Parameter as its own, so that ZeRO-3 gathers it when the head runs.
    """

    def __init__(self, config: ModelConfig, word_embedding: nn.Parameter, norm: Norm, specials: Specials) -> None:
        super().__init__()
        num_words, width = word_embedding.shape
        self.dense = nn.Linear(config.hidden_size, width)
        self.norm = norm(width, eps=getattr(config, "layer_norm_eps", NEW_NORM_EPS))  # some backbones call it otherwise
        self.decoder_weight = word_embedding
        self.decoder_bias = nn.Parameter(torch.zeros(num_words))
        self.pieces: Sequence[tuple[int, int]] = specials.replaceable
        """What may be written, as ranges of ids, ascending."""

    def forward(self, states_ND: Tensor, targets: Targets | None = None, tied: TiedGradient | None = None) -> Tensor:
        """With targets: nll fp32 [N]. Without: the likeliest of `pieces` at each position, int32 [N]."""
        hidden_ND = self.transformed(states_ND)
        if targets is not None:
            return predicted_nll(hidden_ND, self.decoder_weight, self.decoder_bias, targets.labels_N, tied)
        return self._likeliest(hidden_ND).to(torch.int32)

    def transformed(self, states: Tensor) -> Tensor:
        """The input of the output matrix, [..., D], from states [..., D]."""
        hidden: Tensor = self.norm(F.gelu(self.dense(states)))
        return hidden

    def _likeliest(self, hidden_ND: Tensor) -> Tensor:
        """The maximum, over slices of the vocabulary: the matrix is read once, and the logits of a slice stay in the cache.

        In fp32: in bf16, with eight bits, dozens of words would be equal, and the first in the vocabulary would be taken.
        """
        width = _words_at_a_time(hidden_ND)
        best_N = hidden_ND.new_full(hidden_ND.shape[:1], -torch.inf, dtype=torch.float32)
        piece_N = torch.full_like(best_N, self.pieces[0][0], dtype=torch.long)
        slices = ((start, min(start + width, end)) for first, end in self.pieces for start in range(first, end, width))
        for start, stop in slices:
            words = slice(start, stop)
            value_N, index_N = fp32_linear(hidden_ND, self.decoder_weight[words], self.decoder_bias[words]).max(dim=-1)
            piece_N = torch.where(value_N > best_N, index_N + start, piece_N)
            best_N = torch.maximum(best_N, value_N)
        return piece_N

    def likeliest_of(self, hidden_ND: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """The `count` likeliest of `pieces` at each position, likeliest first: log probabilities and ids, [N, count] each.

        Of one alone no probability is computed; it is 0.
        """
        of_all, values, tokens = [], [], []
        never = [*zip([0, *(end for _, end in self.pieces)], [*(start for start, _ in self.pieces), None], strict=True)]
        for first, logits_NW in self.logit_slices(hidden_ND):
            if count > 1:
                of_all.append(logits_NW.logsumexp(dim=1, keepdim=True))
            for start, end in never:
                logits_NW[:, max(0, start - first) : None if end is None else max(0, end - first)] = -torch.inf
            value_NK, index_NK = logits_NW.topk(min(count, logits_NW.shape[1]), dim=1)
            values.append(value_NK)
            tokens.append(index_NK + first)
        value_NP, token_NP = torch.cat(values, dim=1), torch.cat(tokens, dim=1)
        value_NK, index_NK = value_NP.topk(min(count, value_NP.shape[1]), dim=1)
        of_all_N1 = torch.cat(of_all, dim=1).logsumexp(dim=1, keepdim=True) if of_all else value_NK
        return value_NK - of_all_N1, token_NP.gather(1, index_NK)

    def logit_slices(self, hidden_ND: Tensor) -> Iterator[tuple[int, Tensor]]:
        """Logits of slices of the vocabulary, fp32 [N, words], and the first word of each."""
        width = _words_at_a_time(hidden_ND)
        for first in range(0, len(self.decoder_weight), width):
            words = slice(first, first + width)
            yield first, fp32_linear(hidden_ND, self.decoder_weight[words], self.decoder_bias[words])

    def logits(self, hidden: Tensor) -> Tensor:
        """All logits [..., V], for tests, export checks and small inputs."""
        return F.linear(self.transformed(hidden), self.decoder_weight, self.decoder_bias)


def _words_at_a_time(hidden_ND: Tensor) -> int:
    """Words of a slice of the vocabulary whose logits are computed together."""
    return max(1, logits_at_a_time(hidden_ND.device) // max(1, len(hidden_ND)))


class AlignedHead(TokenHead):
    """A masked token is predicted from the tokens of the other sentence that it is linked with: AlignLM's bilingual head.

    arXiv 2106.01732, equations 5 to 8. With A the linked tokens, h their last states and E the word embedding:

        h~ = W2 sum of h_a over A + b2        `transfer`
        g  = norm(gelu(W3 h~ + b3))           `dense` and `norm`, not those of the token head
        nll = -log softmax(E g + b)[token]

    The head wants the states of the linked tokens, not that of the mask: the last layer computes both.
    """

    def __init__(self, config: ModelConfig, word_embedding: nn.Parameter, norm: Norm, specials: Specials) -> None:
        super().__init__(config, word_embedding, norm, specials)
        self.transfer = nn.Linear(config.hidden_size, config.hidden_size)

    def wants(self, targets: Targets) -> Tensor:
        """The sources of all its predictions. A position may be there several times."""
        return targets.positions_N[:0] if targets.sources is None else targets.sources.positions_P

    def forward(self, states: Tensor, targets: Targets | None = None, tied: TiedGradient | None = None) -> Tensor:
        """States of all sources, [P, D] -> nll of each prediction, fp32 [N]."""
        assert targets is not None
        return super().forward(self.transfer(summed_sources(states, targets)), targets, tied)


def summed_sources(states_PD: Tensor, targets: Targets) -> Tensor:
    """Sum of the states of each prediction's sources, [N, D]. The same on every run, on GPUs too, unlike index_add."""
    if targets.sources is None:
        return states_PD
    counts_N = targets.sources.counts_N.long()
    every_P = torch.arange(len(states_PD), device=states_PD.device)
    return F.embedding_bag(every_P, states_PD, counts_N.cumsum(0) - counts_N, mode="sum")


def _sentence_head(config: ModelConfig, word_embedding: nn.Parameter, norm: Norm, specials: Specials) -> SentenceHead:
    return SentenceHead(config.hidden_size, config.pooling)


MakeHead = Callable[[ModelConfig, nn.Parameter, Norm, Specials], nn.Module]
HEADS: dict[str, MakeHead] = {TOKEN: TokenHead, SENTENCE: _sentence_head, ALIGNED: AlignedHead}
"""For each name of ernie_m.rows.objective.HEADS, in that order: (shape, word embedding, norm, specials) -> head."""


def heads_for(
    names: Collection[str],
    config: ModelConfig,
    word_embedding: nn.Parameter,
    norm: Norm,
    specials: Specials,
    given: Mapping[str, nn.Module] | None = None,
) -> nn.ModuleDict:
    """The named heads, in the order of the table: `given` ones as they are, others new."""
    there = given or {}
    chosen = (name for name in HEADS if name in names)
    return nn.ModuleDict(
        {name: there[name] if name in there else HEADS[name](config, word_embedding, norm, specials) for name in chosen}
    )
