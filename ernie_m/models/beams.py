"""Translation by beam search, each token computed once.

1. The sources of a batch are encoded. Attention across reads the keys and values of a source once for all of its beams.
2. A step writes one token behind every beam. Of all continuations of a sentence's beams the best stay, as many as it has
   beams; those that end with the end token are finished, and each makes the search of its sentence one beam narrower.
3. Of the finished ones that with the best score is the target: the sum of its tokens' log probabilities, divided by their
   number (the end token is one) to the power of `length_penalty`. With 1 it is XLM's. One beam is greedy decoding.
4. A beam that is at its longest is finished as it is. A sentence has ended when it has no beam left, or none that can still
   win. Sentences that have ended leave the batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ernie_m.models.decoding import Order, Translates, begun, first_token, ordered
from ernie_m.models.past import Grid
from ernie_m.models.pretraining import without_training

LEAVING = 0.25
"""Share of the sentences that must have ended before they leave the batch, which copies what the others remember."""


@dataclass(frozen=True)
class Search:
    """`beams`: how many, 1 is greedy. `length_penalty`: exponent of a target's length; 0 takes the sum as it is."""

    beams: int = 1
    length_penalty: float = 1.0


def searched(
    model: Translates, sources: Sequence[np.ndarray], languages: tuple[int, int], limits: Sequence[int], search: Search
) -> list[np.ndarray]:
    """Targets of these sources, int32 ids without special tokens; all sources in one batch.

    `languages`: of sources and of targets. `limits`: most tokens of each target.
    """
    with without_training(model), torch.inference_mode():
        beams = _Beams(model, ordered(model, sources, languages, [*limits]), search)
        while beams.step():
            pass
    return [
        ids[:length].astype(np.int32)
        for ids, length in zip(beams.best_BT.cpu().numpy(), beams.length_B.tolist(), strict=True)
    ]


class _Beams:
    """The beams of the sentences that have not ended: B of them, K beams each.

    `sums_BK`: of log probabilities, -inf where there is no beam. `room_B`: beams that a sentence still has. With one beam
    there is nothing to compare, so its sum stays 0.
    """

    def __init__(self, model: Translates, order: Order, search: Search) -> None:
        self.model, self.search = model, search
        B, K, device = len(order.ids_BS), search.beams, order.ids_BS.device
        self.past = begun(model, order, K)
        self.sums_BK = torch.full((B, K), -torch.inf, device=device)
        self.sums_BK[:, 0] = 0
        self.room_B = torch.full((B,), K, device=device)
        self.token_BK = torch.full((B, K), first_token(model.specials), device=device)
        self.past.add(self.token_BK)
        self.limit_B, self.to_B, self.place = order.limit_B, order.to_B, 0
        self.number_B = torch.arange(B, device=device)
        """Which of the sources each sentence is; what follows is of all sources."""
        self.best_BT = torch.zeros(B, 1 + order.longest, dtype=torch.long, device=device)
        self.length_B = torch.zeros(B, dtype=torch.long, device=device)
        self.score_B = torch.full((B,), -torch.inf, device=device)

    def step(self) -> bool:
        """Write one more token; False if all sentences have ended."""
        self._finish_longest()
        if not self._drop_ended():
            return False
        value_BK, parent_BK, token_BK = self._continuations()
        ranks_K = torch.arange(self.search.beams, device=value_BK.device)
        stays_BK = (ranks_K < self.room_B[:, None]) & (value_BK > -torch.inf)
        ends_BK = stays_BK & (token_BK == self.model.specials.end)
        has_ended_B, first_B = ends_BK.any(dim=1), ends_BK.int().argmax(dim=1)  # of one length: the first is the best
        self._finish(has_ended_B, value_BK.gather(1, first_B[:, None])[:, 0], parent_BK.gather(1, first_B[:, None])[:, 0], 1)
        self.room_B = self.room_B - ends_BK.sum(dim=1)
        self.sums_BK = value_BK.masked_fill(~stays_BK | ends_BK, -torch.inf)
        if self.search.beams > 1:
            self.past.follow(parent_BK)
            self.past.let_go(self.sums_BK > -torch.inf)
        self.token_BK = token_BK
        self.past.add(token_BK)
        self.place += 1
        return True

    def _continuations(self) -> tuple[Tensor, Tensor, Tensor]:
        """The K best continuations of each sentence's beams, best first: sums, which beam goes on, and its next token."""
        (B, K), grid = self.token_BK.shape, Grid.of(self.sums_BK > -torch.inf)
        token_R, language_R = grid.rows(self.token_BK), grid.rows(self.to_B[:, None].expand(B, K))
        position_R = torch.full_like(token_R, self.model.specials.first_position + self.place)
        head, states_RD = self.model.token_head, self.model.stepped(token_R, position_R, language_R, grid, self.past)
        value_RK, token_RK = head.likeliest_of(head.transformed(states_RD), K)
        value_RK = value_RK + grid.rows(self.sums_BK)[:, None]
        value_BN, token_BN = (grid.places(x, y).view(B, -1) for x, y in ((value_RK, -torch.inf), (token_RK, 0)))
        value_BK, index_BK = value_BN.topk(K, dim=1)
        return value_BK, index_BK // value_RK.shape[1], token_BN.gather(1, index_BK)

    def _finish(self, is_finished_B: Tensor, sum_B: Tensor, beam_B: Tensor, more: int) -> None:
        """Those sentences have a finished beam; it is the target if none before it scores better. `more`: the end token."""
        score_B = sum_B / max(1, self.place + more) ** self.search.length_penalty
        better_N = (is_finished_B & (score_B > self.score_B[self.number_B])).nonzero()[:, 0]
        if not len(better_N):
            return
        number_N = self.number_B[better_N]
        self.score_B[number_N] = score_B[better_N]
        self.length_B[number_N] = self.place
        self.best_BT[number_N, : self.place] = self.past.written(better_N, beam_B[better_N], self.place)

    def _finish_longest(self) -> None:
        """Sentences at their longest length: their best beam is finished as it is."""
        is_longest_B = self.limit_B <= self.place
        sum_B, beam_B = self.sums_BK.max(dim=1)
        self._finish(is_longest_B & (sum_B > -torch.inf), sum_B, beam_B, 0)
        self.room_B = self.room_B.masked_fill(is_longest_B, 0)

    def _drop_ended(self) -> bool:
        """Close beams that cannot win any more; let sentences go that have none left, when they are enough.

        A sum never rises, and no target is longer than its limit. Whether any sentence goes on.
        """
        sum_B = self.sums_BK.amax(dim=1)
        can_win_B = sum_B / self.limit_B.clamp(min=1) ** self.search.length_penalty > self.score_B[self.number_B]
        goes_on_B = (self.room_B > 0) & can_win_B
        count, B = int(goes_on_B.sum()), len(goes_on_B)
        self.sums_BK = self.sums_BK.masked_fill(~goes_on_B[:, None], -torch.inf)
        if count and B - count >= LEAVING * B:
            kept_N = goes_on_B.nonzero()[:, 0]
            self.past.keep_sources(kept_N)
            for name in ("sums_BK", "room_B", "token_BK", "limit_B", "to_B", "number_B"):
                setattr(self, name, getattr(self, name)[kept_N])
        return count > 0
